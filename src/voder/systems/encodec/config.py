"""Settings of EnCodec; presets `tiny` (tests), `small` (16 kHz, trains on a processor), the published `24khz`
and `48khz`, and the same with finite scalar quantisation."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from voder.hub import Preset
from voder.nn.quantize.fsq import FSQConfig
from voder.nn.quantize.rvq import RVQConfig
from voder.nn.seanet import SEANetConfig
from voder.systems.encodec.lm import EntropyLMConfig
from voder.train.codec import CodecTaskConfig
from voder.train.loop import cosine_loop

_OVERLAP, _UNSCALED_RMS = 0.01, 0.1


@dataclass(frozen=True, kw_only=True)
class EncodecConfig:
    """SEANet encoder, quantizer, SEANet decoder."""

    sample_rate_hz: int = 24_000
    """Rate of the audio."""
    seanet: SEANetConfig = field(default_factory=SEANetConfig)
    """Encoder and decoder."""
    quantizer: Literal["rvq", "fsq"] = "rvq"
    """Learned codebooks (rvq) or a fixed grid (fsq)."""
    rvq: RVQConfig = field(default_factory=RVQConfig)
    """Read when quantizer is rvq."""
    fsq: FSQConfig = field(default_factory=lambda: FSQConfig(dim=128))
    """Read when quantizer is fsq."""
    bandwidths_kbps: tuple[float, ...] = ()
    """Bit rates that training draws from, batch by batch; empty means all codebooks always."""
    normalize: bool = False
    """Take the loudness out of every segment before encoding, and put it back after decoding."""
    segment_s: float | None = None
    """Encode audio in segments of so many seconds; whole if not given."""
    overlap: float = _OVERLAP
    """Share of a segment that the next one repeats."""
    unscaled_rms: float = _UNSCALED_RMS
    """Loudness of decoded audio when the scales are not at hand (codes alone; only with normalize)."""
    lm: EntropyLMConfig | None = None
    """Language model for entropy coding, if the checkpoint has one."""

    def __post_init__(self) -> None:
        used = self.rvq if self.quantizer == "rvq" else self.fsq
        if used.dim != self.seanet.dim:
            raise ValueError(f"{self.quantizer}.dim is {used.dim} but seanet.dim is {self.seanet.dim}; make them equal")
        self._check_segments()
        counts = {self.codebooks_at(bandwidth) for bandwidth in self.bandwidths_kbps}
        if self.quantizer == "fsq" and self.fsq.arrangement == "parallel" and counts - {self.num_codebooks}:
            raise ValueError(
                f"bandwidths_kbps are {self.bandwidths_kbps}, but side-by-side codebooks only work together; "
                "leave them out"
            )
        if self.quantizer == "rvq" and self.bandwidths_kbps and self.rvq.dropout:
            raise ValueError(
                f"rvq.dropout is {self.rvq.dropout}, but bandwidths_kbps already vary the codebooks; choose one"
            )
        lm = self.lm
        if lm is not None and not (isinstance(lm, EntropyLMConfig) and lm.codebook_size == self.codebook_size):
            raise ValueError(f"lm is {lm}; a language model of {self.codebook_size} codes is wanted, or null")

    def _check_segments(self) -> None:
        if not 0 <= self.overlap < 1:
            raise ValueError(f"overlap is {self.overlap}; from 0 to below 1 is allowed")
        if self.segment_s is None and self.overlap != _OVERLAP:
            raise ValueError(f"overlap is {self.overlap}, but without segment_s nothing overlaps")
        if self.segment_s is not None and (self.segment_samples or 0) < 1:
            raise ValueError(f"segment_s is {self.segment_s}; a segment must have samples")
        if not self.normalize and self.unscaled_rms != _UNSCALED_RMS:
            raise ValueError(f"unscaled_rms is {self.unscaled_rms}, but without normalize nothing is scaled")
        if not self.unscaled_rms > 0:
            raise ValueError(f"unscaled_rms is {self.unscaled_rms}; more than 0 is wanted")

    @property
    def file_name(self) -> str:
        """What `.ecdc` files call this model: the published names for the published models, else
        `encodec`."""
        published = {"encodec_24khz": published_24khz().model, "encodec_48khz": published_48khz().model}
        return next((name for name, model in published.items() if self._reads_codes_of(model)), "encodec")

    def _reads_codes_of(self, other: "EncodecConfig") -> bool:
        sizes = [
            (
                c.sample_rate_hz,
                c.seanet,
                c.quantizer,
                c.num_codebooks,
                c.codebook_size,
                c.normalize,
                c.segment_s,
                c.overlap,
            )
            for c in (self, other)
        ]
        return sizes[0] == sizes[1]

    @property
    def num_codebooks(self) -> int:
        """Codes per frame."""
        return self.rvq.num_codebooks if self.quantizer == "rvq" else self.fsq.num_codebooks

    @property
    def codebook_size(self) -> int:
        """Codes per codebook."""
        return self.rvq.codebook_size if self.quantizer == "rvq" else math.prod(self.fsq.levels)

    @property
    def frames_per_second(self) -> int:
        """Frame rate rounded up to a whole number, as bit rates and `.ecdc` files count it."""
        return -(-self.sample_rate_hz // self.seanet.hop)

    @property
    def segment_samples(self) -> int | None:
        """Samples of a segment."""
        return None if self.segment_s is None else int(self.segment_s * self.sample_rate_hz)

    @property
    def segment_stride(self) -> int | None:
        """Samples from one segment's start to the next."""
        length = self.segment_samples
        return None if length is None else max(1, int((1 - self.overlap) * length))

    def codebooks_at(self, bandwidth_kbps: float) -> int:
        """Codebooks that fit a bit rate, at least one.

        Raises:
            ValueError: the rate needs more codebooks than there are.
        """
        per_codebook = math.log2(self.codebook_size) * self.frames_per_second
        wanted = max(1, math.floor(bandwidth_kbps * 1000 / per_codebook))
        if wanted > self.num_codebooks or bandwidth_kbps <= 0:
            most = self.num_codebooks * per_codebook / 1000
            raise ValueError(f"bandwidth is {bandwidth_kbps} kbit/s; allowed are 0 to {most:g} kbit/s")
        return wanted


