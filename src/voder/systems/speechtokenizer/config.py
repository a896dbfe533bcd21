"""Settings of SpeechTokenizer; presets `tiny` (tests), `small` (a processor), the published `16khz`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from math import prod
from typing import Literal

from voder.hub import Preset
from voder.nn.quantize.rvq import RVQConfig
from voder.nn.seanet import SEANetConfig
from voder.train.codec import CodecTaskConfig
from voder.train.loop import cosine_loop

MEL_TEACHER = "mel"
"""The teacher that needs no weights: a log-mel spectrogram."""
MEL_BANDS = 40


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerConfig:
    """SEANet encoder with an LSTM both ways, residual vector quantizer, SEANet decoder."""

    sample_rate_hz: int = 16_000
    """Rate of the audio."""
    num_filters: int = 64
    """Channels at the audio rate; doubled at every stride."""
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    """Strides of the decoder, first to last; their product is the hop."""
    num_residual_layers: int = 1
    """Residual units per stride."""
    residual_kernel: int = 3
    """Kernel of the residual units."""
    dilation_base: int = 2
    """Residual unit j is dilated by dilation_base to the power of j."""
    num_lstm_layers: int = 2
    """LSTM layers at the frame rate."""
    bidirectional: bool = True
    """The encoder's LSTM reads both ways."""
    activation: Literal["elu", "snake"] = "elu"
    """Between convolutions; the published `hubert_avg` checkpoint is elu, its successor snake."""
    rvq: RVQConfig = field(default_factory=lambda: RVQConfig(dim=1024))
    """The chain of codebooks; the first one learns from the teacher."""
    semantic_width: int = 768
    """Channels of the teacher."""

    def __post_init__(self) -> None:
        if self.semantic_width < 1:
            raise ValueError(f"semantic_width is {self.semantic_width}; 1 or more is wanted")
        if not self.num_lstm_layers and self.bidirectional:
            raise ValueError("bidirectional is true, but without LSTM layers nothing reads; set it to false")

    @property
    def seanet(self) -> SEANetConfig:
        """The convolutional networks."""
        return SEANetConfig(
            dim=self.rvq.dim,
            num_filters=self.num_filters,
            ratios=self.ratios,
            num_residual_layers=self.num_residual_layers,
            residual_kernel=self.residual_kernel,
            dilation_base=self.dilation_base,
            num_lstm_layers=self.num_lstm_layers,
            bidirectional=self.bidirectional,
            activation=self.activation,
            causal=False,
        )


@dataclass(frozen=True, kw_only=True)
class SpeechTokenizerTaskConfig(CodecTaskConfig):
    """Data, teacher, losses and discriminator."""

    teacher: str = MEL_TEACHER
    """What the first codebook learns from: a checkpoint with the Encoder role (folder or name, `@9` behind it for
    layer 9), or `mel` for a log-mel spectrogram, which needs no weights."""
    waveform_weight: float = 500.0
    """Of the L1 distance of waveforms."""
    mel_weight: float = 45.0
    """Of the multi-scale mel distance."""
    distillation_weight: float = 120.0
    """Of the distance between the first codebook's vectors and the teacher's."""
    commitment_weight: float = 10.0
    """Of the quantizer's commitment."""


def anatomy(config: SpeechTokenizerConfig) -> Mapping[str, str]:
    """The parts, in numbers."""
    rate = config.sample_rate_hz / prod(config.ratios)
    books, size = config.rvq.num_codebooks, config.rvq.codebook_size
    return {
        "encoder": f"SEANet, {config.num_filters} filters, LSTM x {config.num_lstm_layers}; {rate:g} frames/s",
        "generator": f"RVQ {books} x {size}, the first semantic; SEANet mirrored, {config.sample_rate_hz} Hz",
    }


# of losses weighted in the hundreds: the norm only stops spikes
_loop = partial(cosine_loop, name="adam", betas=(0.8, 0.99), warmup=100, final_ratio=0.05, max_grad_norm=1000.0)


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = SpeechTokenizerConfig(
        sample_rate_hz=8000,
        num_filters=2,
        ratios=(5, 4, 2),
        num_residual_layers=2,
        num_lstm_layers=1,
        rvq=RVQConfig(num_codebooks=4, codebook_size=16, dim=8, kmeans_iterations=5, kmeans_frames=256),
        semantic_width=MEL_BANDS,
    )
    task = SpeechTokenizerTaskConfig(
        batch_items=2, crop_s=0.25, discriminator_filters=2, discriminator_windows=(256, 128), evaluate_items=2
    )
    return Preset(model=model, task=task, loop=replace(_loop(4, learning_rate=1e-3, every=2), log_every=1))


def small() -> Preset:
    """16 kHz, 50 frames a second, 8 x 1024: speech of one's own, on a processor."""
    model = SpeechTokenizerConfig(
        num_filters=16,
        num_lstm_layers=1,
        rvq=RVQConfig(num_codebooks=8, dim=64, decay=0.98, kmeans_iterations=10, warmup_steps=300),
        semantic_width=MEL_BANDS,
    )
    task = SpeechTokenizerTaskConfig(
        crop_s=0.5, discriminator_filters=8, discriminator_windows=(1024, 512, 256), discriminator_start=1500
    )
    return Preset(model=model, task=task, loop=_loop(4000, learning_rate=1e-3, every=500))


def published() -> Preset:
    """The published model: 16 kHz, 50 frames a second, 8 x 1024, taught by HuBERT base (crops and rate recalled)."""
    task = SpeechTokenizerTaskConfig(teacher="hubert-base@9", batch_items=40, crop_s=3.0)
    return Preset(model=SpeechTokenizerConfig(), task=task, loop=_loop(140_000, learning_rate=4e-4, every=2000))


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "16khz": published}
