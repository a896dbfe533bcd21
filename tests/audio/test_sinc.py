import numpy as np
import pytest
import torch

from voder.audio.resample import resample
from voder.audio.sinc import sinc_resample


@pytest.mark.parametrize(("old", "new"), [(44100, 24000), (8000, 48000), (16000, 16000), (24000, 16000)])
def test_length_is_rounded_up_and_tones_survive(old, new):
    count = 4001
    tone = torch.sin(2 * torch.pi * 500 * torch.arange(count) / old)[None]
    out = sinc_resample(tone, old, new)
    assert out.shape == (1, -(-count * new // old))
    wanted = torch.sin(2 * torch.pi * 500 * torch.arange(out.shape[1]) / new)
    middle = slice(out.shape[1] // 4, out.shape[1] // 2)
    torch.testing.assert_close(out[0, middle], wanted[middle], atol=0.02, rtol=0)


def test_it_agrees_with_the_resampler_of_files():
    rng = np.random.default_rng(0)
    smooth = np.convolve(rng.standard_normal(3000), np.hanning(31), "same").astype(np.float32)[None]
    ours = sinc_resample(torch.from_numpy(smooth), 16000, 24000).numpy()
    theirs = resample(smooth, 16000, 24000)
    assert np.abs(ours - theirs)[:, 200:-200].max() < 0.02 * np.abs(smooth).max()


def test_gradients_flow():
    x = torch.randn(2, 3, 100, requires_grad=True)
    sinc_resample(x, 3, 2).square().sum().backward()
    assert x.grad is not None
    assert torch.isfinite(x.grad).all()
