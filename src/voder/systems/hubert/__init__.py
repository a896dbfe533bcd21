"""HuBERT and its family: self-supervised encoders and the units read off them. See the README beside this file."""

from voder import hub
from voder.systems.hubert.config import PRESETS, HubertConfig, HubertTaskConfig
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.hubert.train import HubertTask

    return HubertTask


SYSTEM = hub.System(
    name="hubert",
    model_config=HubertConfig,
    build=SpeechEncoder,
    task_config=HubertTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="hubert-base",
    roles=("Encoder", "UnitTokenizer"),
    stages=STAGES,
    anatomy=anatomy,
)
