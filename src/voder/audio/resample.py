"""Change of sample rate, by soxr (band-limited, linear phase), with an exact output length."""

from typing import TypeAlias

import numpy as np
import soxr
from jaxtyping import Float32

Samples: TypeAlias = Float32[np.ndarray, "channel sample"]
"""A waveform outside torch, in [-1, 1]."""


def resampled_length(num_samples: int, from_hz: int, to_hz: int) -> int:
    """Return ceil(num_samples * to_hz / from_hz), in integers."""
    return -(-num_samples * to_hz // from_hz)


def resample(samples: Samples, from_hz: int, to_hz: int) -> Float32[np.ndarray, "channel resampled"]:
    """Resample [channels, T] to [channels, ceil(T * to_hz / from_hz)], each channel alone (soxr HQ).

    Raises ValueError when a rate is not positive.
    """
    if from_hz <= 0 or to_hz <= 0:
        raise ValueError(f"sample rates must be positive, but are {from_hz} and {to_hz}")
    length = resampled_length(samples.shape[1], from_hz, to_hz)
    if from_hz == to_hz or length == 0:
        return samples
    # soxr rounds the length: a little silence behind the end yields the missing sample, and the cut removes the rest
    padding = 2 * (from_hz // to_hz + 1)
    padded = np.pad(samples, ((0, 0), (0, padding)))
    out = soxr.resample(padded.T, from_hz, to_hz, quality="HQ")
    return np.ascontiguousarray(out[:length].T, dtype=np.float32)
