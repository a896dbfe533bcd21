"""What each verb of the command line does: the options in, the library called, the result printed.

Everything heavy is imported by the verb that needs it. Each function returns the exit code.
"""

import argparse
import contextlib
import json
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voder import exits
from voder.config import nearest, read_yaml, resolve, to_yaml
from voder.errors import ConfigError, InputError


def _note(text: str) -> None:
    print(f"voder: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def _machine(args: argparse.Namespace) -> Iterator[Any]:
    """The device that was asked for, with threads and precision set while the verb works."""
    import torch

    from voder.devices import autocast, check_precision, resolve_device

    device = resolve_device(args.device)
    check_precision(device, args.precision)
    threads = torch.get_num_threads()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        with torch.no_grad(), autocast(device, args.precision):
            yield device
    finally:
        torch.set_num_threads(threads)


def run_prepare(args: argparse.Namespace, command: list[str]) -> int:
    """Check and split a corpus."""
    from voder.corpus.prepare import prepare_corpus

    report = prepare_corpus(
        args.folder,
        args.output,
        strict=args.strict,
        seed=args.seed,
        valid_fraction=args.valid,
        test_fraction=args.test,
        require_text=args.require_text,
        language=args.language,
        licence=args.licence,
        source=args.source,
        workers=args.workers,
    )
    print(report.summary())
    return 0


def run_train(args: argparse.Namespace, command: list[str]) -> int:
    """Train, or go on training."""
    from voder import hub

    name, _, preset = args.system.partition("/")
    system = hub.find(name)
    if preset and args.preset and preset != args.preset:
        raise ConfigError(f"two presets were given, {preset} and {args.preset}; give one")
    default = system.preset(args.preset or preset or system.default_preset)
    file = Path(args.config) if args.config else None
    options = {"loop.steps": args.steps, "loop.minutes": args.minutes, "loop.precision": args.precision}
    overrides = [f"{key}={value}" for key, value in options.items() if value is not None] + args.overrides
    if args.start:
        _refuse_model_settings(args.overrides, file)
    config = resolve(default, file=file, overrides=overrides)
    if args.print_config:
        print(to_yaml(config), end="")
        return 0
    if not args.data or not args.output:
        raise ConfigError("voder train needs --data DIR and -o RUN (see `voder train --help`)")
    return _train(args, name, config, shlex.join(["voder", *command]))


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


def run_tokenize(args: argparse.Namespace, command: list[str]) -> int:
    """Turn recordings into tokens."""
    from voder import hub
    from voder.corpus.tokenize import tokenize_corpus

    with _machine(args) as device:
        folder = hub.locate(args.tokenizer)
        codec = hub.load_codec(folder, device=device)
        report = tokenize_corpus(
            args.data,
            codec,
            folder,
            args.output,
            device=device,
            num_codebooks=args.num_codebooks,
            strict=args.strict,
        )
    print(report.summary())
    return 0


def run_say(args: argparse.Namespace, command: list[str]) -> int:
    """Say a text and write it to a file."""
    from voder import hub
    from voder.audio.io import check_writable_name, write_audio

    output = Path(args.output)
    check_writable_name(output)  # before minutes of work
    sampling = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    if args.greedy and sampling:
        raise ConfigError(f"--greedy leaves nothing for {', '.join(sampling)} to choose; give one or the other")
    with _machine(args) as device:
        speaker = hub.load_role(args.model, "Speaker", device=device)
        speech = speaker.say(
            args.text,
            voice=_voice(args.voice, speaker.speakers),
            voice_text=args.voice_text,
            seed=args.seed,
            **({"greedy": True} if args.greedy else sampling),
        )
    write_audio(output, speech.clip, synthetic=True)
    print(f"{output}: {speech.clip.duration_s:.2f} s")
    if speech.truncated:
        _note(f"{output} is cut short: the longest length was reached before the text ended ({speech.stop_reason})")
        return exits.PARTIAL
    return 0


def _voice(voice: str | None, speakers: tuple[str, ...]) -> str | Path | None:
    if voice is None or voice in speakers:
        return voice
    if Path(voice).exists():
        return Path(voice)
    known = nearest(voice, speakers) if speakers else "; this model knows no speakers by name"
    raise InputError(f"--voice {voice} is neither a file nor a speaker of this model{known}")


def run_transcribe(args: argparse.Namespace, command: list[str]) -> int:
    """Write down what is said in recordings; a bad file is named and the others are done."""
    from voder import hub

    statuses = {0}
    with _machine(args) as device:
        transcriber = hub.load_role(args.model, "Transcriber", device=device)
        for file in args.files:
            try:
                transcript = transcriber.transcribe(Path(file))
            except InputError as error:
                if len(args.files) == 1:
                    raise
                _note(str(error))
                statuses.add(exits.USER)
                continue
            print(_shown(file, transcript, args), flush=True)
            if transcript.truncated:
                _note(f"{file}: only {transcript.heard_s:.2f} s were transcribed ({transcript.stop_reason})")
                statuses.add(exits.PARTIAL)
    return exits.USER if exits.USER in statuses else max(statuses)


def _shown(file: str, transcript: Any, args: argparse.Namespace) -> str:
    if args.format == "json":
        return json.dumps({"file": file, **vars(transcript)}, ensure_ascii=False)
    return f"{file}: {transcript.text}" if len(args.files) > 1 else transcript.text


def run_eval(args: argparse.Namespace, command: list[str]) -> int:
    """Measure a model."""
    from voder.evaluate.run import EvaluationRequest, evaluate

    with _machine(args) as device:
        figures, page = evaluate(
            EvaluationRequest(
                model=args.model,
                data=Path(args.data),
                split=args.split,
                judge=args.judge,
                limit=args.limit,
                seed=args.seed,
                output=Path(args.output) if args.output else None,
                device=device,
                command=shlex.join(["voder", *command]),
            ),
            say=_note,
        )
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        beside = "" if figure.originals is None else f"   (originals {figure.shown(figure.originals)})"
        count = "" if figure.n is None else f"   n {figure.n}"
        print(f"{figure.name:<{width}}  {figure.shown()}{count}{beside}")
    if page is not None:
        print(page)
    return 0


def run_demo(args: argparse.Namespace, command: list[str]) -> int:
    """The main job on bundled recordings."""
    from voder.demo.run import run_demo as demo

    page = demo(
        Path(args.output),
        from_scratch=args.from_scratch,
        fresh=args.fresh,
        seed=args.seed,
        second_judge=args.second_judge,
        command=shlex.join(["voder", *command]),
    )
    print(page)
    return 0


def run_list(args: argparse.Namespace, command: list[str]) -> int:
    """Show what there is."""
    from voder.systems import SYSTEMS

    if args.system:
        return _list_system(args.system)
    width = max(map(len, SYSTEMS))
    for name, line in SYSTEMS.items():
        print(f"{name:<{width}}  {line}")
    bundled = Path(__file__).parent / "bundled"
    found = sorted(str(path.parent.relative_to(bundled)) for path in bundled.glob("*/*/config.json"))
    print(f"\nbundled checkpoints: {', '.join(found) or 'none'}")
    print("`voder list SYSTEM` shows presets and settings")
    return 0


def _list_system(name: str) -> int:
    from voder import hub
    from voder.systems import SYSTEMS

    system = hub.find(name)
    print(f"{name}: {SYSTEMS[name]}\nroles: {', '.join(system.roles)}")
    for preset in system.presets:
        parameters = sum(p.numel() for p in hub.build(f"{name}/{preset}").parameters())
        default = ", the default" if preset == system.default_preset else ""
        print(f"  {name}/{preset}  {parameters:,} parameters{default}")
    print(f"\nsettings of {name}/{system.default_preset}:\n")
    print(to_yaml(system.preset(system.default_preset)), end="")
    return 0


def run_doctor(args: argparse.Namespace, command: list[str]) -> int:
    """Describe the installation."""
    from voder.evaluate.doctor import describe, examine

    facts = examine()
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else describe(facts))
    return 0


