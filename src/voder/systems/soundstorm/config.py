"""Settings of SoundStorm; presets `tiny` (tests), `small` (a processor), the published `speechtokenizer`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from functools import partial

from voder.hub import Preset
from voder.train.loop import cosine_loop


@dataclass(frozen=True, kw_only=True)
class SoundStormConfig:
    """A conformer over frames whose levels are masked."""

    width: int = 1024
    """Channels."""
    num_layers: int = 12
    """Conformer blocks."""
    num_heads: int = 8
    """Attention heads."""
    head_width: int = 128
    """Channels of a head; even."""
    ffn_expansion: int = 4
    """Channels inside the feed-forward parts, in widths."""
    conv_expansion: int = 2
    """Channels inside the convolution, in widths."""
    kernel: int = 31
    """Frames that the convolution sees; odd."""
    dropout: float = 0.0
    """On what each branch adds, in training."""
    num_semantic: int = 1024
    """Semantic codes (the codec's first codebook); the data says."""
    codebook_size: int = 1024
    """Codes of every other codebook; the data says."""
    num_levels: int = 7
    """Codebooks behind the first; the data says."""
    codec_identity: str | None = None
    """The codec whose tokens these are; the data says."""

    def __post_init__(self) -> None:
        if self.head_width % 2 or not self.kernel % 2:
            raise ValueError(f"head_width {self.head_width} must be even and kernel {self.kernel} odd")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must lie in [0, 1)")

    @property
    def mask_id(self) -> int:
        """What stands for a code that is not known yet."""
        return self.codebook_size


@dataclass(frozen=True, kw_only=True)
class SoundStormTaskConfig:
    """Data and masks."""

    batch_items: int = 8
    """Recordings in a batch; halve it when memory runs out."""
    max_frames: int = 500
    """Longest stretch of a recording that is looked at."""
    prompt_share: float = 0.5
    """The known beginning of a stretch is drawn from nothing up to this share of it."""
    evaluate_items: int = 32
    """Validation recordings scored at each evaluation, at most."""

    def __post_init__(self) -> None:
        if not 0 <= self.prompt_share < 1:
            raise ValueError(f"prompt_share {self.prompt_share} must lie in [0, 1)")
        if self.batch_items < 1 or self.max_frames < 2:
            raise ValueError(f"batch_items {self.batch_items} must be at least 1 and max_frames {self.max_frames} 2")


def anatomy(config: SoundStormConfig) -> Mapping[str, str]:
    """The parts, in numbers."""
    return {
        "generator": f"conformer {config.width} x {config.num_layers} fills {config.num_levels} levels of "
        f"{config.codebook_size} codes behind {config.num_semantic} semantic ones; the codec's decoder",
    }


_loop = partial(cosine_loop, betas=(0.9, 0.99), final_ratio=0.05)


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = SoundStormConfig(width=16, num_layers=2, num_heads=2, head_width=8, kernel=5, dropout=0.1)
    task = SoundStormTaskConfig(batch_items=2, max_frames=40, evaluate_items=2)
    return Preset(model=model, task=task, loop=replace(_loop(4, learning_rate=1e-3, every=2, warmup=1), log_every=1))


def small() -> Preset:
    """Tokens of one's own codec, on a processor."""
    model = SoundStormConfig(width=192, num_layers=4, num_heads=4, head_width=48, kernel=15, dropout=0.1)
    task = SoundStormTaskConfig(max_frames=250)
    return Preset(model=model, task=task, loop=_loop(4000, learning_rate=1e-3, every=500, warmup=200))


def published() -> Preset:
    """The published model over SpeechTokenizer, 351.4 M parameters (steps and rate recalled)."""
    task = SoundStormTaskConfig(batch_items=64, max_frames=1500)
    loop = _loop(200_000, learning_rate=4e-4, every=2000, warmup=10_000)
    return Preset(model=SoundStormConfig(), task=task, loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "speechtokenizer": published}
