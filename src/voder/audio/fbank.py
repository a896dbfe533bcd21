"""Kaldi's log-mel filterbank (`compute-fbank-feats`): frames without padding, DC out, pre-emphasis, Povey window.

BEATs and other networks of that family were trained on it, so its details count: mels of 1127 ln(1 + f/700), filters
that are triangles on the mel axis, no filter on the last bin, energies floored at float32's epsilon. With 128 bands at
16 kHz some low bands lie between two bins and hold nothing; they sit at the floor.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

FLOOR = torch.finfo(torch.float32).eps
FULL_SCALE = 32768.0
"""Kaldi reads 16-bit samples as they are; audio in [-1, 1] is multiplied by this."""


@dataclass(frozen=True, kw_only=True)
class FbankConfig:
    """What a Kaldi filterbank is made of."""

    sample_rate_hz: int = 16_000
    """Rate of the audio that comes in."""
    window: int = 400
    """Samples of a frame (25 ms)."""
    hop: int = 160
    """Samples from one frame to the next (10 ms)."""
    num_bands: int = 128
    """Mel bands."""
    f_min_hz: float = 20.0
    """Lower edge of the first band."""
    preemphasis: float = 0.97
    """Share of the previous sample that is subtracted."""

    @property
    def n_fft(self) -> int:
        """The power of two that holds a window."""
        return 1 << (self.window - 1).bit_length()

    def num_frames(self, num_samples: int) -> int:
        """Whole windows in so many samples."""
        return 1 + (num_samples - self.window) // self.hop if num_samples >= self.window else 0


def kaldi_fbank(
    audio: Float[Tensor, "batch sample"],
    config: FbankConfig | None = None,
    *,
    dtype: torch.dtype = torch.float64,
    window_power: float = 0.85,
    full_scale: float = FULL_SCALE,
) -> Float[Tensor, "batch frame band"]:
    """Natural logarithm of mel energies of audio in [-1, 1], in fp32; audio shorter than a window has no frame.

    Computed in `dtype`: in float32 the sums over clipped or loud audio cost up to 0.008 in quiet bands. The window is
    Hann's to `window_power` (0.85 is Povey's); `full_scale` is what a sample of 1 becomes.
    """
    config = FbankConfig() if config is None else config
    count = config.num_frames(audio.shape[1])
    if not count:
        return audio.new_zeros(audio.shape[0], 0, config.num_bands, dtype=torch.float32)
    with torch.autocast(audio.device.type, enabled=False):
        frames = (audio.to(dtype) * full_scale).unfold(1, config.window, config.hop)
        frames = frames - frames.mean(dim=-1, keepdim=True)
        before = torch.cat((frames[..., :1], frames[..., :-1]), dim=-1)
        frames = (frames - config.preemphasis * before) * _window(config.window, audio.device, dtype) ** window_power
        energies = torch.fft.rfft(frames, config.n_fft, dim=-1).abs().square()
        bands = energies @ _filters(config, audio.device, dtype).mT
        return bands.clamp(min=FLOOR).log().float()


def _window(size: int, device: torch.device, dtype: torch.dtype) -> Float[Tensor, " sample"]:
    return torch.hann_window(size, periodic=False, device=device, dtype=dtype)


def _filters(config: FbankConfig, device: torch.device, dtype: torch.dtype) -> Float[Tensor, "band bin"]:
    half = config.n_fft // 2
    low, high = _mel(config.f_min_hz), _mel(config.sample_rate_hz / 2)
    step = (high - low) / (config.num_bands + 1)
    corners = low + torch.arange(config.num_bands + 2, device=device, dtype=dtype) * step
    bins_hz = torch.arange(half, device=device, dtype=dtype) * (config.sample_rate_hz / config.n_fft)
    mels = 1127.0 * (1.0 + bins_hz / 700.0).log()
    left, centre, right = corners[:-2, None], corners[1:-1, None], corners[2:, None]
    triangles = torch.minimum((mels - left) / (centre - left), (right - mels) / (right - centre)).clamp(min=0)
    return torch.nn.functional.pad(triangles, (0, 1))


def _mel(frequency_hz: float) -> float:
    return 1127.0 * math.log1p(frequency_hz / 700.0)
