"""Losses between waveforms, and those of a game against a discriminator. All compute in float32 under
autocast.

Spectral losses follow EnCodec (2210.13438, §3.4) and its audiocraft training code; the log-mel loss with a
high floor is the one that made an inverse-STFT codec intelligible within a minute of training.
"""

import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.features import mel_filterbank
from voder.shapes import Audio, Scalar

_EPS = torch.finfo(torch.float32).eps


class MelEnergy(nn.Module):
    """Mel energies of the audiocraft losses: reflect padding, HTK bands without area norm, no centring."""

    window: Tensor
    filters: Tensor

    def __init__(self, *, sample_rate_hz: int, n_fft: int, hop: int, num_bands: int, f_min_hz: float = 0.0) -> None:
        super().__init__()
        self.n_fft, self.hop = n_fft, hop
        bank = mel_filterbank(sample_rate_hz=sample_rate_hz, n_fft=n_fft, num_bands=num_bands, f_min_hz=f_min_hz)
        self.register_buffer("filters", bank, persistent=False)
        self.register_buffer("window", torch.hann_window(n_fft), persistent=False)

    def forward(self, audio: Audio) -> Float[Tensor, "item band frame"]:
        """Mel energies; channels count as items."""
        pad = (self.n_fft - self.hop) // 2
        with torch.autocast(audio.device.type, enabled=False):
            x = F.pad(audio.flatten(0, 1).float(), (pad, pad), mode="reflect")
            # zeros until the last frame is full, so that no sample goes unheard
            frames = math.ceil((x.shape[1] - self.n_fft) / self.hop) + 1
            x = F.pad(x, (0, (frames - 1) * self.hop + self.n_fft - x.shape[1]))
            spectrum = torch.stft(x, self.n_fft, self.hop, window=self.window, center=False, return_complex=True)
            return torch.matmul(self.filters, torch.view_as_real(spectrum).square().sum(dim=-1))


class MelL1Loss(nn.Module):
    """L1 on log10 mel energies of one window."""

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        n_fft: int = 1024,
        hop: int = 256,
        num_bands: int = 80,
        f_min_hz: float = 0.0,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.mel = MelEnergy(
            sample_rate_hz=sample_rate_hz, n_fft=n_fft, hop=hop, num_bands=num_bands, f_min_hz=f_min_hz
        )

    def forward(self, predicted: Audio, target: Audio) -> Scalar:
        """Compare two batches of waveforms."""
        with torch.no_grad():
            wanted = torch.log10(self.floor + self.mel(target))
        return F.l1_loss(torch.log10(self.floor + self.mel(predicted)), wanted)


class MultiScaleMelLoss(nn.Module):
    """Sum over windows 2^i of L1 on linear mel energies and, weighted by sqrt(2^i - 1), L2 on their log10.

    EnCodec's frequency loss as audiocraft trains it; `end` is exclusive. Each spectrogram is computed once.
    """

    def __init__(
        self,
        *,
        sample_rate_hz: int,
        start: int = 6,
        end: int = 11,
        num_bands: int = 64,
        f_min_hz: float = 0.0,
        normalised: bool = False,
        floor: float = 1e-5,
    ) -> None:
        super().__init__()
        self.floor = floor
        self.scales = nn.ModuleList(
            MelEnergy(
                sample_rate_hz=sample_rate_hz,
                n_fft=2**i,
                hop=2**i // 4,
                num_bands=num_bands,
                f_min_hz=f_min_hz,
            )
            for i in range(start, end)
        )
        self.alphas = [math.sqrt(2**i - 1) for i in range(start, end)]
        self.total = sum(alpha + 1 for alpha in self.alphas) if normalised else 1.0

    def forward(self, predicted: Audio, target: Audio) -> Scalar:
        """Compare two batches of waveforms."""
        loss = predicted.new_zeros((), dtype=torch.float32)
        for mel, alpha in zip(self.scales, self.alphas, strict=True):
            with torch.no_grad():
                wanted = mel(target)
            got = mel(predicted)
            logs = (torch.log10(self.floor + got), torch.log10(self.floor + wanted))
            loss = loss + F.l1_loss(got, wanted) + alpha * F.mse_loss(*logs)
        return loss / self.total


