"""SEANet: the convolutional encoder and decoder of SoundStream and EnCodec.

Tagliasacchi et al. 2020 (2009.02095), in the form of EnCodec (2210.13438, §3.1 and fig. 1). The layers lie in
one flat sequence, activations included, in the order of the published checkpoints.
"""

import math
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
from torch import Tensor, nn

from voder.nn.conv import Norm, PaddedConv1d, PaddedConvTranspose1d, PadMode, ResidualLSTM, Signal
from voder.shapes import Audio, Latents

_QUIET = 0.1  # speech is far quieter than the unit variance inside the decoder


@dataclass(frozen=True, kw_only=True)
class SEANetConfig:
    """Shape of an encoder and the decoder that mirrors it."""

    channels: int = 1
    """Audio channels."""
    dim: int = 128
    """Channels of the latent."""
    num_filters: int = 32
    """Channels at the audio rate; doubled at every stride."""
    num_residual_layers: int = 1
    """Residual units per stride."""
    ratios: tuple[int, ...] = (8, 5, 4, 2)
    """Strides of the decoder, first to last; the encoder has them in reverse. Their product is the hop."""
    kernel: int = 7
    """Kernel of the first layer."""
    last_kernel: int = 7
    """Kernel of the last layer."""
    residual_kernel: int = 3
    """Kernel of the residual units."""
    dilation_base: int = 2
    """Residual unit j is dilated by dilation_base to the power of j."""
    compress: int = 2
    """Residual units work on their channels divided by this."""
    num_lstm_layers: int = 2
    """LSTM layers at the frame rate; 0 leaves them out."""
    norm: Norm = "weight_norm"
    """weight_norm, time_group_norm (after each convolution, over channels and time) or none."""
    causal: bool = True
    """Padding on the left only."""
    pad_mode: PadMode = "reflect"
    """Content of the padding."""
    true_skip: bool = False
    """Residual units add their input itself instead of a 1x1 convolution of it."""
    unnormed_outer_blocks: int = 0
    """So many blocks next to the audio (first or last layer, then strides) go without a norm."""
    trim_right: float = 1.0
    """Share of the excess that causal transposed convolutions cut on the right."""
    activation: Literal["elu", "snake"] = "elu"
    """Between convolutions: ELU, or x + sin²(ax)/a with a learned `a` per channel (2006.08195)."""
    bidirectional: bool = False
    """The encoder's LSTM reads both ways, and its output is twice as wide; the decoder's never does."""

    @property
    def hop(self) -> int:
        """Samples per frame."""
        return math.prod(self.ratios)


class Snake(nn.Module):
    """x + sin²(ax)/a, with one `a` per channel."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.alpha = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Signal) -> Signal:
        """Keep the shape `[batch, channel, sample]`."""
        return x + (self.alpha + 1e-9).reciprocal() * (self.alpha * x).sin().square()


def _activation(config: SEANetConfig, channels: int) -> nn.Module:
    return Snake(channels) if config.activation == "snake" else nn.ELU()


class ResidualUnit(nn.Module):
    """Two convolutions behind activations, added to a shortcut."""

    def __init__(self, config: SEANetConfig, channels: int, dilation: int, norm: Norm) -> None:
        super().__init__()
        hidden = max(1, channels // config.compress)
        conv = partial(PaddedConv1d, causal=config.causal, norm=norm, pad_mode=config.pad_mode)
        self.block = nn.Sequential(
            _activation(config, channels),
            conv(channels, hidden, config.residual_kernel, dilation=dilation),
            _activation(config, hidden),
            conv(hidden, channels, 1),
        )
        self.shortcut = nn.Identity() if config.true_skip else conv(channels, channels, 1)

    def forward(self, x: Signal) -> Signal:
        """Keep the shape `[batch, channel, sample]`."""
        y: Tensor = self.shortcut(x) + self.block(x)
        return y


def _residual_units(config: SEANetConfig, channels: int, norm: Norm) -> list[nn.Module]:
    dilations = [config.dilation_base**j for j in range(config.num_residual_layers)]
    return [ResidualUnit(config, channels, dilation, norm) for dilation in dilations]


def _block_norm(config: SEANetConfig, distance: int) -> Norm:
    """Norm of the block so many blocks away from the audio."""
    return "none" if distance < config.unnormed_outer_blocks else config.norm


class SEANetEncoder(nn.Module):
    """Audio to latents, hop samples to a frame; a started frame counts."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        conv = partial(PaddedConv1d, causal=config.causal, pad_mode=config.pad_mode)
        width, depth = config.num_filters, len(config.ratios)
        layers: list[nn.Module] = [conv(config.channels, width, config.kernel, norm=_block_norm(config, 0))]
        for i, ratio in enumerate(reversed(config.ratios)):
            norm = _block_norm(config, i + 1)
            layers += _residual_units(config, width, norm)
            layers += [_activation(config, width), conv(width, 2 * width, 2 * ratio, stride=ratio, norm=norm)]
            width *= 2
        if config.num_lstm_layers:
            layers.append(ResidualLSTM(width, config.num_lstm_layers, bidirectional=config.bidirectional))
            width *= 2 if config.bidirectional else 1
        last = conv(width, config.dim, config.last_kernel, norm=_block_norm(config, depth + 1))
        layers += [_activation(config, width), last]
        self.layers = nn.Sequential(*layers)

    def forward(self, audio: Audio) -> Latents:
        """Encode `[batch, channel, sample]` into `[batch, dim, ceil(sample / hop)]`."""
        y: Tensor = self.layers(audio)
        return y


class SEANetDecoder(nn.Module):
    """Latents to audio. The last layer has no activation."""

    def __init__(self, config: SEANetConfig) -> None:
        super().__init__()
        conv = partial(PaddedConv1d, causal=config.causal, pad_mode=config.pad_mode)
        up = partial(PaddedConvTranspose1d, causal=config.causal, trim_right=config.trim_right)
        depth = len(config.ratios)
        width = config.num_filters * 2**depth
        layers: list[nn.Module] = [conv(config.dim, width, config.kernel, norm=_block_norm(config, depth + 1))]
        if config.num_lstm_layers:
            layers.append(ResidualLSTM(width, config.num_lstm_layers))
        for i, ratio in enumerate(config.ratios):
            norm = _block_norm(config, depth - i)
            layers += [_activation(config, width), up(width, width // 2, 2 * ratio, stride=ratio, norm=norm)]
            layers += _residual_units(config, width // 2, norm)
            width //= 2
        layers += [
            _activation(config, width),
            conv(width, config.channels, config.last_kernel, norm=_block_norm(config, 0), gain=_QUIET),
        ]
        self.layers = nn.Sequential(*layers)

    def forward(self, latent: Latents) -> Audio:
        """Decode `[batch, dim, frame]` into `[batch, channel, frame * hop]`."""
        y: Tensor = self.layers(latent)
        return y
