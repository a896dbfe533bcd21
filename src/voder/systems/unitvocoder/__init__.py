"""Unit CodeHiFiGAN: discrete units to audio. See the README beside this file."""

from voder import hub
from voder.systems.unitvocoder.config import PRESETS, VocoderConfig, VocoderTaskConfig
from voder.systems.unitvocoder.model import UnitVocoder
from voder.systems.unitvocoder.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.unitvocoder.train import VocoderTask

    return VocoderTask


SYSTEM = hub.System(
    name="unitvocoder",
    model_config=VocoderConfig,
    build=UnitVocoder,
    task_config=VocoderTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="base",
    roles=("Generator",),
    trains_on="tokens",
    stages=STAGES,
    anatomy=anatomy,
)
