"""Boosting large language models for speech synthesis: three ways to let one speak (2401.00246)."""

from torch import nn

from voder.checkpoint import Checkpoint
from voder.hub import System
from voder.systems.llmtts.config import PRESETS, LlmTtsConfig, LlmTtsTaskConfig
from voder.systems.llmtts.model import LlmTts
from voder.systems.llmtts.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.llmtts.train import LlmTtsTask

    return LlmTtsTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.llmtts.infer import load_speaker

    return load_speaker(model, found)


SYSTEM = System(
    name="llmtts",
    model_config=LlmTtsConfig,
    build=LlmTts,
    task_config=LlmTtsTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Speaker",),
    trains_on="tokens",
    verbs=_verbs,
    stages=STAGES,
    anatomy=anatomy,
)
