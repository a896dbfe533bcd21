"""How BEATs is trained, as its paper says; and what it is made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.beats.config import BeatsConfig
from voder.train.stages import Stage

_AUDIOSET = "AudioSet (AS-2M), the recordings alone, without their classes"
_PRETRAINING = (
    "loop.steps=400000",
    "loop.optimizer.name=adamw",
    "loop.optimizer.learning_rate=5e-4",
    "loop.optimizer.betas=[0.9, 0.98]",
    "loop.optimizer.weight_decay=0.01",
    "loop.schedule.shape=linear",
    "loop.schedule.warmup_steps=32000",
    "task.batch_seconds=5600.0",
    "task.max_s=10.0",
)
_FINE_TUNING = (
    "loop.steps=80000",
    "loop.optimizer.learning_rate=3e-5",
    "loop.optimizer.betas=[0.9, 0.98]",
    "loop.optimizer.weight_decay=0.01",
    "loop.schedule.shape=cosine",
    "loop.schedule.warmup_steps=8000",
    "task.max_s=10.0",
)
_ALL_RECALLED = ("every number", "75 % of the patches are masked; the encoder reads the others alone")


def _iteration(summary: str, labels: str) -> Stage:
    return Stage(
        summary=summary,
        section="2212.09058, sections 3.1 and 3.2",
        starts_from=(labels,),
        data=_AUDIOSET,
        losses={"cross-entropy of the labels of masked patches": 1.0},
        settings=_PRETRAINING,
        recalled=_ALL_RECALLED,
        runs=False,
    )


def _supervised(summary: str, *recalled: str, trained: str = "") -> Stage:
    return Stage(
        summary=summary,
        section="2212.09058, section 4.2",
        trained=(trained,),
        starts_from=("published weights of iteration 1, 2, 3 or 3+",),
        data="recordings whose text in the manifest names their classes, parted by `;` (AudioSet, ESC-50)",
        losses={"binary cross-entropy of every class": 1.0},
        settings=_FINE_TUNING,
        # 527 until the data names its own
        task_settings=(f"task.train_encoder={str(not trained).lower()}", "model.num_classes=527"),
        recalled=("every number", *recalled),
    )


STAGES: dict[str, Stage] = {
    "iteration1": _iteration(
        "masked patches, labelled by a frozen random projection", "labels of a random projection, 1024 codes"
    ),
    "iteration2": _iteration(
        "the same with labels that were distilled from the first iteration",
        "a tokenizer distilled from stage iteration1 (1024 codes of 256 channels)",
    ),
    "iteration3": _iteration(
        "the same with labels that were distilled from the second iteration, fine-tuned or not",
        "a tokenizer distilled from stage iteration2, fine-tuned on AS-2M for iter3+",
    ),
    "fine-tune": _supervised(
        "encoder and a predictor of classes, SpecAugment on the bands",
        "mixup and layer-wise learning rates are left out",
    ),
    "predictor": _supervised("the predictor alone, on the features as they are", trained="predictor."),
}


def anatomy(config: BeatsConfig) -> Mapping[str, str]:
    """The one part."""
    classes = f"; a linear layer to {config.num_classes} classes" if config.num_classes else ""
    return {
        "encoder": (
            f"{config.fbank.num_bands}-band Kaldi fbank at {config.fbank.sample_rate_hz} Hz, patches of "
            f"{config.patch} x {config.patch}, transformer {config.num_layers} x {config.width} with gated relative "
            f"bias{classes}"
        )
    }
