"""HiFi-GAN's discriminators (2010.05646, §2.3): of periods of samples, and of the waveform at falling rates."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm, weight_norm

from voder.nn.discriminators import Judgement
from voder.shapes import Audio, Scalar

_SLOPE = 0.1


class PeriodDiscriminator(nn.Module):
    """The waveform folded into rows of `period` samples, convolved down the columns."""

    def __init__(self, period: int, channels: int) -> None:
        super().__init__()
        self.period = period
        widths = [1, channels, 4 * channels, 16 * channels, 32 * channels, 32 * channels]
        strides = (3, 3, 3, 3, 1)
        self.layers = nn.ModuleList(
            weight_norm(nn.Conv2d(a, b, (5, 1), stride=(stride, 1), padding=(2, 0)))
            for a, b, stride in zip(widths[:-1], widths[1:], strides, strict=True)
        )
        self.last = weight_norm(nn.Conv2d(widths[-1], 1, (3, 1), padding=(1, 0)))

    def forward(self, audio: Audio) -> tuple[Tensor, list[Tensor]]:
        """Logits and activations `[batch, channel, row, column]`."""
        x = F.pad(audio, (0, -audio.shape[-1] % self.period), mode="reflect")
        x, features = x.view(*x.shape[:2], -1, self.period), []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x)
        return self.last(x), features


class ScaleDiscriminator(nn.Module):
    """Grouped, strided convolutions over the waveform."""

    def __init__(self, channels: int, *, spectral: bool) -> None:
        super().__init__()
        norm = spectral_norm if spectral else weight_norm
        widths = [1] + [channels * factor for factor in (4, 4, 8, 16, 32, 32, 32)]
        shapes = ((15, 1, 1), (41, 2, 4), (41, 2, 16), (41, 4, 16), (41, 4, 16), (41, 1, 16), (5, 1, 1))
        self.layers = nn.ModuleList(
            norm(nn.Conv1d(a, b, kernel, stride, kernel // 2, groups=math.gcd(groups, a, b)))
            for a, b, (kernel, stride, groups) in zip(widths[:-1], widths[1:], shapes, strict=True)
        )
        self.last = norm(nn.Conv1d(widths[-1], 1, 3, padding=1))

    def forward(self, audio: Audio) -> tuple[Tensor, list[Tensor]]:
        """Logits and activations, with a column axis as those of the period discriminators."""
        x, features = audio, []
        for layer in self.layers:
            x = F.leaky_relu(layer(x), _SLOPE)
            features.append(x[..., None])
        return self.last(x)[..., None], features


class HifiGanDiscriminator(nn.Module):
    """All periods and scales."""

    def __init__(self, *, channels: int, periods: tuple[int, ...], scales: int) -> None:
        super().__init__()
        self.periods = nn.ModuleList(PeriodDiscriminator(period, channels) for period in periods)
        self.scales = nn.ModuleList(ScaleDiscriminator(channels, spectral=number == 0) for number in range(scales))

    def forward(self, audio: Audio) -> Judgement:
        """Judge a batch of waveforms."""
        judged = [period(audio) for period in self.periods]
        for number, scale in enumerate(self.scales):
            if number:
                audio = F.avg_pool1d(audio, 4, 2, padding=2)
            judged.append(scale(audio))
        return Judgement([logits for logits, _ in judged], [features for _, features in judged])


def discriminator_squares(real: list[Float[Tensor, "..."]], fake: list[Float[Tensor, "..."]]) -> Scalar:
    """Sum over discriminators of (1 - D(real))² + D(fake)²."""
    terms = [(1 - r.float()).square().mean() + f.float().square().mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).sum()


def generator_squares(fake: list[Float[Tensor, "..."]]) -> Scalar:
    """Sum over discriminators of (1 - D(fake))²."""
    return torch.stack([(1 - f.float()).square().mean() for f in fake]).sum()


def feature_distance(real: list[list[Float[Tensor, "..."]]], fake: list[list[Float[Tensor, "..."]]]) -> Scalar:
    """Sum over discriminators and layers of the mean absolute difference."""
    pairs = [pair for r, f in zip(real, fake, strict=True) for pair in zip(r, f, strict=True)]
    return torch.stack([F.l1_loss(f.float(), r.detach().float()) for r, f in pairs]).sum()
