"""The stages of a paper as values: what learns, what stays, where it starts, on what, with which settings.

A system lists its stages in `SYSTEM.stages`. `voder train SYSTEM --stage NAME` lays `Stage.settings` over the preset;
the task then freezes all but `Stage.trained`. `--dry-run` prints the plan without building a weight.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from fnmatch import fnmatchcase

from torch import nn

from voder.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One stage of training as its paper describes it."""

    summary: str
    """What it is for, in one line."""
    section: str
    """Where the paper describes it."""
    trained: tuple[str, ...] = ("",)
    """Prefixes of the parameter names that learn ('' is all, `*` any stretch: `lm.*.lora_`); all others are frozen."""
    starts_from: tuple[str, ...] = ()
    """What is loaded before: published weights, or `stage NAME`."""
    data: str
    """Data sets, and the format they are read from."""
    losses: Mapping[str, float] = field(default_factory=dict)
    """Losses and their weights."""
    settings: tuple[str, ...] = ()
    """Dotted settings as published (`loop.steps=30000`), for presets of published size; not for `tiny` and `small`."""
    task_settings: tuple[str, ...] = ()
    """Dotted settings that make any preset train this stage (`task.stage=align`)."""
    recalled: tuple[str, ...] = ()
    """Settings above, or phrases, that are remembered rather than read from a paper or its code."""
    runs: bool = True
    """False where the objective is not built here: `--dry-run` shows the plan, and training is refused."""


def freeze_all_but(model: nn.Module, prefixes: tuple[str, ...]) -> None:
    """Freeze every parameter whose name starts with none of `prefixes`, in which `*` stands for any stretch.

    Raises:
        ConfigError: a prefix that no parameter has.
    """
    names = [name for name, _ in model.named_parameters()]
    for prefix in prefixes:
        if not any(learns(name, (prefix,)) for name in names):
            raise ConfigError(f"no parameter begins with {prefix!r}; they begin with {', '.join(_heads(names))}")
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(learns(name, prefixes))


def learns(name: str, prefixes: tuple[str, ...]) -> bool:
    """Whether a parameter of this name is one that `prefixes` (as in `Stage.trained`) let learn."""
    return any(fnmatchcase(name, f"{prefix}*") for prefix in prefixes)


def _heads(names: list[str]) -> list[str]:
    return sorted({name.partition(".")[0] for name in names})
