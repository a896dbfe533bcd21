"""Causal networks give piece by piece what they give at once."""

import pytest
import torch
from torch import nn

from voder.nn.conv import PaddedConv1d, PaddedConvTranspose1d
from voder.nn.seanet import SEANetConfig, SEANetDecoder, SEANetEncoder
from voder.nn.streaming import Streamed, first_length, streams

NETS = {
    "reflect": SEANetConfig(dim=6, num_filters=4, ratios=(4, 2), num_residual_layers=2),
    "constant": SEANetConfig(dim=6, num_filters=4, ratios=(3, 2), pad_mode="constant", num_lstm_layers=0),
    "replicate": SEANetConfig(dim=6, num_filters=4, ratios=(2, 2), pad_mode="replicate", norm="none", true_skip=True),
    "snake": SEANetConfig(dim=6, num_filters=4, ratios=(2, 3), activation="snake", kernel=5, last_kernel=3),
}


@pytest.mark.parametrize("kind", list(NETS))
@pytest.mark.parametrize("frames", [1, 3, 8])
def test_any_cutting_into_frames_gives_the_whole(kind: str, frames: int) -> None:
    torch.manual_seed(0)
    net = NETS[kind]
    encoder, decoder = SEANetEncoder(net).layers, SEANetDecoder(net).layers
    first, hop = max(frames, first_length(encoder)), net.hop
    audio = torch.randn(2, 1, 40 * hop + hop // 2)
    with torch.no_grad():
        whole = encoder(audio)
        heard = decoder(whole)
    pieces = [audio[..., : first * hop], *audio[..., first * hop :].split(frames * hop, dim=-1)]
    stream = Streamed(encoder)
    made = [stream.push(piece, last=number == len(pieces) - 1) for number, piece in enumerate(pieces)]
    torch.testing.assert_close(torch.cat(made, -1), whole, rtol=0, atol=1e-5)
    first = max(frames, first_length(decoder))
    stream = Streamed(decoder)
    made = [stream.push(piece) for piece in (whole[..., :first], *whole[..., first:].split(frames, dim=-1))]
    torch.testing.assert_close(torch.cat(made, -1), heard, rtol=0, atol=1e-5)


def test_the_first_piece_is_as_long_as_reflection_reads() -> None:
    assert first_length(SEANetEncoder(SEANetConfig(num_filters=2))) == 7
    assert first_length(SEANetDecoder(SEANetConfig(num_filters=2))) == 7
    assert first_length(SEANetEncoder(NETS["constant"])) == 1
    assert first_length(nn.Sequential(PaddedConv1d(1, 1, 9, stride=1), PaddedConv1d(1, 1, 4, stride=4))) == 3


@pytest.mark.parametrize("change", [{"causal": False}, {"norm": "time_group_norm"}, {"bidirectional": True}])
def test_networks_that_look_ahead_do_not_stream(change: dict) -> None:
    net = SEANetEncoder(SEANetConfig(dim=6, num_filters=4, ratios=(2, 2), **change))
    assert not streams(net)
    with pytest.raises(ValueError, match="only causal"):
        Streamed(net.layers)


def test_a_transposed_layer_that_is_trimmed_on_the_left_does_not_stream() -> None:
    assert streams(PaddedConvTranspose1d(1, 1, 4, stride=2))
    assert not streams(PaddedConvTranspose1d(1, 1, 4, stride=2, trim_right=0.5))
