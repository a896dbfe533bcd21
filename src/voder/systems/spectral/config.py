"""Settings of the spectral codec; presets `tiny`, `demo` and `small`."""

from dataclasses import dataclass

from voder.hub import Preset
from voder.nn.quantize.rvq import RVQConfig
from voder.train.loop import LoopConfig
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class SpectralConfig:
    """Mel encoder, residual quantizer, inverse-STFT decoder."""

    sample_rate_hz: int = 8000
    """Rate of the audio."""
    n_fft: int = 320
    """Window of both transforms, in samples."""
    hop: int = 80
    """Samples per spectral frame."""
    num_bands: int = 64
    """Mel bands that the encoder sees."""
    reduction: int = 4
    """Spectral frames per codec frame."""
    channels: int = 128
    """Width of encoder and decoder."""
    kernel: int = 7
    """Frames under a depthwise convolution."""
    expansion: int = 3
    """Inner width of a block, in channels."""
    layer_scale: float = 0.3
    """First value of every block's output scale."""
    encoder_blocks: int = 2
    """Blocks before the reduction; one more follows it."""
    decoder_blocks: int = 4
    """Blocks at the spectral frame rate."""
    code_channels: int = 32
    """Width of what is quantized."""
    num_codebooks: int = 4
    """Stages of the residual quantizer."""
    codebook_size: int = 256
    """Entries of each stage."""
    codebook_decay: float = 0.98
    """Of the moving averages that move the codebooks."""
    unquantized_steps: int = 150
    """Training steps before the codebooks are fitted and used."""
    kmeans_frames: int = 8192
    """Frames that the codebooks are first fitted on."""
    quantizer_dropout: float = 0.25
    """Share of training steps that use a random number of codebooks."""
    commitment_weight: float = 0.25
    """Weight of the pull of the encoder towards its codes."""
    normalize_peak: float = 0.7
    """Every recording is brought to this peak, its mean removed, before it is encoded; 0 leaves it as it is."""

    def __post_init__(self) -> None:
        if self.reduction < 2 or self.reduction % 2:
            raise ValueError(f"reduction is {self.reduction}; allowed are even numbers from 2")

    def quantizer(self) -> RVQConfig:
        """Settings of the quantizer."""
        return RVQConfig(
            num_codebooks=self.num_codebooks,
            codebook_size=self.codebook_size,
            dim=self.code_channels,
            decay=self.codebook_decay,
            kmeans_iterations=8,
            kmeans_frames=self.kmeans_frames,
            warmup_steps=self.unquantized_steps,
            dropout=self.quantizer_dropout,
            commitment_weight=self.commitment_weight,
        )


@dataclass(frozen=True, kw_only=True)
class SpectralTaskConfig:
    """How the codec is trained."""

    batch_items: int = 16
    """Crops in a batch; halve it when memory runs out."""
    crop_s: float = 0.52
    """Seconds of a crop, rounded down to whole codec frames."""
    gap_s: tuple[float, float] = (0.012, 0.15)
    """Silence between clips in the stream that crops are cut from."""
    gain: tuple[float, float] = (0.4, 1.3)
    """Random loudness of a crop."""
    linear_weight: float = 0.5
    """Weight of the relative error of linear mel spectra."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 64
    """Validation recordings scored at each evaluation, at most."""


def _loop(steps: int, *, evaluate_every: int) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        optimizer=OptimizerConfig(learning_rate=2e-3, betas=(0.8, 0.99)),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=100, final_ratio=0.05),
        precision="bf16",
        evaluate_every=evaluate_every,
        save_every=evaluate_every,
    )


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = SpectralConfig(
        num_bands=16,
        channels=16,
        encoder_blocks=1,
        decoder_blocks=1,
        code_channels=8,
        num_codebooks=2,
        codebook_size=16,
        unquantized_steps=1,
        kmeans_frames=256,
    )
    loop = LoopConfig(steps=4, evaluate_every=2, save_every=2, log_every=1)
    return Preset(model=model, task=SpectralTaskConfig(batch_items=2, evaluate_items=2), loop=loop)


def demo() -> Preset:
    """8 kHz, 25 frames a second, 800 bit/s: intelligible digits after a minute or two on two cores."""
    return Preset(model=SpectralConfig(), task=SpectralTaskConfig(), loop=_loop(2500, evaluate_every=500))


def small() -> Preset:
    """16 kHz, 50 frames a second, 3.2 kbit/s: speech of one's own, in an hour or so on a laptop."""
    model = SpectralConfig(
        sample_rate_hz=16000,
        n_fft=640,
        hop=160,
        num_bands=80,
        reduction=2,
        channels=192,
        decoder_blocks=6,
        code_channels=64,
        num_codebooks=8,
        unquantized_steps=300,
    )
    return Preset(model=model, task=SpectralTaskConfig(crop_s=0.8), loop=_loop(4000, evaluate_every=500))


PRESETS = {"tiny": tiny, "demo": demo, "small": small}
