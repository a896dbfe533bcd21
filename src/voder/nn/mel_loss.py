"""Distance between two waveforms in mel spectrograms of several resolutions.

The multi-scale spectral loss of codecs (EnCodec, 2210.13438, section 3.4) with the small windows of DAC (2306.06546,
section 3.4), and a floor that lets silence be: speech recordings have noise there that nobody needs.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.features import LogMel, MelConfig
from voder.shapes import Scalar

SCALES = ((64, 12), (128, 20), (256, 40), (512, 64), (1024, 80))
"""Window in samples and mel bands, at 8 kHz; windows grow with the sample rate."""


class MultiScaleMelDistance(nn.Module):
    """Mean absolute difference of log-mels plus a share of the relative difference of linear mels."""

    def __init__(self, sample_rate_hz: int, *, linear_weight: float = 0.5, floor: float = 1e-2) -> None:
        super().__init__()
        self.linear_weight = linear_weight
        self.floor = floor
        grow = max(1, round(sample_rate_hz / 8000))
        self.scales = nn.ModuleList(
            LogMel(
                MelConfig(sample_rate_hz=sample_rate_hz, n_fft=window * grow, hop=window * grow // 4, num_bands=bands)
            )
            for window, bands in SCALES
        )

    def forward(
        self, output: Float[Tensor, "batch sample"], target: Float[Tensor, "batch sample"]
    ) -> tuple[Scalar, Scalar]:
        """The loss, and its log-mel part alone (a distance to report)."""
        logs, relatives = [], []
        for scale in self.scales:
            assert isinstance(scale, LogMel)
            ours, theirs = scale.linear(output), scale.linear(target)
            log_ratio = torch.log(ours.clamp(min=self.floor)) - torch.log(theirs.clamp(min=self.floor))
            logs.append(log_ratio.abs().mean())
            relatives.append((ours - theirs).abs().mean() / theirs.mean().clamp(min=self.floor))
        log_part = torch.stack(logs).mean()
        return log_part + self.linear_weight * torch.stack(relatives).mean(), log_part
