"""Copies of a recording that a model has not seen yet: what is said and by whom stays, the samples do not.

Three small changes, each of which changes nearly every code: speed (tempo and pitch together, as in Ko et al.,
Interspeech 2015), level, and where the recording begins in the grid of frames.
"""

from dataclasses import replace

import numpy as np

from voder.audio.io import AudioClip
from voder.audio.resample import resample

SPEED_PERCENT = 10
"""Faster or slower by at most this."""
LEVEL_DB = 3.0
"""Louder or softer by at most this, and never louder than full scale."""
SHIFT_S = 0.04
"""Silence before the beginning, at most."""


def vary_clip(clip: AudioClip, rng: np.random.Generator) -> AudioClip:
    """A varied copy; the same generator gives the same changes at every sample rate."""
    percent = 100 + int(rng.integers(-SPEED_PERCENT, SPEED_PERCENT + 1))
    gain = 10 ** (rng.uniform(-LEVEL_DB, LEVEL_DB) / 20)
    silence = round(rng.uniform(0, SHIFT_S) * clip.sample_rate_hz)
    samples = resample(clip.samples, percent, 100)
    peak = float(np.abs(samples).max(initial=0.0))
    varied = samples * np.float32(min(gain, max(1.0, 1 / max(peak, 1e-9))))
    return replace(clip, samples=np.pad(varied, ((0, 0), (silence, 0))).astype(np.float32))
