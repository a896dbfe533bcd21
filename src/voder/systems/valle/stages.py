"""How VALL-E's two networks are trained, as the paper says; and what they are made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.valle.config import ValleConfig
from voder.systems.valle.original_layers import OriginalConfig
from voder.train.stages import Stage

_PUBLISHED = (
    "loop.steps=800000",
    "loop.optimizer.name=adamw",
    "loop.optimizer.learning_rate=5e-4",
    "loop.schedule.shape=linear",
    "loop.schedule.warmup_steps=32000",
    "task.batch_tokens=6000",
)
_RECALLED = (
    "the paper's 6000 tokens a GPU (16 of them) are acoustic alone, task.batch_tokens counts text and padding too",
    "the linear decay ends at a share of 0.05 here",
)
_DATA = "LibriLight, 60 000 h with the phonemes of a recogniser, 10 to 20 s; tokens from `voder tokenize`, with texts"
_CODES = ("tokens of EnCodec at 6 kbit/s (8 codebooks)",)

STAGES: dict[str, Stage] = {
    "ar": Stage(
        summary="the decoder of the first codebook, frame by frame",
        section="2301.02111, sections 4.2.1 and 5.1",
        trained=("ar.",),
        starts_from=_CODES,
        data=_DATA,
        losses={"cross-entropy of the first codebook": 1.0},
        settings=_PUBLISHED,
        task_settings=("task.stage=ar",),
        recalled=(
            *_RECALLED,
            "any prefix is a prompt there; here prompts are marked, and half of the batches have one",
        ),
    ),
    "nar": Stage(
        summary="the decoder of the other codebooks, all frames at once, after a prompt of 3 s",
        section="2301.02111, sections 4.2.2 and 5.1",
        trained=("nar.",),
        starts_from=(*_CODES, "stage ar, for one checkpoint with both"),
        data=_DATA,
        losses={"cross-entropy of one codebook, the 2nd to the 8th in turn": 1.0},
        settings=(*_PUBLISHED, "model.max_prompt_frames=225", "task.prompt_share=1.0", "task.nar_every=1"),
        task_settings=("task.stage=nar",),
        recalled=(*_RECALLED, "the paper draws the codebook at random, here it goes round"),
    ),
}


def anatomy(config: ValleConfig) -> Mapping[str, str]:
    """The parts of a voice."""
    if config.original is not None:
        return _original_anatomy(config, config.original)
    ar, nar, books = config.ar, config.nar, config.num_codebooks
    model = f"decoder {ar.num_layers} x {ar.width} with {ar.num_heads} heads for the first codebook"
    if books > 1:
        model += f", {nar.num_layers} x {nar.width} for the other {books - 1}"
    letters = f"{len(config.symbols)} characters" if config.symbols else "characters of the data"
    voices = f" and {len(config.speakers)} speakers" if config.speakers else ""
    return {
        "encoder": f"of prompts, a codec's: {books} x {config.codebook_size} codes, {config.frame_rate_hz:g} frames/s",
        "input projector": f"embeddings of {letters}{voices}, and of codes",
        "language model": model,
        "output projector": f"linear layers to {config.codebook_size} codes"
        + (", one per codebook" if books > 1 else ""),
        "generator": "the codec's decoder",
    }


def _original_anatomy(config: ValleConfig, net: OriginalConfig) -> Mapping[str, str]:
    half = f"{net.num_layers} x {net.width} with {net.num_heads} heads"
    reading = "cross-attention to the text" if net.cross_attention else "the text in front"
    languages = f" in {net.num_languages} languages" if net.num_languages else ""
    return {
        "encoder": f"a codec's: {net.num_codebooks} x {net.codebook_size} codes at {config.frame_rate_hz:g} frames/s",
        "input projector": f"embeddings of {net.num_text_ids} phoneme ids{languages}, and of codes",
        "language model": f"decoder {half}, {reading}, and as much again for the other {net.num_codebooks - 1}",
        "output projector": f"{net.num_codebooks} linear layers to {net.codebook_size} codes",
        "generator": "the codec's decoder",
    }
