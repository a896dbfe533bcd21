"""Varied copies: the same draw at every rate, never louder than full scale, close to what was recorded."""

import numpy as np
import pytest

from voder.audio.io import AudioClip
from voder.audio.vary import LEVEL_DB, SHIFT_S, SPEED_PERCENT, vary_clip


def tone(sample_rate_hz: int, peak: float, seconds: float = 0.5) -> AudioClip:
    times = np.arange(round(seconds * sample_rate_hz)) / sample_rate_hz
    return AudioClip((peak * np.sin(2 * np.pi * 440 * times))[None].astype(np.float32), sample_rate_hz)


@pytest.mark.parametrize("peak", [0.02, 0.9, 1.0])
def test_a_copy_is_near_its_recording(peak: float) -> None:
    clip, lengths = tone(16_000, peak), set()
    for seed in range(50):
        copy = vary_clip(clip, np.random.default_rng(seed))
        lengths.add(copy.num_samples)
        assert copy.sample_rate_hz == clip.sample_rate_hz
        shortest, longest = clip.num_samples / (1 + SPEED_PERCENT / 100), clip.num_samples / (1 - SPEED_PERCENT / 100)
        assert shortest - 1 <= copy.num_samples <= longest + 1 + SHIFT_S * 16_000
        loudest = float(np.abs(copy.samples).max())
        assert loudest <= max(1.0, peak) * 1.01
        assert loudest <= peak * 10 ** (LEVEL_DB / 20) * 1.02
    assert len(lengths) > 40


def test_a_copy_is_the_same_at_every_rate() -> None:
    for seed in range(10):
        low, high = (vary_clip(tone(rate, 0.5), np.random.default_rng(seed)) for rate in (8_000, 24_000))
        assert abs(low.duration_s - high.duration_s) < 1e-3
        assert abs(np.abs(low.samples).max() - np.abs(high.samples).max()) < 0.02


def test_no_sample_and_silence_stay_what_they_are() -> None:
    copy = vary_clip(AudioClip(np.zeros((2, 100), np.float32), 8_000), np.random.default_rng(0))
    assert copy.channels == 2
    assert not copy.samples.any()
