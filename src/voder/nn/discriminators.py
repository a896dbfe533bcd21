"""Discriminators of waveforms: the multi-scale complex STFT discriminator of EnCodec (2210.13438, §3.4, fig.
2)."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from voder.shapes import Audio

_DILATIONS = (1, 2, 4)


@dataclass(frozen=True)
class Judgement:
    """What discriminators say of a batch: per scale, logits and the activations before them."""

    logits: list[Float[Tensor, "batch 1 _ _"]]
    features: list[list[Float[Tensor, "batch _ _ _"]]]


def _conv(
    inputs: int, outputs: int, kernel: tuple[int, int], *, stride: tuple[int, int] = (1, 1), dilation: int = 1
) -> nn.Conv2d:
    """A convolution that keeps the size of frames and bins but for its stride, and the variance behind a
    LeakyReLU.

    PyTorch's own start hides the signal: a discriminator of such layers answered "neither" for 250 steps.
    """
    padding = (dilation * (kernel[0] - 1) // 2, (kernel[1] - 1) // 2)
    conv = nn.Conv2d(inputs, outputs, kernel, stride=stride, dilation=(dilation, 1), padding=padding)
    nn.init.kaiming_normal_(conv.weight, a=0.2)
    if conv.bias is not None:
        nn.init.zeros_(conv.bias)
    return conv


class STFTDiscriminator(nn.Module):
    """2-D convolutions over time and frequency of one complex STFT, real and imaginary parts as channels."""

    window: Tensor

    def __init__(self, *, channels: int, filters: int, n_fft: int, hop: int, window: int, slope: float = 0.2) -> None:
        super().__init__()
        self.n_fft, self.hop, self.slope = n_fft, hop, slope
        self.register_buffer("window", torch.hann_window(window), persistent=False)
        # the first layer has no weight norm, here as in the original
        layers: list[nn.Module] = [_conv(2 * channels, filters, (3, 9))]
        layers += [weight_norm(_conv(filters, filters, (3, 9), stride=(1, 2), dilation=d)) for d in _DILATIONS]
        layers.append(weight_norm(_conv(filters, filters, (3, 3))))
        self.layers = nn.ModuleList(layers)
        self.last = weight_norm(_conv(filters, 1, (3, 3)))

    def forward(self, audio: Audio) -> tuple[Tensor, list[Tensor]]:
        """Give the logits and the feature maps."""
        x, features = self.spectrum(audio), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), self.slope)
            features.append(x)
        return self.last(x), features

    def spectrum(self, audio: Audio) -> Float[Tensor, "batch plane frame bin"]:
        """Complex STFT, divided by the window's norm, without centring."""
        with torch.autocast(audio.device.type, enabled=False):
            spectrum = torch.stft(
                audio.flatten(0, 1).float(),
                self.n_fft,
                self.hop,
                win_length=len(self.window),
                window=self.window,
                center=False,
                return_complex=True,
            )
            parts = torch.view_as_real(spectrum / self.window.square().sum().sqrt())
        batch, channels = audio.shape[:2]
        bins, frames = parts.shape[1:3]
        planes = parts.view(batch, channels, bins, frames, 2).permute(0, 4, 1, 3, 2)
        return planes.reshape(batch, 2 * channels, frames, bins)


class MultiScaleSTFTDiscriminator(nn.Module):
    """One `STFTDiscriminator` per STFT size."""

    def __init__(
        self,
        *,
        channels: int = 1,
        filters: int = 32,
        n_ffts: tuple[int, ...] = (1024, 2048, 512),
        hops: tuple[int, ...] | None = None,
        windows: tuple[int, ...] | None = None,
        slope: float = 0.2,
    ) -> None:
        """Hops default to a quarter of the STFT size, windows to all of it."""
        super().__init__()
        hops = hops or tuple(n // 4 for n in n_ffts)
        self.scales = nn.ModuleList(
            STFTDiscriminator(channels=channels, filters=filters, n_fft=n, hop=hop, window=window, slope=slope)
            for n, hop, window in zip(n_ffts, hops, windows or n_ffts, strict=True)
        )

    def forward(self, audio: Audio) -> Judgement:
        """Judge a batch of waveforms, each at least as long as the longest STFT."""
        judged = [scale(audio) for scale in self.scales]
        return Judgement([logits for logits, _ in judged], [features for _, features in judged])
