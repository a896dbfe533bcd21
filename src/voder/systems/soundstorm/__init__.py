"""SoundStorm (2305.09636): semantic codes to all codes of a codec, in parallel. See the README beside this file."""

from voder import hub
from voder.systems.soundstorm.config import PRESETS, SoundStormConfig, SoundStormTaskConfig, anatomy
from voder.systems.soundstorm.infer import load_generator
from voder.systems.soundstorm.model import SoundStorm


def _task() -> type:
    from voder.systems.soundstorm.train import SoundStormTask

    return SoundStormTask


SYSTEM = hub.System(
    name="soundstorm",
    model_config=SoundStormConfig,
    build=SoundStorm,
    task_config=SoundStormTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Generator",),
    trains_on="tokens",
    verbs=load_generator,
    anatomy=anatomy,
)
