"""Recordings as users give them become batches as parts take them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from voder.audio.io import AudioClip, read_audio
from voder.errors import AudioError
from voder.shapes import Audio, Lengths

Waveform = AudioClip | np.ndarray | Tensor
"""What a verb takes as a recording: a clip, or samples `[sample]` or `[channel, sample]` with their rate."""


def as_clip(audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> AudioClip:
    """Return `audio` as a clip.

    Raises:
        AudioError: an array without its sample rate, a rate that contradicts the clip's own, a wrong shape.
    """
    if isinstance(audio, str | Path):
        return read_audio(Path(audio))
    if isinstance(audio, AudioClip):
        if sample_rate_hz is not None and sample_rate_hz != audio.sample_rate_hz:
            raise AudioError(f"the clip says {audio.sample_rate_hz} Hz but sample_rate_hz={sample_rate_hz} was given")
        return audio
    if sample_rate_hz is None:
        raise AudioError("samples came without their rate: pass sample_rate_hz")
    samples = np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio, dtype=np.float32)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.size == 0:
        raise AudioError(f"samples have shape {samples.shape}; allowed are [sample] and [channel, sample], not empty")
    if not np.isfinite(samples).all():
        raise AudioError("samples contain NaN or infinite values")
    return AudioClip(samples, sample_rate_hz)


def fit_clip(clip: AudioClip, *, sample_rate_hz: int, channels: int) -> AudioClip:
    """Bring a clip to a part's sample rate and channel count (mono is the mean, stereo from mono a copy)."""
    return clip.with_channels(channels).at_rate(sample_rate_hz)


def collate_clips(clips: Sequence[AudioClip], device: torch.device) -> tuple[Audio, Lengths]:
    """Zero-pad clips of one rate and channel count into a batch."""
    lengths = [clip.num_samples for clip in clips]
    audio = torch.zeros(len(clips), clips[0].samples.shape[0], max(lengths))
    for row, clip in zip(audio, clips, strict=True):
        row[:, : clip.num_samples] = torch.from_numpy(np.ascontiguousarray(clip.samples))
    return audio.to(device), torch.tensor(lengths, device=device)


def device_of(module: nn.Module) -> torch.device:
    """The device that holds a part."""
    return next(module.parameters()).device
