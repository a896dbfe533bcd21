"""Spectral codec: log-mels in, residual vector quantizer, inverse STFT out. See the README beside this file."""

from voder import hub
from voder.systems.spectral.config import PRESETS, SpectralConfig, SpectralTaskConfig
from voder.systems.spectral.model import SpectralCodec
from voder.systems.spectral.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.spectral.train import SpectralTask

    return SpectralTask


SYSTEM = hub.System(
    name="spectral",
    model_config=SpectralConfig,
    build=SpectralCodec,
    task_config=SpectralTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Codec",),
    stages=STAGES,
    anatomy=anatomy,
)
