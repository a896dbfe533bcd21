import sys

import numpy as np
import pytest

from voder.errors import ConfigError
from voder.metrics.audio import log_mel_distance, pesq, si_sdr, snr, stoi


def noise(seed, count=8000):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32) * 0.1


def speech_like(count):
    """Noise that comes and goes like syllables."""
    time = np.arange(count) / 8000
    return noise(0, count) * (0.55 + 0.45 * np.sin(2 * np.pi * 4 * time)).astype(np.float32)


def test_si_sdr_of_known_noise():
    target = noise(0)
    error = noise(1)
    target, error = target - target.mean(), error - error.mean()
    error -= (error @ target) / (target @ target) * target
    error *= np.linalg.norm(target) / np.linalg.norm(error) / 10
    assert si_sdr(target, 3 * (target + error)) == pytest.approx(20.0, abs=0.01)


def test_si_sdr_ignores_scale_and_offset():
    target, given = noise(0), noise(0) + 0.3 * noise(1)
    assert si_sdr(target, given) == pytest.approx(si_sdr(target, 0.1 * given + 0.5), abs=1e-3)


def test_si_sdr_refuses_silence_and_unequal_lengths():
    with pytest.raises(ValueError, match="silent"):
        si_sdr(np.zeros(10, np.float32), noise(0, 10))
    with pytest.raises(ValueError, match="10 and 9"):
        si_sdr(noise(0, 10), noise(0, 9))


def test_log_mel_distance_of_a_gain_is_its_logarithm():
    loud = 10 * noise(0)
    assert log_mel_distance(loud, 2 * loud, 8000, floor=1e-6) == pytest.approx(np.log(2), abs=1e-3)
    assert log_mel_distance(loud, loud, 8000) == 0


def test_stoi_falls_with_noise():
    clean = speech_like(8000)
    assert stoi(clean, clean, 8000) == pytest.approx(1.0, abs=1e-6)
    assert stoi(clean, clean + 0.5 * noise(1), 8000) < stoi(clean, clean + 0.05 * noise(1), 8000)


def test_stoi_scores_short_clips_and_gives_up_on_clips_too_short():
    clean = speech_like(2400)
    assert stoi(clean, clean, 8000) == pytest.approx(1.0, abs=1e-6)
    assert np.isnan(stoi(clean[:400], clean[:400], 8000))


def test_stoi_names_its_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "pystoi", None)
    with pytest.raises(ConfigError, match="metrics"):
        stoi(noise(0), noise(0), 8000)


def test_snr_counts_a_wrong_scale_as_noise():
    target = noise(0)
    assert snr(target, 0.9 * target) == pytest.approx(20.0, abs=0.01)
    assert snr(target, target) == float("inf")
    assert si_sdr(target, 0.9 * target) > 100
    with pytest.raises(ValueError, match="silent"):
        snr(np.zeros(10, np.float32), noise(0, 10))


def test_the_mean_counts_as_distortion_if_it_is_kept():
    target = noise(0)
    assert si_sdr(target, target + 0.1) > 60
    assert si_sdr(target, target + 0.1, zero_mean=False) < 5


def test_pesq_takes_only_its_rates(monkeypatch):
    with pytest.raises(ConfigError, match="16000 Hz, not 8000"):
        pesq(noise(0), noise(0), 8000)
    with pytest.raises(ConfigError, match="8000 or 16000 Hz, not 24000"):
        pesq(noise(0), noise(0), 24_000, band="narrow")
    monkeypatch.setitem(sys.modules, "pesq", None)
    with pytest.raises(ConfigError, match="pip install pesq"):
        pesq(noise(0), noise(0), 16_000)


def test_pesq_of_silence_is_refused_and_of_speech_ordered():
    pytest.importorskip("pesq")
    with pytest.raises(ValueError, match="silent"):
        pesq(np.zeros(16_000, np.float32), np.zeros(16_000, np.float32), 16_000)
    clean = speech_like(16_000)
    slightly, badly = (pesq(clean, clean + share * noise(1, 16_000), 8000, band="narrow") for share in (0.02, 1.0))
    assert badly < slightly <= 4.6
