"""A codec that hears log-mels and speaks through an inverse STFT.

The encoder reduces 100 mel frames a second to 25 vectors, a residual vector quantizer (SoundStream, 2107.03312,
section III-C) names each with a few codebook entries, and a Vocos-like decoder (2306.00814) turns them into magnitudes
and phases. No layer runs at the audio rate, which is why it learns to be intelligible within a minute on two cores.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.features import LogMel, MelConfig
from voder.nn.quantize.records import Quantized
from voder.nn.quantize.rvq import ResidualVectorQuantizer
from voder.nn.vocoder import ConvNeXtBlock, InverseStftHead
from voder.roles import Codec, Encoded
from voder.shapes import Audio, Lengths
from voder.systems.spectral.config import SpectralConfig

MEL_FLOOR = 1e-3
"""About 60 dB below a loud band: quieter frames look alike to the encoder."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """What training sees of one batch of crops."""

    audio: Float[Tensor, "batch sample"]
    quantized: Quantized


def frame_mask(lengths: Lengths, total: int) -> Float[Tensor, "batch 1 frame"]:
    """1 at the frames below each length, 0 beyond."""
    return (torch.arange(total, device=lengths.device)[None] < lengths[:, None])[:, None].float()


class Encoder(nn.Module):
    """Audio to one vector per codec frame."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.reduction = config.reduction
        self.log_mel = LogMel(
            MelConfig(
                sample_rate_hz=config.sample_rate_hz,
                n_fft=config.n_fft,
                hop=config.hop,
                num_bands=config.num_bands,
                floor=MEL_FLOOR,
                padding="same",
            )
        )
        width, reduction = config.channels, config.reduction
        self.stem = nn.Conv1d(config.num_bands, width, 5, padding=2)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.encoder_blocks))
        pad = reduction // 2
        self.reduce = nn.Conv1d(width, width, 2 * reduction, stride=reduction, padding=pad)
        self.last = _block(config)
        self.project = nn.Conv1d(width, config.code_channels, 1)

    def forward(self, audio: Float[Tensor, "batch sample"], frames: Lengths) -> Float[Tensor, "batch channel frame"]:
        """Vectors of whole codec frames of audio, of which `frames` count."""
        # log-mels of speech lie between log(floor) and about 3: bring them near zero mean and unit variance
        mel = (self.log_mel(audio) + 3.0) / 3.0
        mask = frame_mask(frames * self.reduction, mel.shape[2])
        x = self.stem(mel * mask)
        for block in self.blocks:
            x = block(x, mask)
        coarse = frame_mask(frames, mel.shape[2] // self.reduction)
        x = self.reduce(x * mask)[:, :, : coarse.shape[2]]
        return self.project(self.last(x, coarse)) * coarse


class Decoder(nn.Module):
    """Vectors of codec frames to audio."""

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.reduction = config.reduction
        width, reduction = config.channels, config.reduction
        self.stem = nn.Conv1d(config.code_channels, width, 3, padding=1)
        self.expand = nn.ConvTranspose1d(width, width, reduction, stride=reduction)
        self.blocks = nn.ModuleList(_block(config) for _ in range(config.decoder_blocks))
        self.head = InverseStftHead(width, n_fft=config.n_fft, hop=config.hop)

    def forward(self, vectors: Float[Tensor, "batch channel frame"], frames: Lengths) -> Float[Tensor, "batch sample"]:
        """frames * reduction * hop samples."""
        coarse = frame_mask(frames, vectors.shape[2])
        x = self.expand(self.stem(vectors * coarse) * coarse)
        mask = frame_mask(frames * self.reduction, x.shape[2])
        for block in self.blocks:
            x = block(x, mask)
        return self.head(x, mask)


def _block(config: SpectralConfig) -> ConvNeXtBlock:
    return ConvNeXtBlock(
        config.channels, kernel=config.kernel, expansion=config.expansion, layer_scale=config.layer_scale
    )


class SpectralCodec(Codec):
    """The whole codec. Loudness is taken out before encoding and put back when the scale is at hand."""

    channels = 1

    def __init__(self, config: SpectralConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = config.sample_rate_hz
        self.hop = config.hop * config.reduction
        self.num_codebooks = config.num_codebooks
        self.codebook_size = config.codebook_size
        self.encoder = Encoder(config)
        self.quantizer = ResidualVectorQuantizer(config.quantizer())
        self.decoder = Decoder(config)

    def forward(self, audio: Float[Tensor, "batch sample"]) -> Reconstruction:
        """Encode, quantize and decode crops of whole frames, as training does."""
        frames = torch.full((audio.shape[0],), audio.shape[1] // self.hop, device=audio.device)
        quantized = self.quantizer(self.encoder(audio, frames))
        return Reconstruction(audio=self.decoder(quantized.values, frames), quantized=quantized)

    def encode_batch(
        self, audio: Audio, lengths: Lengths | None = None, *, num_codebooks: int | None = None
    ) -> Encoded:
        """Encode at the codec's rate; the last frame of a clip is filled up with zeros."""
        if lengths is None:
            lengths = torch.full((audio.shape[0],), audio.shape[2], device=audio.device)
        frames = torch.div(lengths + self.hop - 1, self.hop, rounding_mode="floor")
        samples = nn.functional.pad(audio[:, 0], (0, -audio.shape[2] % self.hop))
        scale = None
        if self.config.normalize_peak > 0:
            samples, scale = normalize_loudness(samples, lengths, self.config.normalize_peak)
        codes = self.quantizer.encode(self.encoder(samples, frames), num_codebooks)
        codes = codes * frame_mask(frames, codes.shape[2]).long()
        return Encoded(codes=codes, lengths=frames, num_samples=lengths, scale=scale)

    def decode_batch(self, encoded: Encoded) -> Audio:
        """Decode any number of leading codebooks."""
        audio = self.decoder(self.quantizer.decode(encoded.codes), encoded.lengths)
        if encoded.scale is not None:
            audio = audio * encoded.scale[:, None]
        inside = torch.arange(audio.shape[1], device=audio.device)[None] < encoded.num_samples[:, None]
        return (audio * inside)[:, None, : int(encoded.num_samples.max())]


def normalize_loudness(
    samples: Float[Tensor, "batch sample"], lengths: Lengths, peak: float
) -> tuple[Float[Tensor, "batch sample"], Float[Tensor, " batch"]]:
    """Remove each item's mean and bring its loudest sample to `peak`; returns what undoes the second.

    Clips below a peak of 0.01 (-40 dB) are amplified as if they had it: silence stays quiet.
    """
    inside = (torch.arange(samples.shape[1], device=samples.device)[None] < lengths[:, None]).to(samples.dtype)
    mean = (samples * inside).sum(1, keepdim=True) / lengths[:, None].clamp(min=1)
    centred = (samples - mean) * inside
    scale = centred.abs().amax(1).clamp(min=0.01) / peak
    return centred / scale[:, None], scale
