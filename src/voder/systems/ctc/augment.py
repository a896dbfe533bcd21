"""Variation of recordings for training: in the waveform (numpy, seeded) and in the mel spectrogram (torch).

Joining, speed and noise as in the usual recipes; the mel warp is vocal-tract length perturbation (Jaitly & Hinton,
2013) done on the mel axis, the masks are SpecAugment's (Park et al., 1904.08779, section 2, without time warping).
"""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voder.shapes import Lengths, Mel
from voder.systems.ctc.config import CtcAugment


def normalize_clip(samples: np.ndarray, peak: float = 0.7) -> np.ndarray:
    """Remove the mean and bring the loudest sample to `peak`."""
    centred = samples - samples.mean()
    return (centred * (peak / max(float(np.abs(centred).max()), 1e-4))).astype(np.float32)


def change_speed(samples: np.ndarray, factor: float) -> np.ndarray:
    """Play faster (factor > 1) or slower by linear interpolation."""
    count = max(int(len(samples) / factor), 1)
    return np.interp(np.arange(count) * factor, np.arange(len(samples)), samples).astype(np.float32)


def join_clips(clips: Sequence[np.ndarray], rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    """Join clips with 0 to 200 ms of silence before, between and after them."""
    pieces: list[np.ndarray] = []
    for clip in clips:
        pieces += [_silence(rng, sample_rate_hz), clip]
    return np.concatenate([*pieces, _silence(rng, sample_rate_hz)])


def _silence(rng: np.random.Generator, sample_rate_hz: int) -> np.ndarray:
    return np.zeros(int(rng.uniform(0.0, 0.2) * sample_rate_hz), np.float32)


def vary_waveform(samples: np.ndarray, rng: np.random.Generator, config: CtcAugment) -> np.ndarray:
    """Random gain, spectral tilt and noise floor."""
    tilt = rng.uniform(-config.tilt, config.tilt)
    tilted = samples.copy()
    tilted[1:] += np.float32(tilt) * samples[:-1]
    gain = 10.0 ** (rng.uniform(*config.gain_db) / 20.0)
    noise = rng.standard_normal(len(samples), dtype=np.float32)
    if rng.random() < 0.5:
        noise[1:] = (noise[1:] + noise[:-1]) * np.float32(0.707)
    level = 10.0 ** (rng.uniform(*config.noise_db) / 20.0)
    return (tilted * np.float32(gain) + noise * np.float32(level)).astype(np.float32)


def warp_bands(mel: Mel, stretch: Float[Tensor, " batch"]) -> Mel:
    """Stretch the band axis of each item: linear up to three quarters, then back to meet the last band."""
    bands = mel.shape[1]
    position = torch.arange(bands, device=mel.device, dtype=torch.float32)[None]
    knee, top = 0.75 * (bands - 1), bands - 1.0
    source = position * stretch[:, None]
    slope = (top - knee * stretch[:, None]) / (top - knee)
    beyond = knee * stretch[:, None] + (position - knee) * slope
    source = torch.where(position < knee, source, beyond).clamp(0, top)
    weights = (1.0 - (source[:, :, None] - position[:, None, :]).abs()).clamp(min=0.0)
    return torch.bmm(weights.to(mel.dtype), mel)


def vary_mel(mel: Mel, frames: Lengths, config: CtcAugment, hop_s: float) -> Mel:
    """Warp, scale, shift and mask normalised log-mels, with draws of the global generator that the loop seeds."""
    batch, bands, total = mel.shape
    device = mel.device
    stretch = 1.0 + (torch.rand(batch, device=device) * 2.0 - 1.0) * config.warp
    varied = warp_bands(mel, stretch)
    keep = torch.ones(batch, bands, 1, device=device, dtype=torch.bool)
    for _ in range(config.band_masks):
        keep &= ~_random_spans(torch.full((batch,), bands, device=device), bands, config.band_mask_size)[:, :, None]
    keep_frames = torch.ones(batch, 1, total, device=device, dtype=torch.bool)
    for index in range(round(float(total) * hop_s * config.frame_masks_per_s)):
        # an item is masked in proportion to its own length, not to the longest one's
        chosen = (index + 0.5) / (hop_s * max(config.frame_masks_per_s, 1e-6)) < frames
        spans = _random_spans(frames, total, config.frame_mask_size)
        keep_frames &= ~(spans & chosen[:, None])[:, None, :]
    # a band's mean over a short recording depends on what is said in it, its range on voice and room: rely on neither
    offset = torch.randn(batch, bands, 1, device=device) * config.band_offset
    scale = torch.exp(torch.randn(batch, bands, 1, device=device) * config.band_scale)
    inside = torch.arange(total, device=device)[None] < frames[:, None]
    return (varied * scale + offset) * (keep & keep_frames & inside[:, None]).to(mel.dtype)


def _random_spans(limits: Lengths, total: int, widest: int) -> Tensor:
    width = (torch.rand(len(limits), device=limits.device) * (widest + 1)).floor()
    start = (torch.rand(len(limits), device=limits.device) * (limits - width).clamp(min=0)).floor()
    position = torch.arange(total, device=limits.device)[None]
    return (position >= start[:, None]) & (position < (start + width)[:, None])
