import math

import pytest
import torch

from voder.audio.fbank import FLOOR, FbankConfig, kaldi_fbank


@pytest.mark.parametrize(("samples", "frames"), [(0, 0), (399, 0), (400, 1), (559, 1), (560, 2), (16_000, 98)])
def test_only_whole_windows_make_frames(samples, frames):
    assert kaldi_fbank(torch.randn(2, samples)).shape == (2, frames, 128)
    assert FbankConfig().num_frames(samples) == frames


def test_silence_and_a_constant_lie_at_the_floor():
    for audio in (torch.zeros(1, 800), torch.full((1, 800), 0.25)):
        assert torch.equal(kaldi_fbank(audio), torch.full((1, 3, 128), math.log(FLOOR)))


def test_a_tone_is_loudest_in_its_own_band():
    tone = torch.sin(2 * math.pi * 1000 * torch.arange(4000) / 16_000)[None]
    loudest = int(kaldi_fbank(tone)[0].mean(0).argmax())
    mels = [1127 * math.log1p(f / 700) for f in (20.0, 1000.0, 8000.0)]
    assert abs(loudest - ((mels[1] - mels[0]) / (mels[2] - mels[0]) * 129 - 1)) <= 1


def test_twice_as_loud_is_four_times_the_energy():
    audio = torch.randn(1, 1600, generator=torch.Generator().manual_seed(0)) * 0.1
    quiet, loud = kaldi_fbank(audio), kaldi_fbank(2 * audio)
    heard = quiet > math.log(FLOOR)
    torch.testing.assert_close(loud[heard] - quiet[heard], torch.full_like(quiet[heard], math.log(4.0)))
