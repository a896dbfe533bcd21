"""SpeechTokenizer (2308.16692): a codec whose first codebook holds the words. See the README beside this file."""

from voder import hub
from voder.systems.speechtokenizer.config import PRESETS, SpeechTokenizerConfig, SpeechTokenizerTaskConfig, anatomy
from voder.systems.speechtokenizer.model import SpeechTokenizerCodec


def _task() -> type:
    from voder.systems.speechtokenizer.train import SpeechTokenizerTask

    return SpeechTokenizerTask


SYSTEM = hub.System(
    name="speechtokenizer",
    model_config=SpeechTokenizerConfig,
    build=SpeechTokenizerCodec,
    task_config=SpeechTokenizerTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Codec",),
    anatomy=anatomy,
)
