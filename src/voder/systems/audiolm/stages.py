"""The stages of AudioLM as the paper describes them, and its five parts."""

from collections.abc import Mapping

from voder.systems.audiolm.config import AudioLmConfig
from voder.train.stages import Stage

_PUBLISHED = ("task.batch_size=256", "loop.steps=1000000")
_DATA = (
    "units and codes of the same recordings (`voder tokenize` twice); the paper: Libri-Light, 60 k hours of English "
    "read aloud, or 40 k hours of piano"
)
_RECALLED = ("optimiser, learning rate and schedule: the paper names none that were read here",)


def _stage(name: str, what: str, crop: str, section: str) -> Stage:
    return Stage(
        summary=what,
        section=section,
        trained=(f"{name}.",),
        starts_from=("w2v-BERT XL and its k-means centres (not published), or any unit tokenizer", "any codec"),
        data=f"{_DATA}; stretches of {crop}",
        losses={"cross-entropy of the next token": 1.0},
        settings=_PUBLISHED,
        task_settings=(f"task.stage={name}",),
        recalled=_RECALLED,
    )


STAGES = {
    "semantic": _stage("semantic", "units after units", "30 s", "3.4 and 4.2, stage 1"),
    "coarse": _stage("coarse", "the first codebooks, given units", "10 s", "3.4 and 4.2, stage 2"),
    "fine": _stage("fine", "the other codebooks, given the first", "3 s", "3.4 and 4.2, stage 3"),
}


def anatomy(config: AudioLmConfig) -> Mapping[str, str]:
    """The parts of an AudioLM."""
    shapes = {name: getattr(config, name) for name in config.stages}
    stacks = ", ".join(f"{shape.num_layers} x {shape.width} for {name} tokens" for name, shape in shapes.items())
    return {
        "encoder": f"a unit tokenizer's, {config.num_units} units at {config.unit_rate_hz:g} a second, and a codec's",
        "input projector": f"embeddings of units and of {config.num_codebooks} x {config.codebook_size} codes",
        "language model": f"decoders {stacks}",
        "output projector": "linear layers to units and codes",
        "generator": f"the codec's decoder, {config.frame_rate_hz:g} frames a second",
    }
