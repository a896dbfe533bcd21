"""Spectral features: mel filterbanks, log-mel spectrograms, and the STFT pair that codecs and recognisers share.

Everything runs in fp32, also under autocast, and pads with zeros: the frames of a clip inside a zero-padded batch
are then exactly the frames of the clip alone. Frame counts are integers computed from sample counts.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Complex, Float
from torch import Tensor, nn

from voder.shapes import Mel

MelScale = Literal["htk", "slaney"]
Padding = Literal["center", "same"]


@dataclass(frozen=True, kw_only=True)
class MelConfig:
    """What a log-mel spectrogram is made of."""

    sample_rate_hz: int = 8000
    """Rate of the audio that comes in."""
    n_fft: int = 320
    """Window and transform size in samples (Hann)."""
    hop: int = 80
    """Samples from one frame to the next."""
    num_bands: int = 64
    """Mel bands."""
    f_min_hz: float = 0.0
    """Lower edge of the first band."""
    f_max_hz: float | None = None
    """Upper edge of the last band; half the sample rate if not given."""
    floor: float = 1e-5
    """Smallest value before the logarithm."""
    power: Literal[1, 2] = 1
    """1: magnitudes; 2: energies."""
    scale: MelScale = "htk"
    """Which mel scale."""
    norm: Literal["none", "slaney"] = "none"
    """slaney: each band has unit area."""
    padding: Padding = "center"
    """center: samples // hop + 1 frames; same: samples // hop frames."""

    def __post_init__(self) -> None:
        for name, most in (("n_fft", 65_536), ("hop", 65_536), ("num_bands", 4_096), ("sample_rate_hz", 1_000_000)):
            if not 1 <= getattr(self, name) <= most:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 to {most} is allowed")


def num_frames(num_samples: int, *, n_fft: int, hop: int, padding: Padding) -> int:
    """Frames that `stft` makes of so many samples."""
    return num_samples // hop + 1 if padding == "center" else num_samples // hop


def hz_to_mel(frequency_hz: Tensor, scale: MelScale) -> Tensor:
    """HTK: 2595 log10(1 + f/700). Slaney: linear to 1 kHz, then logarithmic (27 mels per factor of 6.4)."""
    if scale == "htk":
        return 2595.0 * torch.log10(1.0 + frequency_hz / 700.0)
    log_part = 15.0 + 27.0 * torch.log(frequency_hz.clamp(min=1000.0) / 1000.0) / torch.log(torch.tensor(6.4))
    return torch.where(frequency_hz < 1000.0, frequency_hz * 3.0 / 200.0, log_part)


def mel_to_hz(mels: Tensor, scale: MelScale) -> Tensor:
    """Invert `hz_to_mel`."""
    if scale == "htk":
        return 700.0 * (10.0 ** (mels / 2595.0) - 1.0)
    log_part = 1000.0 * torch.exp((mels - 15.0).clamp(min=0.0) * torch.log(torch.tensor(6.4)) / 27.0)
    return torch.where(mels < 15.0, mels * 200.0 / 3.0, log_part)


