"""Whisper's log-mel spectrogram (2212.04356, section 2.2): base-10 logarithm, 8 decades deep, scaled to about [-1, 1].

The loudest value that the depth is counted from is that of the whole recording given here: the original gives a whole
file, Hugging Face's extractor one window at a time, so quiet windows of a file differ between the two.
"""

from collections.abc import Callable

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.audio.features import mel_filterbank
from voder.shapes import Mel
from voder.systems.whisper.config import HOP, SAMPLE_RATE_HZ

N_FFT = 400


class LogMel(nn.Module):
    """Audio at 16 kHz to log-mels; has nothing to save."""

    window: Tensor
    filters: Tensor

    def __init__(self, num_bands: int) -> None:
        super().__init__()
        with torch.device("cpu"):  # tables of numbers are made even where a model is built without its weights
            filters = mel_filterbank(
                sample_rate_hz=SAMPLE_RATE_HZ, n_fft=N_FFT, num_bands=num_bands, scale="slaney", norm="slaney"
            )
        self.register_buffer("window", torch.hann_window(N_FFT), persistent=False)
        self.register_buffer("filters", filters, persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> "LogMel":
        """Move with the model, but keep the tables' numbers: a model in bfloat16 still hears in float32."""
        tables = dict(self.named_buffers(recurse=False))
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        for name, table in tables.items():
            setattr(self, name, table.to(getattr(self, name).device))
        return self

    def forward(self, audio: Float[Tensor, "batch sample"], padding: int = 0) -> Mel:
        """Log-mels of each recording followed by `padding` zeros: (samples + padding) // 160 frames.

        Raises ValueError below 201 samples: the edges are reflected.
        """
        if audio.shape[1] + padding <= N_FFT // 2:
            raise ValueError(f"{audio.shape[1]} samples and {padding} zeros are too few; at least 201 are needed")
        with torch.autocast(audio.device.type, enabled=False):
            padded = F.pad(audio.float(), (0, padding))
            spectrum = torch.stft(padded, N_FFT, HOP, window=self.window, center=True, return_complex=True)
            # the last frame is half reflection and is dropped
            energy = torch.view_as_real(spectrum[..., :-1]).square().sum(-1)
            logarithm = torch.matmul(self.filters, energy).clamp(min=1e-10).log10()
            floor = logarithm.amax(dim=(1, 2), keepdim=True) - 8.0
            return (torch.maximum(logarithm, floor) + 4.0) / 4.0


def fit_window(mel: Mel, num_frames: int) -> Float[Tensor, "batch band window"]:
    """Cut to `num_frames`, or fill up with zeros (which is not silence, but what the original does)."""
    return F.pad(mel[..., :num_frames], (0, max(0, num_frames - mel.shape[-1])))
