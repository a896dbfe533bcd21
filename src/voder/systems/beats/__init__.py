"""BEATs (2212.09058): sounds to features, and to classes. See the README beside this file."""

from collections.abc import Mapping
from typing import Any

from torch import Tensor

from voder import hub
from voder.systems.beats.config import PRESETS, BeatsConfig, BeatsTaskConfig
from voder.systems.beats.model import Beats
from voder.systems.beats.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.beats.train import BeatsTask

    return BeatsTask


def _original(cfg: Mapping[str, Any], state: Mapping[str, Tensor]) -> Beats:
    from voder.systems.beats.convert import from_original

    return from_original(cfg, state, "the original's weights")


SYSTEM = hub.System(
    name="beats",
    model_config=BeatsConfig,
    build=Beats,
    task_config=BeatsTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="base",
    roles=("Encoder",),
    original=_original,
    stages=STAGES,
    anatomy=anatomy,
)
