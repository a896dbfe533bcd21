import pytest
import torch
import torch.nn.functional as F

from voder.nn.conv import PaddedConv1d, PaddedConvTranspose1d, ResidualLSTM, pad


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "stride", "dilation"), [(7, 1, 1), (3, 1, 4), (4, 2, 1), (16, 8, 1), (5, 5, 1)])
def test_every_started_stride_is_a_frame(causal, kernel, stride, dilation):
    layer = PaddedConv1d(2, 3, kernel, stride=stride, dilation=dilation, causal=causal)
    for samples in (1, 2, stride, stride + 1, 40):
        assert layer(torch.randn(1, 2, samples)).shape == (1, 3, -(-samples // stride))


@pytest.mark.parametrize("causal", [True, False])
@pytest.mark.parametrize(("kernel", "stride"), [(4, 2), (5, 2), (16, 8), (3, 3)])
def test_transposed_layers_give_stride_samples_a_frame(causal, kernel, stride):
    layer = PaddedConvTranspose1d(2, 3, kernel, stride=stride, causal=causal, trim_right=0.5)
    for frames in (1, 2, 9):
        assert layer(torch.randn(1, 2, frames)).shape == (1, 3, frames * stride)


def test_reflection_of_a_short_signal_sees_zeros_behind_it():
    x = torch.tensor([[[1.0, 2.0]]])
    assert pad(x, 3, 0, "reflect")[0, 0].tolist() == [0.0, 0.0, 2.0, 1.0, 2.0]
    long = torch.randn(1, 1, 9)
    assert torch.equal(pad(long, 3, 2, "reflect"), F.pad(long, (3, 2), mode="reflect"))


@pytest.mark.parametrize("mode", ["reflect", "constant"])
def test_causal_layers_ignore_the_future(mode):
    layers = torch.nn.Sequential(
        PaddedConv1d(1, 4, 7, pad_mode=mode),
        PaddedConv1d(4, 4, 8, stride=4, pad_mode=mode),
        PaddedConvTranspose1d(4, 1, 8, stride=4),
    )
    x = torch.randn(1, 1, 80)
    changed = x.clone()
    changed[..., 40:] = torch.randn(40)
    assert torch.equal(layers(x)[..., :40], layers(changed)[..., :40])
    early = x.clone()
    early[..., 3] += 1.0
    sees_ahead = not torch.equal(layers[0](x)[..., 0], layers[0](early)[..., 0])
    assert sees_ahead == (mode == "reflect")


def test_group_norm_follows_the_untrimmed_signal():
    layer = PaddedConvTranspose1d(2, 3, 8, stride=4, norm="time_group_norm")
    whole = layer.norm(layer.conv(torch.ones(1, 2, 5)))
    assert torch.equal(layer(torch.ones(1, 2, 5)), whole[..., :20])


def test_weight_norm_is_per_output_and_for_transposed_layers_per_input_channel():
    names = "conv.parametrizations.weight.original0"
    assert PaddedConv1d(2, 3, 3).state_dict()[names].shape == (3, 1, 1)
    assert PaddedConvTranspose1d(2, 3, 3).state_dict()[names].shape == (2, 1, 1)


def test_lstm_adds_to_its_input():
    layer = ResidualLSTM(4, 2)
    for parameter in layer.parameters():
        torch.nn.init.zeros_(parameter)
    x = torch.randn(2, 4, 7)
    assert torch.equal(layer(x), x)


def test_gaps_between_windows_are_refused():
    with pytest.raises(ValueError, match="gaps"):
        PaddedConv1d(1, 1, 3, stride=4)
    with pytest.raises(ValueError, match="gaps"):
        PaddedConvTranspose1d(1, 1, 3, stride=4)
