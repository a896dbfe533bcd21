"""Settings of the CTC recogniser; presets `tiny`, `demo` and `small`."""

from dataclasses import dataclass, field
from typing import Literal

from voder.audio.features import MelConfig
from voder.hub import Preset
from voder.train.loop import LoopConfig
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class CtcConfig:
    """The network and what it spells with."""

    mel: MelConfig = field(default_factory=lambda: MelConfig(n_fft=256, num_bands=40, f_min_hz=60.0, floor=1e-3))
    """The spectrogram that is listened to."""
    normalize: Literal["mean", "mean_std", "level"] = "mean"
    """What is taken out of every band of an utterance: its mean, or its mean and standard deviation."""
    margin_frames: int = 10
    """Silent frames put before and after every recording."""
    channels: int = 128
    """Width of the convolutions."""
    kernel: int = 5
    """Frames under a convolution."""
    stem_channels: tuple[int, ...] = (16, 32)
    """Channels of the first convolutions over bands and frames, each of which halves the bands."""
    stem_strides: tuple[int, ...] = (2, 2)
    """Mel frames per step of each of them: (2, 2) gives 25 positions a second, enough for words, (2, 1) gives 50."""
    dilations: tuple[int, ...] = (1, 2, 4, 8, 1)
    """One residual convolution each."""
    dropout: float = 0.15
    """Share of channels dropped after every convolution, whole channels at a time."""
    unit: Literal["words", "characters"] = "characters"
    """What one symbol is."""
    normalize_text: bool = True
    """Learn what is said, not how it is written: lower case, no punctuation."""
    symbols: tuple[str, ...] = ()
    """Words or characters, in the order of their ids; taken from the training data when empty."""

    def __post_init__(self) -> None:
        if not self.stem_channels or len(self.stem_channels) != len(self.stem_strides):
            raise ValueError(
                f"stem_channels {self.stem_channels} and stem_strides {self.stem_strides} must be of one length, not 0"
            )


@dataclass(frozen=True, kw_only=True)
class CtcAugment:
    """How training recordings are varied, so that four speakers teach about a fifth."""

    join_max: int = 1
    """Clips of one speaker joined into one string, at most; 1 leaves recordings as they are."""
    join_ramp_steps: int = 100
    """Steps over which the number of joined clips grows from 1."""
    join_below_s: float = 2.0
    """Only recordings shorter than this are joined."""
    speed: tuple[float, float] = (0.9, 1.1)
    """Range of playing speed; changes tempo, pitch and formants together."""
    gain_db: tuple[float, float] = (-12.0, 3.0)
    """Range of loudness."""
    noise_db: tuple[float, float] = (-75.0, -28.0)
    """Range of the noise floor, relative to full scale; half of the time low-passed."""
    tilt: float = 0.6
    """Largest coefficient of a random first-order filter, either sign."""
    warp: float = 0.12
    """Largest relative stretch of the mel axis (vocal-tract length)."""
    band_offset: float = 0.1
    """Standard deviation of a random shift of every band of an utterance, in units of normalised log-mels."""
    band_scale: float = 0.1
    """Standard deviation of the logarithm of a random factor of every band of an utterance."""
    band_masks: int = 2
    """Masks over bands, per utterance."""
    band_mask_size: int = 8
    """Widest mask, in bands."""
    frame_masks_per_s: float = 1.0
    """Masks over time, per second of audio."""
    frame_mask_size: int = 6
    """Widest mask, in mel frames."""


@dataclass(frozen=True, kw_only=True)
class CtcTaskConfig:
    """How the recogniser is trained."""

    augment: CtcAugment = field(default_factory=CtcAugment)
    """Variation of the training recordings."""
    batch_seconds: float = 60.0
    """Audio in one batch, at most, padding included; halve it when memory runs out."""
    batch_items: int = 48
    """Recordings in one batch, at most; n of them joined make one string."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 200
    """Validation recordings scored at each evaluation, at most."""


def _loop(steps: int, *, rate: float, evaluate_every: int, ema_decay: float) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        optimizer=OptimizerConfig(learning_rate=rate, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="linear", warmup_steps=50, final_ratio=0.02),
        ema_decay=ema_decay,
        evaluate_every=evaluate_every,
        save_every=evaluate_every,
    )


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    mel = MelConfig(n_fft=256, num_bands=16, f_min_hz=60.0, floor=1e-3)
    model = CtcConfig(mel=mel, channels=16, stem_channels=(4, 8), dilations=(1, 2))
    loop = LoopConfig(steps=4, evaluate_every=2, save_every=2, log_every=1)
    return Preset(model=model, task=CtcTaskConfig(batch_items=2, evaluate_items=2), loop=loop)


def demo() -> Preset:
    """8 kHz, whole words, clips joined into strings: a handful of words after a minute and a half on two cores."""
    task = CtcTaskConfig(
        batch_seconds=96.0,
        augment=CtcAugment(
            join_max=4,
            speed=(0.82, 1.22),
            warp=0.1,
            band_scale=0.0,
            band_masks=1,
            frame_masks_per_s=0.3,
        ),
    )
    loop = _loop(1000, rate=3e-3, evaluate_every=250, ema_decay=0.99)
    return Preset(model=CtcConfig(unit="words", dropout=0.1), task=task, loop=loop)


def small() -> Preset:
    """16 kHz, characters: a first recogniser of one's own recordings."""
    model = CtcConfig(
        mel=MelConfig(sample_rate_hz=16000, n_fft=400, hop=160, num_bands=80, f_min_hz=60.0, floor=1e-3),
        channels=256,
        stem_strides=(2, 1),
        dilations=(1, 2, 4, 8, 16, 1, 2, 4, 8, 1),
    )
    task = CtcTaskConfig(
        batch_seconds=160.0, augment=CtcAugment(band_mask_size=15, frame_mask_size=12, frame_masks_per_s=0.7)
    )
    return Preset(model=model, task=task, loop=_loop(4000, rate=1.5e-3, evaluate_every=500, ema_decay=0.999))


PRESETS = {"tiny": tiny, "demo": demo, "small": small}
