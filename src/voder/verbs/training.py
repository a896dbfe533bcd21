"""Training: train."""

import argparse
import os
import shlex
from pathlib import Path
from typing import Any

from voder import exits
from voder.config import nearest, read_yaml, resolve, to_yaml
from voder.errors import ConfigError


def run_train(args: argparse.Namespace, command: list[str]) -> int:
    """Train, or go on training."""
    from voder import hub

    name, _, preset = args.system.partition("/")
    system = hub.find(name)
    if preset and args.preset and preset != args.preset:
        raise ConfigError(f"two presets were given, {preset} and {args.preset}; give one")
    chosen = args.preset or preset or system.default_preset
    default = system.preset(chosen)
    file = Path(args.config) if args.config else None
    options = {"loop.steps": args.steps, "loop.minutes": args.minutes, "loop.precision": args.precision}
    overrides = _stage_settings(system, args.stage, chosen)
    overrides += [f"{key}={value}" for key, value in options.items() if value is not None] + args.overrides
    if args.start:
        _refuse_model_settings(args.overrides, file)
    config = resolve(default, file=file, overrides=overrides)
    if args.dry_run:
        from voder.evaluate.plan import describe

        print(describe(system, config, preset=chosen, stage_name=args.stage))
        return 0
    if args.print_config:
        print(to_yaml(config), end="")
        return 0
    if not args.data or not args.output:
        raise ConfigError("voder train needs --data DIR and -o RUN (see `voder train --help`)")
    if args.stage and not system.stages[args.stage].runs:
        raise ConfigError(
            f"stage {args.stage} of {name} can be planned (--dry-run) but not trained here; choose another"
        )
    return _train(args, name, config, shlex.join(["voder", *command]))


MADE_HERE = ("tiny", "small", "demo")
"""Presets with schedules of their own; those of published sizes take a stage's published settings."""


def _stage_settings(system: Any, stage: str | None, preset: str) -> list[str]:
    if stage is None:
        return []
    if stage not in system.stages:
        known = nearest(stage, list(system.stages)) if system.stages else "; it has one stage only, leave --stage out"
        raise ConfigError(f"{system.name} has no stage {stage!r}{known}")
    value = system.stages[stage]
    published = () if preset in MADE_HERE else value.settings
    return [*published, *value.task_settings]


def _train(args: argparse.Namespace, system: str, config: Any, command: str) -> int:
    import torch

    from voder.train.run import RunRequest, train

    if args.threads:
        torch.set_num_threads(args.threads)
    output = Path(args.output)
    state = train(
        RunRequest(
            system=system,
            config=config,
            data=Path(args.data),
            output=output,
            seed=args.seed,
            device=args.device,
            start=Path(args.start) if args.start else None,
            fresh=args.fresh,
            command=command,
        )
    )
    if state.stop_reason == "interrupted":
        return exits.INTERRUPTED
    best = "" if state.best_step is None else f", best at step {state.best_step}"
    if os.environ.get("RANK", "0") == "0":  # of several processes one speaks
        print(f"{output}: step {state.step} of {state.steps}{best}")
    return 0


def _refuse_model_settings(overrides: list[str], file: Path | None) -> None:
    """With --from the checkpoint decides what the model is; a setting that cannot act is refused."""
    named = [override for override in overrides if override.lstrip("-").startswith("model")]
    if file is not None and "model" in read_yaml(file):
        named.append(f"model in {file}")
    if named:
        raise ConfigError(f"{named[0]} cannot act with --from: the model's settings come from the checkpoint")