def run_verify(args: argparse.Namespace, command: list[str]) -> int:
    """Check reference vectors, or the equalities of one system or all."""
    if args.fixtures:
        from voder.evaluate.verify import runners, verify_fixtures

        kinds = {kind: run for kind, run in runners().items() if args.system in (None, kind.partition("/")[0])}
        if not kinds:
            raise ConfigError(f"{args.system} runs no reference vectors; leave it out to run those of all systems")
        result = verify_fixtures(Path(args.fixtures), kinds=kinds)
        result.print(sys.stdout)
        return exits.FAILED if result.count("fail") else 0
    return _verify_equalities(args)


def _verify_equalities(args: argparse.Namespace) -> int:
    import tempfile

    from voder import hub
    from voder.evaluate.equalities import Bench, check, tiny_presets
    from voder.systems import SYSTEMS

    if args.system:
        hub.find(args.system.partition("/")[0])
    names = [args.system] if args.system else tiny_presets(SYSTEMS)
    print(f"{'system':<16} {'equality':<30} {'largest':>9} {'tolerated':>9}")
    results = []
    with tempfile.TemporaryDirectory(prefix="voder-verify-") as folder:
        bench = Bench(Path(folder), seed=args.seed)
        for name in names:
            for equality in check(name, bench):
                results.append(equality.holds)
                numbers = f"{equality.difference:>9.2g} {equality.tolerance:>9.2g}"
                print(f"{name:<16} {equality.name:<30} {numbers}  {'pass' if equality.holds else 'FAIL'}", flush=True)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else exits.FAILED
