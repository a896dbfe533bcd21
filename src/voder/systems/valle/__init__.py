"""VALL-E: text to speech as codec language modelling (2301.02111)."""

from voder.hub import System
from voder.systems.valle.config import PRESETS, ValleConfig, ValleTaskConfig
from voder.systems.valle.infer import load_speaker
from voder.systems.valle.model import build
from voder.systems.valle.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.valle.train import ValleTask

    return ValleTask


SYSTEM = System(
    name="valle",
    model_config=ValleConfig,
    build=build,
    task_config=ValleTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Speaker",),
    trains_on="tokens",
    verbs=load_speaker,
    stages=STAGES,
    anatomy=anatomy,
)
