import numpy as np
import pytest
import torch

from voder.audio.features import (
    LogMel,
    MelConfig,
    hz_to_mel,
    inverse_stft,
    mel_filterbank,
    mel_to_hz,
    num_frames,
    stft,
)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
@pytest.mark.parametrize("norm", ["none", "slaney"])
def test_filterbank_equals_transformers(scale, norm):
    from transformers.audio_utils import mel_filter_bank

    ours = mel_filterbank(
        sample_rate_hz=16000, n_fft=400, num_bands=80, f_min_hz=20.0, f_max_hz=7600.0, scale=scale, norm=norm
    )
    theirs = mel_filter_bank(201, 80, 20, 7600, 16000, norm=None if norm == "none" else norm, mel_scale=scale)
    np.testing.assert_allclose(ours.numpy(), theirs.T, atol=1e-6)


@pytest.mark.parametrize("scale", ["htk", "slaney"])
def test_mel_scale_inverts(scale):
    frequency = torch.tensor([0.0, 500.0, 999.0, 1001.0, 7000.0], dtype=torch.float64)
    torch.testing.assert_close(mel_to_hz(hz_to_mel(frequency, scale), scale), frequency, rtol=1e-6, atol=1e-6)


def test_filterbank_refuses_bands_beyond_half_the_rate():
    with pytest.raises(ValueError, match="f_max_hz"):
        mel_filterbank(sample_rate_hz=8000, n_fft=256, num_bands=20, f_max_hz=5000.0)


@pytest.mark.parametrize("padding", ["center", "same"])
@pytest.mark.parametrize("num_samples", [80, 81, 159, 160, 4000])
def test_frame_counts_are_those_of_the_integers(padding, num_samples):
    mel = LogMel(MelConfig(padding=padding, num_bands=10))
    made = mel(torch.randn(2, num_samples))
    assert made.shape == (2, 10, mel.num_frames(num_samples))
    assert made.shape[2] == num_frames(num_samples, n_fft=320, hop=80, padding=padding)


@pytest.mark.parametrize("padding", ["center", "same"])
def test_frames_in_a_padded_batch_are_those_alone(padding):
    mel = LogMel(MelConfig(padding=padding))
    short, long = torch.randn(1, 1000), torch.randn(1, 2400)
    batch = torch.zeros(2, 2400)
    batch[0, :1000], batch[1] = short, long
    alone = mel(short)
    torch.testing.assert_close(mel(batch)[:1, :, : alone.shape[2]], alone, rtol=0, atol=1e-6)


def test_a_tone_lands_in_its_band():
    time = torch.arange(8000) / 8000
    mel = LogMel(MelConfig(num_bands=64))
    loudest = mel(torch.sin(2 * torch.pi * 1000 * time)[None])[0].mean(1).argmax()
    corners = mel_to_hz(torch.linspace(0, float(hz_to_mel(torch.tensor(4000.0), "htk")), 66), "htk")
    assert abs(float(corners[loudest + 1]) - 1000) < 60


@pytest.mark.parametrize("padding", ["center", "same"])
def test_inverse_stft_restores_the_waveform(padding):
    window = torch.hann_window(320)
    audio = torch.randn(2, 1600)
    restored = inverse_stft(stft(audio, window, hop=80, padding=padding), window, hop=80, padding=padding)
    assert restored.shape == audio.shape
    torch.testing.assert_close(restored[:, 160:-160], audio[:, 160:-160], rtol=1e-4, atol=1e-5)


def test_inverse_stft_of_valid_frames_ends_as_alone():
    window = torch.hann_window(320)
    spectrum = torch.randn(1, 161, 9, dtype=torch.complex64)
    longer = torch.cat([spectrum, torch.randn(1, 161, 5, dtype=torch.complex64)], dim=2)
    valid = (torch.arange(14) < 9).float()[None]
    alone = inverse_stft(spectrum, window, hop=80)
    torch.testing.assert_close(inverse_stft(longer, window, hop=80, valid=valid)[:, :720], alone)


def test_spectra_stay_in_fp32_under_autocast():
    audio = torch.randn(1, 1600)
    mel = LogMel(MelConfig())
    plain = mel(audio)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        cast = mel(audio)
    assert cast.dtype == torch.float32
    torch.testing.assert_close(cast, plain, rtol=0, atol=0)


def test_silence_has_a_finite_gradient():
    audio = torch.zeros(1, 800, requires_grad=True)
    LogMel(MelConfig()).linear(audio).sum().backward()
    assert torch.isfinite(audio.grad).all()
