"""Blocks of a vocoder that ends in an inverse STFT.

ConvNeXt: Liu et al., 2201.03545, in one dimension. The head is that of Vocos (Siuzdak, 2306.00814, section 3): a
magnitude and a phase per bin of an STFT whose hop is the frame, so no layer ever runs at the audio rate. Masks
keep padding out: every layer that mixes time sees zeros beyond an item's length, as it would alone.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.features import inverse_stft

MAX_LOG_MAGNITUDE = 7.0
"""Louder bins than exp(7) do not occur in audio within [-1, 1]; the clamp keeps a bad step from diverging."""


class ConvNeXtBlock(nn.Module):
    """Depthwise convolution over time, LayerNorm, expansion, GELU, projection, layer scale, residual."""

    def __init__(self, channels: int, *, kernel: int = 7, expansion: int = 3, layer_scale: float = 0.3) -> None:
        super().__init__()
        self.depthwise = nn.Conv1d(channels, channels, kernel, padding=kernel // 2, groups=channels)
        self.norm = nn.LayerNorm(channels)
        self.expand = nn.Linear(channels, expansion * channels)
        self.project = nn.Linear(expansion * channels, channels)
        self.scale = nn.Parameter(torch.full((channels,), layer_scale))

    def forward(
        self, x: Float[Tensor, "batch channel frame"], mask: Float[Tensor, "batch 1 frame"]
    ) -> Float[Tensor, "batch channel frame"]:
        """Mix time within the mask; frames beyond it come out as rubbish that the next mask removes."""
        y = self.norm(self.depthwise(x * mask).transpose(1, 2))
        y = self.project(nn.functional.gelu(self.expand(y)))
        return x + (y * self.scale).transpose(1, 2)


class InverseStftHead(nn.Module):
    """Features to magnitude and phase, to audio: frames * hop samples."""

    window: Tensor

    def __init__(self, channels: int, *, n_fft: int, hop: int) -> None:
        super().__init__()
        self.n_fft = n_fft
        self.hop = hop
        self.norm = nn.LayerNorm(channels)
        self.project = nn.Linear(channels, n_fft + 2)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(
        self, x: Float[Tensor, "batch channel frame"], mask: Float[Tensor, "batch 1 frame"]
    ) -> Float[Tensor, "batch sample"]:
        """Audio of the frames inside the mask, in fp32; samples that only padding frames reach are zero."""
        log_magnitude, phase = self.project(self.norm(x.transpose(1, 2))).float().transpose(1, 2).chunk(2, dim=1)
        magnitude = torch.exp(log_magnitude.clamp(max=MAX_LOG_MAGNITUDE))
        spectrum = torch.complex(magnitude * torch.cos(phase), magnitude * torch.sin(phase))
        return inverse_stft(spectrum, self.window, hop=self.hop, padding="same", valid=mask[:, 0].float())
