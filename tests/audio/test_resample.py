"""Resampling keeps tones, channels and the exact length."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voder.audio.resample import resample, resampled_length

RATES = [1_000, 8_000, 11_025, 16_000, 22_050, 24_000, 44_100, 48_000, 96_000]


@settings(max_examples=60, deadline=None)
@given(st.integers(0, 5_000), st.sampled_from(RATES), st.sampled_from(RATES))
def test_length_is_the_ceiling_for_any_length_and_rates(length, from_hz, to_hz):
    out = resample(np.zeros((2, length), np.float32), from_hz, to_hz)
    assert out.shape == (2, -(-length * to_hz // from_hz))
    assert out.dtype == np.float32


@pytest.mark.parametrize(("from_hz", "to_hz"), [(8_000, 24_000), (44_100, 16_000), (48_000, 8_000)])
def test_a_tone_keeps_its_frequency_and_level(from_hz, to_hz):
    tone = np.sin(2 * np.pi * 440 * np.arange(from_hz) / from_hz).astype(np.float32)
    out = resample(np.stack([tone, 0.5 * tone]), from_hz, to_hz)
    wanted = np.sin(2 * np.pi * 440 * np.arange(to_hz) / to_hz)
    middle = slice(to_hz // 10, -to_hz // 10)
    np.testing.assert_allclose(out[0, middle], wanted[middle], atol=2e-3)
    np.testing.assert_allclose(out[1], 0.5 * out[0], atol=1e-6)


def test_tones_above_the_new_limit_vanish():
    tone = np.sin(2 * np.pi * 6_000 * np.arange(16_000) / 16_000).astype(np.float32)
    assert np.abs(resample(tone[None], 16_000, 8_000)[0, 500:-500]).max() < 1e-3


def test_the_same_rate_changes_nothing():
    samples = np.random.default_rng(0).standard_normal((1, 100)).astype(np.float32)
    assert resample(samples, 8_000, 8_000) is samples


def test_length_is_computed_in_integers():
    assert resampled_length(2**53 + 1, 1, 1) == 2**53 + 1


def test_rates_must_be_positive():
    with pytest.raises(ValueError, match="0 and 8000"):
        resample(np.zeros((1, 5), np.float32), 0, 8_000)
