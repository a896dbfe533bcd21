"""NExT-GPT (2309.05519): conversations with media in and out. See the README beside this file."""

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.nextgpt.config import PRESETS, NextGptConfig, NextGptTaskConfig
from voder.systems.nextgpt.model import NextGpt
from voder.systems.nextgpt.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.nextgpt.train import NextGptTask

    return NextGptTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.nextgpt.infer import load_chatter

    assert isinstance(model, NextGpt)
    return load_chatter(model, found)


SYSTEM = hub.System(
    name="nextgpt",
    model_config=NextGptConfig,
    build=NextGpt,
    task_config=NextGptTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Chatter",),
    verbs=_verbs,
    stages=STAGES,
    anatomy=anatomy,
)
