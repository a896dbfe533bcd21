from dataclasses import replace

import pytest
import torch

from voder.nn.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder

TINY = SEANetConfig(dim=6, num_filters=2, ratios=(4, 3, 2), num_lstm_layers=1)


@pytest.mark.parametrize("norm", ["weight_norm", "time_group_norm", "none"])
@pytest.mark.parametrize("causal", [True, False])
def test_a_started_hop_is_a_frame_and_a_frame_is_a_hop(norm, causal):
    config = replace(TINY, norm=norm, causal=causal, channels=2)
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    for samples in (1, 23, 24, 25, 100):
        latent = encoder(torch.randn(2, 2, samples))
        assert latent.shape == (2, 6, -(-samples // 24))
        assert decoder(latent).shape == (2, 2, latent.shape[2] * 24)


def test_the_published_model_has_the_published_number_of_parameters():
    parts = SEANetEncoder(SEANetConfig()), SEANetDecoder(SEANetConfig())
    assert sum(p.numel() for part in parts for p in part.parameters()) == 14_851_810


def test_a_causal_encoder_ignores_the_future_after_the_first_frames():
    encoder = SEANetEncoder(TINY).eval()
    x = torch.randn(1, 1, 480)
    changed = x.clone()
    changed[..., 240:] = torch.randn(240)
    assert torch.equal(encoder(x)[..., :10], encoder(changed)[..., :10])


def test_true_skip_has_no_shortcut_weights():
    names = SEANetEncoder(replace(TINY, true_skip=True)).state_dict()
    assert not any("shortcut" in name for name in names)
    assert any("shortcut" in name for name in SEANetEncoder(TINY).state_dict())


@pytest.mark.parametrize("count", [0, 1, 3, 5])
def test_outer_blocks_lose_their_norm_from_the_audio_inwards(count):
    config = replace(TINY, unnormed_outer_blocks=count, num_lstm_layers=0)

    def blocks(model):
        """Per block from the audio inwards: whether its main convolution is normed."""
        keys = [n for n in model.state_dict() if n.endswith(".conv.bias") and "block" not in n and "shortcut" not in n]
        return [n.replace("bias", "parametrizations.weight.original0") in model.state_dict() for n in keys]

    expected = [False] * count + [True] * (5 - count)
    assert blocks(SEANetEncoder(config)) == expected
    assert blocks(SEANetDecoder(config))[::-1] == expected


def test_the_signal_survives_all_layers_of_a_fresh_model():
    torch.manual_seed(0)
    config = SEANetConfig(num_filters=8, dim=32)
    latent = SEANetEncoder(config)(torch.randn(1, 1, 16000))
    assert 0.3 < float(latent.detach().std()) < 3
    moving = float(latent.detach().var(dim=2).mean() / latent.detach().square().mean())
    assert moving > 0.3  # of the power is not a constant
    audio = SEANetDecoder(config)(torch.randn(1, 32, 50))
    assert 0.03 < float(audio.detach().std()) < 0.5


def test_options_act():
    base = SEANetEncoder(TINY)
    for change in (
        {"kernel": 5},
        {"last_kernel": 3},
        {"residual_kernel": 5},
        {"compress": 1},
        {"num_residual_layers": 2},
    ):
        other = SEANetEncoder(replace(TINY, **change))
        assert sum(p.numel() for p in other.parameters()) != sum(p.numel() for p in base.parameters()), change
    config = replace(TINY, num_residual_layers=2)
    x = torch.randn(1, 1, 200)
    wide = SEANetEncoder(replace(config, dilation_base=3))
    narrow = SEANetEncoder(config)
    narrow.load_state_dict(wide.state_dict())
    assert not torch.equal(wide(x), narrow(x))


def test_snake_and_a_lstm_both_ways_are_options():
    torch.manual_seed(0)
    sizes = {"dim": 4, "num_filters": 2, "ratios": (2, 2), "num_lstm_layers": 1, "causal": False}
    config = SEANetConfig(**sizes, activation="snake", bidirectional=True)
    encoder, decoder = SEANetEncoder(config), SEANetDecoder(config)
    latent = encoder(torch.randn(1, 1, 17))
    assert latent.shape == (1, 4, 5)
    assert decoder(latent).shape == (1, 1, 20)
    assert encoder.state_dict()["layers.7.lstm.weight_ih_l0_reverse"].shape[1] == 8
    assert decoder.layers[1].lstm.bidirectional is False
    assert sum(name.endswith("alpha") for name in encoder.state_dict()) == 7