def mel_filterbank(
    *,
    sample_rate_hz: int,
    n_fft: int,
    num_bands: int,
    f_min_hz: float = 0.0,
    f_max_hz: float | None = None,
    scale: MelScale = "htk",
    norm: Literal["none", "slaney"] = "none",
) -> Float[Tensor, "band bin"]:
    """Triangular filters, equally spaced in mels, over the n_fft // 2 + 1 bins of an STFT.

    The values are those of `transformers.audio_utils.mel_filter_bank` (which a test compares); computed here
    because importing that takes seconds. Raises ValueError if a band would have no room.
    """
    top_hz = sample_rate_hz / 2 if f_max_hz is None else f_max_hz
    if not 0 <= f_min_hz < top_hz <= sample_rate_hz / 2:
        raise ValueError(
            f"mel bands from {f_min_hz} to {top_hz} Hz do not fit 0..{sample_rate_hz / 2} Hz: change f_min_hz/f_max_hz"
        )
    with torch.device("cpu"):  # values are read here, which the meta device of a dry run does not have
        edges = hz_to_mel(torch.tensor([f_min_hz, top_hz], dtype=torch.float64), scale)
        mels = torch.linspace(float(edges[0]), float(edges[1]), num_bands + 2, dtype=torch.float64)
        corners_hz = mel_to_hz(mels, scale)
        bins_hz = torch.linspace(0, sample_rate_hz / 2, n_fft // 2 + 1, dtype=torch.float64)
    slopes = corners_hz[:, None] - bins_hz[None, :]
    widths = corners_hz.diff()
    rising = -slopes[:-2] / widths[:-1, None]
    falling = slopes[2:] / widths[1:, None]
    filters = torch.minimum(rising, falling).clamp(min=0.0)
    if norm == "slaney":
        filters = filters * (2.0 / (corners_hz[2:] - corners_hz[:-2]))[:, None]
    return filters.float()


def pad_for_frames(audio: Float[Tensor, "... sample"], *, n_fft: int, hop: int, padding: Padding) -> Tensor:
    """Zeros on both sides, so that frame i is centred on sample i * hop (center) or (i + 1/2) * hop (same)."""
    if padding == "center":
        return F.pad(audio, (n_fft // 2, n_fft // 2))
    return F.pad(audio, ((n_fft - hop) // 2, n_fft - hop - (n_fft - hop) // 2))


def stft(
    audio: Float[Tensor, "batch sample"], window: Float[Tensor, " window"], *, hop: int, padding: Padding = "center"
) -> Complex[Tensor, "batch bin frame"]:
    """Short-time Fourier transform with zero padding, in fp32."""
    n_fft = window.shape[0]
    with torch.autocast(audio.device.type, enabled=False):
        padded = pad_for_frames(audio.float(), n_fft=n_fft, hop=hop, padding=padding)
        return torch.stft(padded, n_fft, hop, window=window, center=False, return_complex=True)


def inverse_stft(
    spectrum: Complex[Tensor, "batch bin frame"],
    window: Float[Tensor, " window"],
    *,
    hop: int,
    padding: Padding = "same",
    valid: Float[Tensor, "batch frame"] | None = None,
) -> Float[Tensor, "batch sample"]:
    """Overlap-add of the windowed inverse transforms, divided by the sum of squared windows, in fp32.

    Gives frames * hop samples (same) or (frames - 1) * hop (center). Frames whose `valid` is 0 add nothing and do not
    count in the divisor, so that a clip in a padded batch ends as it does alone.
    """
    n_fft = window.shape[0]
    with torch.autocast(spectrum.device.type, enabled=False):
        frames = torch.fft.irfft(spectrum, n_fft, dim=1) * window[None, :, None]
        weights = window.square()[None, :, None].expand(1, -1, spectrum.shape[2])
        if valid is not None:
            frames = frames * valid[:, None, :]
            weights = weights * valid[:, None, :]
        samples = _overlap_add(frames, hop) / _overlap_add(weights, hop).clamp(min=1e-4)
    left = n_fft // 2 if padding == "center" else (n_fft - hop) // 2
    total = spectrum.shape[2] * hop if padding == "same" else (spectrum.shape[2] - 1) * hop
    return samples[:, left : left + total]


def _overlap_add(frames: Float[Tensor, "batch window frame"], hop: int) -> Float[Tensor, "batch sample"]:
    n_fft, count = frames.shape[1], frames.shape[2]
    total = (count - 1) * hop + n_fft
    return F.fold(frames, (1, total), (1, n_fft), stride=(1, hop))[:, 0, 0]


class LogMel(nn.Module):
    """Natural logarithm of a mel spectrogram; has no weights and nothing to save."""

    window: Tensor
    filters: Tensor

    def __init__(self, config: MelConfig) -> None:
        super().__init__()
        self.config = config
        filters = mel_filterbank(
            sample_rate_hz=config.sample_rate_hz,
            n_fft=config.n_fft,
            num_bands=config.num_bands,
            f_min_hz=config.f_min_hz,
            f_max_hz=config.f_max_hz,
            scale=config.scale,
            norm=config.norm,
        )
        self.register_buffer("window", torch.hann_window(config.n_fft), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def linear(self, audio: Float[Tensor, "batch sample"]) -> Mel:
        """The mel spectrogram before the logarithm."""
        spectrum = stft(audio, self.window, hop=self.config.hop, padding=self.config.padding)
        # view_as_real keeps the gradient finite at zero, where that of abs() is not used by log-floor losses either
        energy = torch.view_as_real(spectrum).square().sum(-1)
        bins = energy if self.config.power == 2 else torch.sqrt(energy + 1e-12)
        with torch.autocast(audio.device.type, enabled=False):
            return torch.matmul(self.filters, bins)

    def forward(self, audio: Float[Tensor, "batch sample"]) -> Mel:
        """Log-mel of [batch, sample] audio: samples // hop + 1 frames (center) or samples // hop (same)."""
        return torch.log(self.linear(audio).clamp(min=self.config.floor))

    def num_frames(self, num_samples: int) -> int:
        """Frames that `forward` makes of so many samples."""
        return num_frames(num_samples, n_fft=self.config.n_fft, hop=self.config.hop, padding=self.config.padding)