@dataclass(frozen=True, kw_only=True)
class EncodecTaskConfig(CodecTaskConfig):
    """Data, losses and discriminator."""

    gain: tuple[float, float] = (0.5, 1.2)
    """Random loudness of a crop."""
    mel: Literal["magnitudes", "energies"] = "energies"
    """Mel loss: energies as audiocraft trains, or log magnitudes with a high floor, clear within minutes."""
    waveform_weight: float = 0.1
    """Balancer weight of the L1 distance of waveforms."""
    mel_weight: float = 2.0
    """Balancer weight of the multi-scale mel distance."""
    adversarial_weight: float = 4.0
    """Balancer weight of the generator's hinge loss; 0 trains without a discriminator."""
    feature_weight: float = 4.0
    """Balancer weight of feature matching; 0 leaves it out."""
    commitment_weight: float = 1.0
    """Weight of the commitment loss, which stays outside the balancer."""
    discriminator_lead: int = 0
    """Steps that the discriminator learns alone before the codec listens to it."""


# the balancer sets the gradient's size: the norm only stops spikes
_loop = partial(cosine_loop, name="adam", betas=(0.5, 0.9), warmup=100, final_ratio=0.05, max_grad_norm=20.0)


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = EncodecConfig(
        sample_rate_hz=8000,
        seanet=SEANetConfig(dim=8, num_filters=2, ratios=(5, 4, 2), num_lstm_layers=1, num_residual_layers=2),
        rvq=RVQConfig(num_codebooks=4, codebook_size=16, dim=8, kmeans_iterations=5, kmeans_frames=256),
        fsq=FSQConfig(dim=8),
        bandwidths_kbps=(0.8, 1.6, 3.2),
    )
    task = EncodecTaskConfig(
        batch_items=2,
        crop_s=0.25,
        mel="magnitudes",
        discriminator_filters=2,
        discriminator_windows=(256, 128),
        evaluate_items=2,
    )
    loop = replace(_loop(4, learning_rate=1e-3, every=2), log_every=1)
    return Preset(model=model, task=task, loop=loop)


