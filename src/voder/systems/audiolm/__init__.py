"""AudioLM: a language modeling approach to audio generation (2209.03143)."""

from voder.hub import System
from voder.systems.audiolm.config import PRESETS, AudioLmConfig, AudioLmTaskConfig
from voder.systems.audiolm.infer import load_continuer
from voder.systems.audiolm.model import AudioLm
from voder.systems.audiolm.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.audiolm.train import AudioLmTask

    return AudioLmTask


SYSTEM = System(
    name="audiolm",
    model_config=AudioLmConfig,
    build=AudioLm,
    task_config=AudioLmTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Continuer",),
    trains_on="tokens and units",
    verbs=load_continuer,
    stages=STAGES,
    anatomy=anatomy,
)
