"""A small convolutional recogniser with Connectionist Temporal Classification.

CTC: Graves et al., ICML 2006, https://www.cs.toronto.edu/~graves/icml_2006.pdf. Log-mels with every band's
utterance mean removed, a strided convolution, then residual dilated convolutions and one linear layer. Channel-wise
LayerNorm in place of the usual BatchNorm, and a mask before every convolution: what stands beside an utterance in a
batch changes nothing, in training and after it.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.features import LogMel
from voder.shapes import Lengths, Mask, Mel
from voder.systems.ctc.config import CtcConfig


def length_mask(lengths: Lengths, total: int) -> Mask:
    """True at the positions below each length."""
    return torch.arange(total, device=lengths.device)[None] < lengths[:, None]


class ChannelNorm(nn.Module):
    """LayerNorm over the channels of [batch, channel, frame]."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(channels)

    def forward(self, x: Float[Tensor, "batch channel frame"]) -> Float[Tensor, "batch channel frame"]:
        return self.norm(x.transpose(1, 2)).transpose(1, 2)


class ResidualConv(nn.Module):
    """Normalise, convolve with holes, GELU, drop whole channels, add."""

    def __init__(self, channels: int, kernel: int, dilation: int, dropout: float) -> None:
        super().__init__()
        self.norm = ChannelNorm(channels)
        self.conv = nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=dilation * (kernel // 2))
        self.drop = nn.Dropout1d(dropout)

    def forward(
        self, x: Float[Tensor, "batch channel frame"], mask: Float[Tensor, "batch 1 frame"]
    ) -> Float[Tensor, "batch channel frame"]:
        return x + self.drop(nn.functional.gelu(self.conv(self.norm(x) * mask)))


class SpectralStem(nn.Module):
    """Convolutions over bands and frames, each halving the bands: a voice with a longer throat moves along them."""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.strides = config.stem_strides
        channels = (1, *config.stem_channels)
        self.convs = nn.ModuleList(
            nn.Conv2d(before, after, 3, stride=(2, stride), padding=1)
            for before, after, stride in zip(channels[:-1], channels[1:], self.strides, strict=True)
        )
        bands = config.mel.num_bands
        for _ in self.convs:
            bands = (bands - 1) // 2 + 1
        self.project = nn.Conv1d(channels[-1] * bands, config.channels, 1)

    def num_outputs(self, frames: Lengths) -> Lengths:
        """Positions that so many mel frames become."""
        for stride in self.strides:
            frames = torch.div(frames - 1, stride, rounding_mode="floor") + 1
        return frames

    def forward(self, mel: Mel, frames: Lengths) -> Float[Tensor, "batch channel position"]:
        """Mix bands and frames; what lies beyond `frames` stays out."""
        x = mel[:, None]
        for conv, stride in zip(self.convs, self.strides, strict=True):
            x = nn.functional.gelu(conv(x))
            frames = torch.div(frames - 1, stride, rounding_mode="floor") + 1
            x = x * length_mask(frames, x.shape[3])[:, None, None].to(x.dtype)
        return self.project(x.flatten(1, 2))


class CtcModel(nn.Module):
    """Audio to logits over the blank (id 0) and the symbols (ids from 1)."""

    def __init__(self, config: CtcConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.mel)
        width, kernel = config.channels, config.kernel
        self.stem = SpectralStem(config)
        self.blocks = nn.ModuleList(ResidualConv(width, kernel, d, config.dropout) for d in config.dilations)
        self.norm = ChannelNorm(width)
        self.head = nn.Linear(width, len(config.symbols) + 1)

    def features(self, audio: Float[Tensor, "batch sample"], lengths: Lengths) -> tuple[Mel, Lengths]:
        """Normalised log-mels of a zero-padded batch, and how many frames of each are valid (the rest are 0)."""
        margin = self.config.margin_frames * self.config.mel.hop
        mel = self.log_mel(nn.functional.pad(audio, (margin, margin)))
        frames = torch.div(lengths + 2 * margin, self.config.mel.hop, rounding_mode="floor")
        if self.config.mel.padding == "center":
            frames = frames + 1
        mask = length_mask(frames, mel.shape[2])[:, None].to(mel.dtype)
        count = frames[:, None, None].to(mel.dtype)
        if self.config.normalize == "level":
            level = ((mel.exp() * mask).sum((1, 2), keepdim=True) / (count * mel.shape[1])).log()
            return ((mel - level).clamp(min=-6.0) + 3.0) * mask * 0.4, frames
        centred = (mel - (mel * mask).sum(2, keepdim=True) / count) * mask
        if self.config.normalize == "mean":
            return centred * 0.5, frames
        deviation = (centred.square().sum(2, keepdim=True) / count).sqrt()
        return centred / deviation.clamp(min=0.3), frames

    def num_outputs(self, frames: Lengths) -> Lengths:
        """Positions for so many mel frames."""
        return self.stem.num_outputs(frames)

    def classify(self, mel: Mel, frames: Lengths) -> Float[Tensor, "batch position symbol"]:
        """Logits for normalised log-mels whose padding is zero."""
        x = self.stem(mel, frames)
        mask = length_mask(self.num_outputs(frames), x.shape[2])[:, None].to(x.dtype)
        for block in self.blocks:
            x = block(x, mask)
        return self.head(self.norm(x).transpose(1, 2))

    def forward(
        self, audio: Float[Tensor, "batch sample"], lengths: Lengths
    ) -> tuple[Float[Tensor, "batch position symbol"], Lengths]:
        """Logits, and how many positions of each item are valid."""
        mel, frames = self.features(audio, lengths)
        return self.classify(mel, frames), self.num_outputs(frames)
