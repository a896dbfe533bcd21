"""From a recording to the samples that Pengi hears: 44.1 kHz, one channel, 7 seconds.

The authors flatten stereo (all of the left channel, then all of the right), repeat what is short and cut a random
stretch out of what is long. The default here mixes the channels and takes the beginning, so that nothing is random.
"""

from typing import Literal

import numpy as np
import torch
from jaxtyping import Float32

from voder.audio.io import AudioClip
from voder.audio.sinc import sinc_resample
from voder.errors import AudioError

Channels = Literal["mean", "behind"]
_MARGIN_S = 2
"""More than the filter of any two rates reaches beyond what is heard."""


def resample(clip: AudioClip, sample_rate_hz: int) -> Float32[np.ndarray, "channel sample"]:
    """The authors' change of rate (torchaudio's windowed sinc)."""
    samples = torch.from_numpy(np.ascontiguousarray(clip.samples))
    return sinc_resample(samples, clip.sample_rate_hz, sample_rate_hz).numpy()


def one_channel(samples: Float32[np.ndarray, "channel sample"], channels: Channels) -> Float32[np.ndarray, " mixed"]:
    """The mean of the channels, or one behind the other as the authors' `reshape(-1)` leaves them."""
    return samples.mean(axis=0, dtype=np.float32) if channels == "mean" else samples.reshape(-1)


def fit_length(
    samples: Float32[np.ndarray, " sample"], num_samples: int, rng: np.random.Generator | None = None
) -> Float32[np.ndarray, " heard"]:
    """Repeat what is short; of what is long take a stretch drawn by `rng`, or the beginning.

    Raises:
        AudioError: there is no sample.
    """
    if not len(samples):
        raise AudioError("a recording without samples cannot be heard")
    if len(samples) >= num_samples:
        start = 0 if rng is None else int(rng.integers(len(samples) - num_samples + 1))
        return samples[start : start + num_samples]
    return np.tile(samples, -(-num_samples // len(samples)))[:num_samples]


def hear(
    clip: AudioClip,
    *,
    sample_rate_hz: int,
    num_samples: int,
    channels: Channels = "mean",
    rng: np.random.Generator | None = None,
) -> Float32[np.ndarray, " sample"]:
    """The samples that the network gets of a clip of any rate and channel count."""
    if channels == "mean" and rng is None:  # an hour is not resampled for its first seconds
        enough = -(-num_samples * clip.sample_rate_hz // sample_rate_hz) + _MARGIN_S * clip.sample_rate_hz
        clip = AudioClip(clip.samples[:, :enough], clip.sample_rate_hz)
    return fit_length(one_channel(resample(clip, sample_rate_hz), channels), num_samples, rng)
