import pytest
import torch

from voder.nn.losses import (
    MelL1Loss,
    MultiResolutionSTFTLoss,
    MultiScaleMelLoss,
    discriminator_hinge,
    feature_matching,
    generator_hinge,
    negative_si_snr,
)

RATE = 16_000
SPECTRAL = [
    MelL1Loss(sample_rate_hz=RATE, num_bands=40),
    MultiScaleMelLoss(sample_rate_hz=RATE, end=9, num_bands=16),
    MultiResolutionSTFTLoss(n_ffts=(512,), hops=(128,), windows=(400,)),
]


def signals():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(2, 1, 3000, generator=generator), torch.randn(2, 1, 3000, generator=generator)


@pytest.mark.parametrize("loss", SPECTRAL, ids=lambda loss: type(loss).__name__)
def test_spectral_losses_vanish_on_equality_and_stay_float32_under_autocast(loss):
    a, b = signals()
    assert float(loss(a, a)) < 1e-6 < float(loss(b, a))
    with torch.autocast("cpu", dtype=torch.bfloat16):
        torch.testing.assert_close(loss(b, a), loss(b, a).float(), rtol=0, atol=0)
        under = loss(b, a)
    torch.testing.assert_close(under, loss(b, a), rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("loss", SPECTRAL, ids=lambda loss: type(loss).__name__)
def test_the_gradient_of_silence_is_finite(loss):
    silent = torch.zeros(2, 1, 3000, requires_grad=True)
    (gradient,) = torch.autograd.grad(loss(silent, signals()[0]), silent)
    assert torch.isfinite(gradient).all()


def test_normalised_mel_loss_divides_by_its_weights():
    a, b = signals()
    plain = MultiScaleMelLoss(sample_rate_hz=RATE, start=6, end=8, num_bands=16)
    divided = MultiScaleMelLoss(sample_rate_hz=RATE, start=6, end=8, num_bands=16, normalised=True)
    torch.testing.assert_close(divided(a, b) * (2 + 63**0.5 + 127**0.5), plain(a, b))


def test_si_snr_ignores_scale_and_offset_and_measures_decibels():
    target = torch.sin(torch.arange(8000) * 0.1).view(1, 1, -1)
    noise = torch.cos(torch.arange(8000) * 0.1).view(1, 1, -1)
    noisy = 3 * (target + 0.1 * noise) + 1
    assert float(negative_si_snr(noisy, target)) == pytest.approx(-20, abs=0.1)
    assert float(negative_si_snr(noisy - 1, target, frame=1600)) == pytest.approx(-20, abs=0.5)


def test_hinge_losses_stop_pushing_when_the_margin_is_reached():
    assert float(discriminator_hinge([torch.full((2,), 1.5)], [torch.full((2,), -1.5)])) == 0
    assert float(discriminator_hinge([torch.zeros(2)], [torch.zeros(2)])) == 2
    assert float(generator_hinge([torch.ones(2), 3 * torch.ones(4)])) == -2


def test_feature_matching_is_relative_and_moves_only_the_fake():
    real = [[torch.full((2, 3), 10.0, requires_grad=True)]]
    fake = [[torch.full((2, 3), 9.0, requires_grad=True)]]
    loss = feature_matching(real, fake)
    assert loss.item() == pytest.approx(0.1)
    loss.backward()
    assert real[0][0].grad is None
    assert fake[0][0].grad is not None
