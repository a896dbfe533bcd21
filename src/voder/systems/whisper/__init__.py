"""Whisper (2212.04356): speech recognition and translation in 99 languages. See the README beside this file."""

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.whisper.config import PRESETS, WhisperConfig, WhisperTaskConfig
from voder.systems.whisper.model import WhisperModel
from voder.systems.whisper.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.whisper.train import WhisperTask

    return WhisperTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.whisper.infer import WhisperTranscriber

    assert isinstance(model, WhisperModel)
    return WhisperTranscriber(model)


SYSTEM = hub.System(
    name="whisper",
    model_config=WhisperConfig,
    build=WhisperModel,
    task_config=WhisperTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="base",
    roles=("Transcriber", "Translator", "Encoder"),
    verbs=_verbs,
    stages=STAGES,
    anatomy=anatomy,
)
