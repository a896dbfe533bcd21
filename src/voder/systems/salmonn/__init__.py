"""SALMONN (2310.13289): a language model that hears. See the README beside this file."""

from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint
from voder.systems.salmonn.config import PRESETS, SalmonnConfig, SalmonnTaskConfig
from voder.systems.salmonn.model import Salmonn
from voder.systems.salmonn.stages import STAGES


def _task() -> type:
    from voder.systems.salmonn.train import SalmonnTask

    return SalmonnTask


def _verbs(model: nn.Module, found: Checkpoint) -> nn.Module:
    from voder.systems.salmonn.infer import load_listener

    assert isinstance(model, Salmonn)
    return load_listener(model, found)


def _anatomy(config: SalmonnConfig) -> dict[str, str]:
    bridge, lm = config.bridge, config.lm
    audio = f" and an audio encoder of {bridge.audio_width}" if bridge.audio_width else ""
    return {
        "encoder": f"a speech encoder of {bridge.speech_width}{audio} channels, frozen",
        "input projector": f"Q-Former, {bridge.num_layers} layers of {bridge.width}, "
        f"{bridge.num_queries} query per {bridge.window_frames} frames",
        "language model": f"{lm.family}, {lm.num_layers} layers of {lm.width}, frozen, LoRA of rank {config.lora.rank}",
    }


SYSTEM = hub.System(
    name="salmonn",
    model_config=SalmonnConfig,
    build=Salmonn,
    task_config=SalmonnTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Listener",),
    verbs=_verbs,
    stages=STAGES,
    anatomy=_anatomy,
)
