"""EnCodec (2210.13438), and its variant with finite scalar quantisation. See the README beside this file."""

from voder import hub
from voder.systems.encodec.config import PRESETS, EncodecConfig, EncodecTaskConfig
from voder.systems.encodec.model import EncodecCodec
from voder.systems.encodec.stages import STAGES, anatomy


def _task() -> type:
    from voder.systems.encodec.train import EncodecTask

    return EncodecTask


SYSTEM = hub.System(
    name="encodec",
    model_config=EncodecConfig,
    build=EncodecCodec,
    task_config=EncodecTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("Codec",),
    stages=STAGES,
    anatomy=anatomy,
)
