"""Pengi (2305.11834): answers in text about recordings. See the README beside this file."""

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.pengi.config import PRESETS, PengiConfig, PengiTaskConfig
from voder.systems.pengi.model import Pengi
from voder.systems.pengi.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.pengi.train import PengiTask

    return PengiTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.pengi.infer import load_listener

    assert isinstance(model, Pengi)
    return load_listener(model, found)


SYSTEM = hub.System(
    name="pengi",
    model_config=PengiConfig,
    build=Pengi,
    task_config=PengiTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Listener",),
    verbs=_verbs,
    stages=STAGES,
    anatomy=anatomy,
)