def small() -> Preset:
    """16 kHz, 50 frames a second, 8 x 1024: speech of one's own, on a processor."""
    model = EncodecConfig(
        sample_rate_hz=16_000,
        seanet=SEANetConfig(dim=64, num_filters=16, ratios=(8, 5, 4, 2), num_lstm_layers=1),
        rvq=RVQConfig(num_codebooks=8, dim=64, decay=0.98, kmeans_iterations=10, warmup_steps=300),
        fsq=FSQConfig(dim=64),
        bandwidths_kbps=(1.0, 2.0, 4.0),
    )
    task = EncodecTaskConfig(
        crop_s=0.5,
        mel="magnitudes",
        discriminator_filters=8,
        discriminator_windows=(1024, 512, 256),
        discriminator_start=1500,
        discriminator_lead=300,
    )
    return Preset(model=model, task=task, loop=_loop(6000, learning_rate=1e-3, every=500, betas=(0.8, 0.99)))


def published_24khz() -> Preset:
    """The published mono model: 75 frames a second, 32 x 1024, 1.5 to 24 kbit/s."""
    model = EncodecConfig(
        rvq=RVQConfig(num_codebooks=32),
        bandwidths_kbps=(1.5, 3.0, 6.0, 12.0, 24.0),
    )
    task = EncodecTaskConfig(batch_items=64)
    return Preset(model=model, task=task, loop=_loop(600_000, learning_rate=3e-4, every=2000))


def published_48khz() -> Preset:
    """The published stereo model: segments of a second, 150 frames a second, 16 x 1024, 3 to 24 kbit/s."""
    model = EncodecConfig(
        sample_rate_hz=48_000,
        seanet=SEANetConfig(channels=2, norm="time_group_norm", causal=False),
        rvq=RVQConfig(num_codebooks=16),
        bandwidths_kbps=(3.0, 6.0, 12.0, 24.0),
        normalize=True,
        segment_s=1.0,
    )
    windows = (4096, 2048, 1024, 512, 256)
    task = EncodecTaskConfig(batch_items=64, discriminator_windows=windows)
    return Preset(model=model, task=task, loop=_loop(600_000, learning_rate=3e-4, every=2000))


def _with_fsq(make: Callable[[], Preset], fsq: FSQConfig) -> Preset:
    preset = make()
    model = replace(
        preset.model,
        quantizer="fsq",
        fsq=replace(fsq, dim=preset.model.seanet.dim),
        bandwidths_kbps=(),
    )
    return replace(preset, model=model)


def fsq_tiny() -> Preset:
    """`tiny` with two grids of 4 x 4."""
    return _with_fsq(tiny, FSQConfig(levels=(4, 4), num_codebooks=2))


def fsq_small() -> Preset:
    """`small` with four grids of 1000 codes side by side: nothing to initialise, nothing that can
    collapse."""
    return _with_fsq(small, FSQConfig(levels=(8, 5, 5, 5), num_codebooks=4))


def fsq_24khz() -> Preset:
    """`24khz` with eight residual grids of 1000 codes."""
    return _with_fsq(published_24khz, FSQConfig(levels=(8, 5, 5, 5), num_codebooks=8, arrangement="residual"))


PRESETS: dict[str, Callable[[], Preset]] = {
    "tiny": tiny,
    "small": small,
    "24khz": published_24khz,
    "48khz": published_48khz,
    "fsq_tiny": fsq_tiny,
    "fsq_small": fsq_small,
    "fsq_24khz": fsq_24khz,
}
