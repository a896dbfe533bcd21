"""A language model of text: Hugging Face's causal networks as checkpoints of ours. See the README beside this file."""

from collections.abc import Mapping

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.lm.config import PRESETS, LmConfig, LmTaskConfig
from voder.systems.lm.model import LmModel


def _task() -> type:
    from voder.systems.lm.train import LmTask

    return LmTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.lm.infer import load_text_lm

    assert isinstance(model, LmModel)
    return load_text_lm(model, found)


def _anatomy(config: LmConfig) -> Mapping[str, str]:
    sizes = config.network
    lora = "" if config.lora is None else f", LoRA of rank {config.lora.rank}"
    said = f"{sizes.family}, {sizes.num_layers} layers of {sizes.width}, {sizes.vocabulary_size} ids{lora}"
    return {"language model": said}


SYSTEM = hub.System(
    name="lm",
    model_config=LmConfig,
    build=LmModel,
    task_config=LmTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("LanguageModel",),
    verbs=_verbs,
    anatomy=_anatomy,
)
