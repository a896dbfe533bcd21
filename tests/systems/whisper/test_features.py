"""The log-mels and their traps: whose loudest value counts, the last frame, and what is too short."""

import pytest
import torch

from voder.systems.whisper.features import LogMel, fit_window


@pytest.fixture(scope="module")
def log_mel():
    return LogMel(80)


def test_the_loudest_value_is_that_of_the_whole_recording_not_of_a_window(log_mel):
    generator = torch.Generator().manual_seed(0)
    quiet = 1e-4 * torch.randn(1, 16_000, generator=generator)
    loud = 0.5 * torch.randn(1, 16_000, generator=generator)
    alone, after = log_mel(quiet), log_mel(torch.cat((loud, quiet), dim=1))
    # beside something loud, the quiet second is cut at 8 decades below it
    assert after[..., 110:].min() == pytest.approx(float(after.max()) - 2.0)
    assert alone.max() - alone.min() <= 2.0
    inside = slice(10, 90)
    louder = torch.maximum(alone[..., inside], after.max() - 2.0)
    torch.testing.assert_close(after[..., 110:190], louder, atol=1e-5, rtol=0)


def test_transformers_extractor_gives_the_same_for_one_window(log_mel):
    from transformers import WhisperFeatureExtractor

    audio = torch.randn(48_000, generator=torch.Generator().manual_seed(1)) * 0.1
    padded = torch.cat((audio, torch.zeros(480_000 - 48_000)))
    expected = WhisperFeatureExtractor(feature_size=80)(padded.numpy(), sampling_rate=16_000, return_tensors="pt")
    torch.testing.assert_close(log_mel(padded[None]), expected.input_features, atol=2e-5, rtol=0)


def test_there_is_a_frame_for_every_whole_hop(log_mel):
    assert log_mel(torch.zeros(2, 16_000)).shape == (2, 80, 100)
    assert log_mel(torch.zeros(1, 1), padding=480_000).shape == (1, 80, 3000)
    with pytest.raises(ValueError, match="at least 201"):
        log_mel(torch.zeros(1, 200))


def test_a_window_is_filled_up_with_zeros(log_mel):
    mel = log_mel(torch.ones(1, 1600))
    window = fit_window(mel, 30)
    assert torch.equal(window[..., :10], mel)
    assert not window[..., 10:].any()
    assert torch.equal(fit_window(mel, 4), mel[..., :4])
