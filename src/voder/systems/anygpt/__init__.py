"""AnyGPT (2402.12226): one language model over text, speech, images and music. See the README beside this file."""

from voder import hub
from voder.systems.anygpt.config import PRESETS, AnyGptConfig, AnyGptTaskConfig, anatomy
from voder.systems.anygpt.infer import load_chatter
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.stages import STAGES


def _task() -> type:
    from voder.systems.anygpt.train import AnyGptTask

    return AnyGptTask


SYSTEM = hub.System(
    name="anygpt",
    model_config=AnyGptConfig,
    build=AnyGpt,
    task_config=AnyGptTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Chatter", "Transcriber"),
    trains_on="tokens",
    verbs=load_chatter,
    stages=STAGES,
    anatomy=anatomy,
)
