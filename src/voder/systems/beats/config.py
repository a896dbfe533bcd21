"""Settings of BEATs; presets `tiny` and `base` (the published size)."""

from dataclasses import dataclass, field
from typing import Literal

from voder.audio.fbank import FbankConfig
from voder.hub import Preset
from voder.train.loop import LoopConfig, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class BeatsConfig:
    """The network. The defaults are those of every published checkpoint."""

    fbank: FbankConfig = field(default_factory=FbankConfig)
    """What is listened to."""
    fbank_mean: float = 15.41663
    """Subtracted from every band (the mean over AudioSet)."""
    fbank_scale: float = 13.11164
    """Divides every band (twice the standard deviation over AudioSet)."""
    patch: int = 16
    """Frames, and bands, of a patch."""
    patch_width: int = 512
    """Channels of an embedded patch."""
    width: int = 768
    """Channels of the encoder."""
    num_layers: int = 12
    """Blocks of attention and feed-forward."""
    num_heads: int = 12
    """Attention heads."""
    ffn_width: int = 3072
    """Channels inside the feed-forward part."""
    conv_kernel: int = 128
    """Patches under the positional convolution."""
    conv_groups: int = 16
    """Groups of the positional convolution."""
    num_buckets: int = 320
    """Distances between patches that the relative bias tells apart, both directions together."""
    max_distance: int = 800
    """Distances from here on share the last bucket."""
    dropout: float = 0.0
    """On what each branch adds to the residual stream, in training."""
    num_classes: int = 0
    """Outputs of the predictor; 0 builds none."""
    classes: tuple[str, ...] = ()
    """Names of the outputs, where they are known; taken from the training data."""
    padding: Literal["exact", "published"] = "exact"
    """Which patches of a padded batch are valid: those that the clip alone would have, or as the original counts."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if self.fbank.num_bands % self.patch:
            raise ValueError(f"fbank.num_bands {self.fbank.num_bands} must be a multiple of patch {self.patch}")
        if self.num_buckets < 4 or self.num_buckets % 4:
            raise ValueError(f"num_buckets is {self.num_buckets}; a multiple of 4 is allowed")
        if self.classes and len(self.classes) != self.num_classes:
            raise ValueError(f"num_classes is {self.num_classes} but classes names {len(self.classes)}")

    @property
    def bands(self) -> int:
        """Patches on top of each other at one time."""
        return self.fbank.num_bands // self.patch

    @property
    def min_samples(self) -> int:
        """Samples of one column of patches; shorter audio is filled up with zeros."""
        return (self.patch - 1) * self.fbank.hop + self.fbank.window


@dataclass(frozen=True, kw_only=True)
class BeatsTaskConfig:
    """How a classifier of sounds is trained (section 4.2 of the paper)."""

    batch_seconds: float = 120.0
    """Audio in one batch, at most, padding included; halve it when memory runs out."""
    batch_items: int = 16
    """Recordings in one batch, at most."""
    max_s: float = 10.0
    """Longer recordings are cut to a random stretch of so many seconds."""
    separator: str = ";"
    """Parts the classes of a recording that belongs to several."""
    band_mask: int = 48
    """Widest mask over bands (SpecAugment)."""
    frame_mask: int = 192
    """Widest mask over frames; never more than a fifth of the recording."""
    train_encoder: bool = True
    """False trains the predictor alone, on the features as they are."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 200
    """Validation recordings scored at each evaluation, at most."""


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = BeatsConfig(
        patch_width=8, width=16, num_layers=2, num_heads=2, ffn_width=32, conv_kernel=16, conv_groups=4, num_buckets=32
    )
    return Preset(model=model, task=BeatsTaskConfig(batch_items=2, max_s=1.0, evaluate_items=4), loop=few_steps(1e-3))


def base() -> Preset:
    """The published size (90 M parameters), fine-tuned as on AudioSet-20K: 3e-5 to 2M-step recipes vary by data."""
    loop = LoopConfig(
        steps=80_000,
        optimizer=OptimizerConfig(learning_rate=3e-5, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=8000),
        evaluate_every=2000,
        save_every=2000,
    )
    return Preset(model=BeatsConfig(), task=BeatsTaskConfig(), loop=loop)


PRESETS = {"tiny": tiny, "base": base}
