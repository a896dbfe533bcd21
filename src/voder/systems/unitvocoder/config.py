"""Settings of the vocoder of units; presets `tiny` and `base` (the published size)."""

from dataclasses import dataclass, field
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.train.loop import LoopConfig
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class HifiGanConfig:
    """The generator: upsampling convolutions, each followed by residual blocks of several kernels."""

    initial_channels: int = 512
    """Channels before the first upsampling; each halves them."""
    upsample_rates: tuple[int, ...] = (5, 4, 4, 2, 2)
    """The product is the hop."""
    upsample_kernels: tuple[int, ...] = (11, 8, 8, 4, 4)
    """Kernels of the transposed convolutions: rates plus an even number."""
    block_kernels: tuple[int, ...] = (3, 7, 11)
    """One residual block each, averaged."""
    block_dilations: tuple[int, ...] = (1, 3, 5)
    """Dilated convolutions inside a block."""
    slope: float = 0.1
    """Of the leaky ReLUs, but for the last, which has 0.01."""
    weight_norm: bool = True
    """Direction and length of every kernel apart, as in training; Hugging Face's files have them multiplied."""

    def __post_init__(self) -> None:
        if len(self.upsample_rates) != len(self.upsample_kernels):
            raise ConfigError(
                f"upsample_rates has {len(self.upsample_rates)} entries but upsample_kernels "
                f"{len(self.upsample_kernels)}; they need the same number"
            )
        for rate, kernel in zip(self.upsample_rates, self.upsample_kernels, strict=True):
            if kernel < rate or (kernel - rate) % 2:
                raise ConfigError(f"upsample kernel {kernel} at rate {rate}: kernel minus rate must be even, from 0")
        if any(kernel % 2 == 0 for kernel in self.block_kernels):
            raise ConfigError(f"block_kernels are {self.block_kernels}; only odd ones keep the length")


@dataclass(frozen=True, kw_only=True)
class DurationConfig:
    """The predictor of how long a merged unit lasts."""

    hidden_dim: int = 128
    """Channels of its convolutions."""
    kernel: int = 3
    """Units under one."""
    dropout: float = 0.5
    """While training."""

    def __post_init__(self) -> None:
        if self.kernel % 2 == 0:
            raise ConfigError(f"durations.kernel is {self.kernel}; only odd ones keep the length")


@dataclass(frozen=True, kw_only=True)
class VocoderConfig:
    """What is turned into audio, and how."""

    source: Literal["units", "mel"] = "units"
    """units: ids; mel: log-mel frames, as SpeechT5's vocoder."""
    sample_rate_hz: int = 16_000
    """Rate of the audio that comes out."""
    num_units: int = 1000
    """Different units."""
    unit_dim: int = 128
    """Width of a unit's embedding."""
    num_speakers: int = 0
    """Speakers to choose from; 0: one voice."""
    speaker_dim: int = 128
    """Width of a speaker's embedding, put behind the unit's."""
    num_languages: int = 0
    """Languages to choose from (Seamless); 0: none."""
    language_dim: int = 128
    """Width of a language's embedding, put before the unit's."""
    mel_bands: int = 80
    """Bands of a mel frame."""
    normalize_mel: bool = True
    """Subtract a stored mean from mel frames and divide by a stored scale."""
    generator: HifiGanConfig = field(default_factory=HifiGanConfig)
    """The network."""
    durations: DurationConfig | None = field(default_factory=DurationConfig)
    """The predictor of durations, if there is one."""
    tokenizer: str | None = None
    """Identity of the tokenizer whose units these are; taken from the data by training."""

    def __post_init__(self) -> None:
        needs = (
            ("speaker_dim", 128, bool(self.num_speakers), "num_speakers above 0"),
            ("language_dim", 128, bool(self.num_languages), "num_languages above 0"),
            ("mel_bands", 80, self.source == "mel", "source=mel"),
            ("normalize_mel", True, self.source == "mel", "source=mel"),
        )
        for name, default, acts, condition in needs:
            if not acts and getattr(self, name) != default:
                raise ConfigError(f"{name} is {getattr(self, name)}, which acts only with {condition}")

    @property
    def input_dim(self) -> int:
        """Channels that enter the generator."""
        if self.source == "mel":
            return self.mel_bands
        speaker = self.speaker_dim if self.num_speakers else 0
        return self.unit_dim + speaker + (self.language_dim if self.num_languages else 0)


@dataclass(frozen=True, kw_only=True)
class VocoderTaskConfig:
    """How the vocoder is trained on tokens and the recordings that they were made from."""

    crop_frames: int = 28
    """Units in a training crop."""
    batch_items: int = 16
    """Crops in one batch; halve it when memory runs out."""
    mel_weight: float = 45.0
    """Of the L1 distance of log-mels."""
    feature_weight: float = 2.0
    """Of feature matching against the discriminators."""
    duration_weight: float = 1.0
    """Of the squared error of log durations."""
    discriminator_start: int = 0
    """Step from which the discriminators take part; below 0: never."""
    discriminator_channels: int = 32
    """Width of the discriminators' first layers."""
    periods: tuple[int, ...] = (2, 3, 5, 7, 11)
    """One multi-period discriminator each."""
    scales: int = 3
    """Multi-scale discriminators, each at half the rate of the one before."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 32
    """Validation recordings, at most."""


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    generator = HifiGanConfig(initial_channels=32, block_kernels=(3, 5), block_dilations=(1, 3))
    model = VocoderConfig(num_units=16, unit_dim=16, generator=generator, durations=DurationConfig(hidden_dim=8))
    task = VocoderTaskConfig(
        crop_frames=10, batch_items=2, discriminator_channels=2, periods=(2, 3), scales=1, evaluate_items=2
    )
    loop = LoopConfig(steps=4, evaluate_every=2, save_every=2, log_every=1)
    return Preset(model=model, task=task, loop=loop)


def base() -> Preset:
    """The published unit vocoder of mHuBERT: 13.5 M parameters, 16 kHz, 50 units per second."""
    loop = LoopConfig(
        steps=400_000,
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.8, 0.99), weight_decay=0.01),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=0, final_ratio=0.05),
        max_grad_norm=1000.0,
        evaluate_every=5000,
        save_every=5000,
    )
    return Preset(model=VocoderConfig(), task=VocoderTaskConfig(), loop=loop)


PRESETS = {"tiny": tiny, "base": base}