class MultiResolutionSTFTLoss(nn.Module):
    """Spectral convergence and log-magnitude L1 over several STFTs (Parallel WaveGAN, 1910.11480, §2.2)."""

    def __init__(
        self,
        *,
        n_ffts: Sequence[int] = (1024, 2048, 512),
        hops: Sequence[int] = (120, 240, 50),
        windows: Sequence[int] = (600, 1200, 240),
        convergence_weight: float = 0.1,
        magnitude_weight: float = 0.1,
    ) -> None:
        super().__init__()
        self.resolutions = list(zip(n_ffts, hops, windows, strict=True))
        self.weights = (convergence_weight, magnitude_weight)

    def forward(self, predicted: Audio, target: Audio) -> Scalar:
        """Compare two batches of waveforms."""
        convergence, magnitude = [], []
        for resolution in self.resolutions:
            got, wanted = self._magnitude(predicted, *resolution), self._magnitude(target, *resolution)
            distance = torch.linalg.vector_norm(wanted - got)
            convergence.append(distance / (torch.linalg.vector_norm(wanted) + _EPS))
            magnitude.append(F.l1_loss(torch.log(_EPS + got), torch.log(_EPS + wanted)))
        parts = (torch.stack(convergence).mean(), torch.stack(magnitude).mean())
        return self.weights[0] * parts[0] + self.weights[1] * parts[1]

    @staticmethod
    def _magnitude(audio: Audio, n_fft: int, hop: int, window: int) -> Tensor:
        with torch.autocast(audio.device.type, enabled=False):
            hann = torch.hann_window(window, device=audio.device)
            x = audio.flatten(0, 1).float()
            spectrum = torch.stft(x, n_fft, hop, window, hann, return_complex=True)
            # the gradient of a square root at zero is infinite
            return torch.view_as_real(spectrum).square().sum(dim=-1).clamp(min=1e-7).sqrt()


def negative_si_snr(predicted: Audio, target: Audio, *, frame: int | None = None, overlap: float = 0.5) -> Scalar:
    """Negative scale-invariant SNR in dB, over frames of so many samples (the whole signal by default)."""
    size = frame or target.shape[-1]
    hop = target.shape[-1] if frame is None else max(1, int(frame * (1 - overlap)))
    wanted, got = (_frames(audio.float(), size, hop) for audio in (target, predicted))
    floor = _EPS * size
    dot = (wanted * got).sum(dim=-1, keepdim=True)
    projected = dot * wanted / (floor + wanted.square().sum(dim=-1, keepdim=True))
    signal, noise = projected.square().sum(dim=-1), (got - projected).square().sum(dim=-1)
    return -10 * (torch.log10(floor + signal) - torch.log10(floor + noise)).mean()


def _frames(audio: Audio, frame: int, hop: int) -> Float[Tensor, "batch channel window position"]:
    count = math.ceil(audio.shape[-1] / hop)
    padded = F.pad(audio, (0, max(0, (count - 1) * hop + frame - audio.shape[-1])))
    framed = padded.unfold(-1, frame, hop)[:, :, :count]
    return framed - framed.mean(dim=-1, keepdim=True)


def discriminator_hinge(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Scalar:
    """Mean over discriminators of relu(1 - D(real)) + relu(1 + D(fake))."""
    terms = [F.relu(1 - r.float()).mean() + F.relu(1 + f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_hinge(fake: Sequence[Tensor]) -> Scalar:
    """Mean over discriminators of -D(fake)."""
    return -torch.stack([f.float().mean() for f in fake]).mean()


def feature_matching(real: Sequence[Sequence[Tensor]], fake: Sequence[Sequence[Tensor]]) -> Scalar:
    """Mean over discriminators and layers of |real - fake| / mean|real| (EnCodec, eq. 3)."""
    terms = []
    for real_layers, fake_layers in zip(real, fake, strict=True):
        for r, f in zip(real_layers, fake_layers, strict=True):
            wanted = r.detach().float()
            terms.append(F.l1_loss(f.float(), wanted) / wanted.abs().mean().clamp(min=1e-5))
    return torch.stack(terms).mean()
