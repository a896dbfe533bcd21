"""Settings of the codec language model; presets `tiny`, `demo`, `small`, `paper` and `vallex`."""

from dataclasses import dataclass, field, replace

from voder.data.joins import JoinConfig
from voder.hub import Preset
from voder.nn.transformer import TransformerConfig
from voder.sequence.voices import VoiceConfig
from voder.systems.valle.original_layers import OriginalConfig
from voder.train import LoopConfig, OptimizerConfig, ScheduleConfig
from voder.train.voices import VoiceTaskConfig


@dataclass(frozen=True, kw_only=True)
class ValleConfig(VoiceConfig):
    """The two networks, and what they were fitted on."""

    ar: TransformerConfig = field(default_factory=TransformerConfig)
    """Predicts the first codebook, frame by frame."""
    nar: TransformerConfig = field(default_factory=lambda: TransformerConfig(num_layers=3))
    """Predicts each other codebook for all frames at once."""
    symbols: tuple[str, ...] = ()
    """Characters that can be said, in the order of their ids; taken from the training data."""
    lowercase: bool = True
    """Whether capitals are read as small letters."""
    frames_per_symbol: float = 2.5
    """Mean frames of one character: the step between text positions on the audio's time line; from the data."""
    max_frames_per_symbol: float = 20.0
    """Speech is cut when it gets longer than this times its text (and half a second); from the data."""
    original: OriginalConfig | None = None
    """The network of lifeiteng/vall-e or VALL-E-X in place of ours, as converted checkpoints have it: it speaks and is
    not trained here. `symbols` are then its table of phonemes; of the others only the codec's identity is read."""


@dataclass(frozen=True, kw_only=True)
class ValleTaskConfig(VoiceTaskConfig):
    """How the model is trained. The finer codebooks learn on half of a batch."""

    batch_tokens: int = 1200
    """Positions in one batch, text and audio and padding included; lower it when memory runs out."""
    max_rows: int = 64
    """Strings in one batch, at most."""
    curriculum_steps: int = 0
    """Steps over which strings grow from one joined clip to `joins.join_max`; 0 when fine-tuning."""
    prompt_tag_share: float = 0.1
    """Share of prompted strings that keep their speaker's tag too."""
    prompt_loss: bool = True
    """Whether the codes of a prompt with text are learned too."""
    corrupt_share: float = 0.1
    """Share of the codes read (not of those predicted) that are replaced at random, so that the text is read."""


def tiny() -> Preset:
    """Builds and trains a step in a moment; for tests."""
    sizes = TransformerConfig(width=32, num_layers=2, num_heads=2, ffn_width=64, dropout=0.0)
    return Preset(
        model=ValleConfig(
            ar=sizes,
            nar=sizes,
            symbols=tuple(" abcdefghijklmnopqrstuvwxyz"),
            speakers=("a", "b"),
            num_codebooks=2,
            codebook_size=16,
            max_frames_per_symbol=4.0,
        ),
        task=ValleTaskConfig(joins=JoinConfig(join_max=2), batch_tokens=256, max_rows=2, evaluate_batches=1),
        loop=LoopConfig(steps=20, evaluate_every=20, save_every=20),
    )


def _loop(steps: int) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        precision="bf16",
        optimizer=OptimizerConfig(learning_rate=2e-3, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="linear", warmup_steps=100),
        evaluate_every=500,
        save_every=500,
    )


def demo() -> Preset:
    """Spoken digits at 25 frames a second in minutes on two cores (about 4 steps a second)."""
    return Preset(model=ValleConfig(), task=ValleTaskConfig(curriculum_steps=500), loop=_loop(9000))


def small() -> Preset:
    """A voice from a user's own recordings: sentences as they are; only short clips are joined."""
    return Preset(
        model=ValleConfig(max_text=300, max_frames=1500, max_prompt_frames=450),
        task=ValleTaskConfig(
            joins=JoinConfig(join_max=5, held_out_fraction=0.0),
            batch_tokens=4000,
            prompt_share=0.3,
            prompt_clips=1,
        ),
        loop=_loop(8000),
    )


def paper() -> Preset:
    """The sizes of the paper (section 5.1): for EnCodec at 75 frames a second and thousands of hours."""
    sizes = TransformerConfig(width=1024, num_layers=12, num_heads=16, ffn_width=4096)
    loop = replace(
        _loop(800_000),
        optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.01),
        schedule=ScheduleConfig(shape="linear", warmup_steps=32_000),
        evaluate_every=10_000,
        save_every=10_000,
    )
    return Preset(
        model=ValleConfig(
            ar=sizes,
            nar=sizes,
            num_codebooks=8,
            codebook_size=1024,
            frame_rate_hz=75.0,
            max_text=500,
            max_frames=1500,
            max_prompt_frames=450,
        ),
        task=ValleTaskConfig(joins=JoinConfig(join_max=1), batch_tokens=12_000, prompt_clips=1, nar_every=1),
        loop=loop,
    )


def vallex() -> Preset:
    """VALL-E-X as published (Plachta/VALL-E-X): read from its checkpoint, planned, not trained here."""
    original = OriginalConfig(num_text_ids=2048, num_languages=3, prepend_bos=True)
    model = ValleConfig(original=original, num_codebooks=8, codebook_size=1024, frame_rate_hz=75.0)
    return replace(paper(), model=model)


PRESETS = {"tiny": tiny, "demo": demo, "small": small, "paper": paper, "vallex": vallex}
