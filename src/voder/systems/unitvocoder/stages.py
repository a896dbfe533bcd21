"""How the vocoder of units is trained, as published; and what it is made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.unitvocoder.config import VocoderConfig
from voder.train.stages import Stage

_HIFIGAN = (
    "loop.optimizer.name=adamw",
    "loop.optimizer.learning_rate=2e-4",
    "loop.optimizer.betas=[0.8, 0.99]",
    "loop.optimizer.weight_decay=0.01",
    "task.batch_items=16",
    "task.crop_frames=28",
    "task.mel_weight=45.0",
    "task.feature_weight=2.0",
    "task.duration_weight=1.0",
)

STAGES: dict[str, Stage] = {
    "vocoder": Stage(
        summary="HiFi-GAN's game on units and the recordings they were read off, durations beside it",
        section="2010.05646, sections 2.3 and 2.4; 2104.00355, section 3; durations: 2107.05604, section 3",
        starts_from=("units of a fixed tokenizer (mHuBERT layer 11, 1000 centres)",),
        data="one speaker (LJSpeech) or several, as tokens: `voder tokenize` with an encoder that has centres",
        losses={"log-mel distance": 45.0, "feature matching": 2.0, "adversary": 1.0, "log durations": 1.0},
        settings=("loop.steps=500000", *_HIFIGAN),
        recalled=(
            "task.batch_items=16",
            "task.crop_frames=28 (8960 samples)",
            "loop.optimizer.weight_decay=0.01",
            "the learning rate falls by 0.999 an epoch there, by a cosine here",
            "task.duration_weight=1.0",
        ),
    )
}


def anatomy(config: VocoderConfig) -> Mapping[str, str]:
    """The parts of a vocoder."""
    net = config.generator
    rates = " x ".join(map(str, net.upsample_rates))
    parts = {}
    if config.source == "units":
        known = {"speakers": config.num_speakers, "languages": config.num_languages}
        also = [f"{count} {what}" for what, count in known.items() if count]
        parts["input projector"] = f"embeddings of {config.num_units} units x {config.unit_dim}" + "".join(
            f", of {each}" for each in also
        )
    predicted = ", durations predicted" if config.durations is not None else ""
    sound = f"HiFi-GAN, {net.initial_channels} channels, upsampling {rates} to {config.sample_rate_hz} Hz"
    return parts | {"generator": sound + predicted}
