import torch

from voder.nn.discriminators import MultiScaleSTFTDiscriminator


def test_every_scale_judges_stereo_and_returns_its_features():
    model = MultiScaleSTFTDiscriminator(channels=2, filters=4, n_ffts=(256, 128))
    judged = model(torch.randn(3, 2, 1000))
    assert [tuple(x.shape[:2]) for x in judged.logits] == [(3, 1), (3, 1)]
    assert [len(features) for features in judged.features] == [5, 5]
    assert judged.logits[0].shape[2] == (1000 - 256) // 64 + 1


def test_the_package_default_has_the_published_size():
    model = MultiScaleSTFTDiscriminator()
    assert abs(sum(p.numel() for p in model.parameters()) - 283_000) < 1000


def test_the_spectrum_is_float32_under_autocast_and_divided_by_the_window():
    model = MultiScaleSTFTDiscriminator(filters=2, n_ffts=(64,))
    scale = model.scales[0]
    audio = torch.randn(1, 1, 64)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        spectrum = scale.spectrum(audio)
    window = torch.hann_window(64)
    wanted = torch.fft.rfft(audio[0, 0] * window) / window.square().sum().sqrt()
    torch.testing.assert_close(spectrum[0, 0, 0], wanted.real)
    torch.testing.assert_close(spectrum[0, 1, 0], wanted.imag)


def test_it_learns_to_tell_noise_from_tones():
    torch.manual_seed(0)
    model = MultiScaleSTFTDiscriminator(filters=4, n_ffts=(128,))
    optimizer = torch.optim.Adam(model.parameters(), lr=3e-3)
    tones = torch.sin(torch.arange(512) * torch.rand(8, 1, 1))
    noise = 0.7 * torch.randn(8, 1, 512)
    history = []
    for _ in range(30):
        optimizer.zero_grad()
        loss = (1 - model(tones).logits[0]).relu().mean() + (1 + model(noise).logits[0]).relu().mean()
        loss.backward()
        history.append(loss.item())
        optimizer.step()
    assert history[-1] < 1.0 < history[0]
