"""A speaker encoder (1710.10467): whose voice it is. See the README beside this file."""

from voder import hub
from voder.systems.ge2e.config import PRESETS, Ge2eConfig, Ge2eTaskConfig
from voder.systems.ge2e.model import Ge2e
from voder.train.stages import Stage


def _task() -> type:
    from voder.systems.ge2e.train import Ge2eTask

    return Ge2eTask


def _anatomy(config: Ge2eConfig) -> dict[str, str]:
    return {"encoder": f"{config.num_layers}-layer LSTM of {config.width} on {config.num_bands} mel bands"}


STAGES = {
    "speakers": Stage(
        summary="tell speakers apart",
        section="1710.10467, sections 2.1 and 3.2",
        data="recordings of many speakers, two or more of each; a folder of `voder prepare`",
        losses={"ge2e softmax": 1.0},
        settings=(
            "loop.optimizer.name=sgd",
            "loop.optimizer.learning_rate=0.01",
            "loop.max_grad_norm=3.0",
            "task.speakers=64",
            "task.utterances=10",
        ),
        recalled=("optimiser, learning rate, clipping", "64 speakers x 10 utterances"),
    )
}

SYSTEM = hub.System(
    name="ge2e",
    model_config=Ge2eConfig,
    build=Ge2e,
    task_config=Ge2eTaskConfig,
    task=_task,
    presets=PRESETS,
    default_preset="small",
    roles=("SpeakerEncoder",),
    stages=STAGES,
    anatomy=_anatomy,
)
