"""How Whisper is trained, as its paper says; and what it is made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.whisper.config import FRAMES_PER_POSITION, FRAMES_PER_S, WhisperConfig
from voder.train.stages import Stage

_ADAMW = ("loop.optimizer.name=adamw", "loop.optimizer.betas=[0.9, 0.98]", "loop.optimizer.weight_decay=0.1")
_LINEAR = ("loop.schedule.shape=linear", "loop.schedule.final_ratio=0.0")
_FINE_TUNING = (
    "loop.steps=4000",
    "loop.schedule.warmup_steps=500",
    "loop.optimizer.learning_rate=1e-5",
    "task.batch_size=16",
    *_ADAMW,
    *_LINEAR,
)
_USUAL = "every number: what the community fine-tunes with; the paper fine-tunes nothing"
_PAIRS = "recordings of one window at most with their texts, from `voder prepare` (their language in the manifest)"

STAGES: dict[str, Stage] = {
    "pretrain": Stage(
        summary="recognition, translation, language and silence from 680 000 hours of the web",
        section="2212.04356, section 2.4 and appendix F",
        data=f"680 000 h of audio with transcripts from the web, not published; {_PAIRS}",
        losses={"cross-entropy of the text": 1.0},
        settings=(
            "loop.steps=1048576",
            "loop.schedule.warmup_steps=2048",
            "loop.optimizer.learning_rate=1e-3",
            "loop.max_grad_norm=1.0",
            "task.batch_size=256",
            *_ADAMW,
            *_LINEAR,
        ),
        recalled=(
            "peak learning rate: tiny 1.5e-3, base 1e-3 (the setting), small 5e-4, medium 2.5e-4, large 1.75e-4",
            "loop.optimizer.betas=[0.9, 0.98]",
            "loop.optimizer.weight_decay=0.1",
            "loop.max_grad_norm=1.0",
            "texts are learnt without timestamps here",
        ),
    ),
    "fine-tune": Stage(
        summary="encoder and decoder on one's own recordings",
        section="2212.04356, section 2.4",
        starts_from=("published weights",),
        data=_PAIRS,
        losses={"cross-entropy of the text": 1.0},
        settings=_FINE_TUNING,
        recalled=(_USUAL,),
    ),
    "decoder": Stage(
        summary="the decoder alone, on one's own recordings: what is heard stays, how it is written changes",
        section="2212.04356, section 2.4",
        trained=("decoder.",),
        starts_from=("published weights",),
        data=_PAIRS,
        losses={"cross-entropy of the text": 1.0},
        settings=_FINE_TUNING,
        task_settings=("task.freeze_encoder=true",),
        recalled=(_USUAL,),
    ),
}


def anatomy(config: WhisperConfig) -> Mapping[str, str]:
    """The parts of a recogniser."""
    rate = FRAMES_PER_S / FRAMES_PER_POSITION
    return {
        "encoder": (
            f"{config.num_bands} log-mel bands at 16 kHz, two convolutions, transformer {config.num_encoder_layers} x "
            f"{config.width}, {config.num_audio_positions} positions at {rate:g}/s"
        ),
        "input projector": "cross-attention of every decoder layer",
        "language model": (
            f"transformer decoder {config.num_decoder_layers} x {config.width} with {config.num_heads} heads, "
            f"{config.vocabulary_size} ids"
        ),
    }
