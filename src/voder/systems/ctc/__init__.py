"""Recogniser with connectionist temporal classification. See the README beside this file."""

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.ctc.config import PRESETS, CtcConfig, CtcTaskConfig
from voder.systems.ctc.model import CtcModel
from voder.systems.ctc.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.ctc.train import CtcTask

    return CtcTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.ctc.infer import CtcTranscriber

    assert isinstance(model, CtcModel)
    return CtcTranscriber(model)


SYSTEM = hub.System(
    name="ctc",
    model_config=CtcConfig,
    build=CtcModel,
    task_config=CtcTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Transcriber",),
    verbs=_verbs,
    stages=STAGES,
    anatomy=anatomy,
)
