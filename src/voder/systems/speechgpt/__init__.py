"""SpeechGPT (2305.11000): a language model that hears and speaks in units. See the README beside this file."""

from voder import hub
from voder.systems.speechgpt.config import PRESETS, SpeechGptConfig, SpeechGptTaskConfig, anatomy
from voder.systems.speechgpt.infer import load_chatter
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.stages import STAGES


def _task() -> type:
    from voder.systems.speechgpt.train import SpeechGptTask

    return SpeechGptTask


SYSTEM = hub.System(
    name="speechgpt",
    model_config=SpeechGptConfig,
    build=SpeechGpt,
    task_config=SpeechGptTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Chatter", "Transcriber"),
    trains_on="tokens",
    verbs=load_chatter,
    stages=STAGES,
    anatomy=anatomy,
)
