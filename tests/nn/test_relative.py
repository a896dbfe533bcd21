"""T5's buckets: near distances one each, far ones shared, all of them causal; a cache changes nothing."""

import pytest
import torch

from voder.nn.attention import causal_mask
from voder.nn.cache import StaticCache
from voder.nn.relative import RelativePositions, bucket
from voder.nn.transformer import Transformer, TransformerConfig

SIZES = TransformerConfig(width=16, num_layers=2, num_heads=2, ffn_width=32, dropout=0.0)


def test_buckets_are_those_of_t5() -> None:
    """By the formula of T5's decoder, 32 buckets up to 128: what transformers computes."""
    distance = torch.tensor([-5, 0, 1, 15, 16, 17, 19, 20, 31, 32, 64, 127, 128, 100_000])
    assert bucket(distance, 32, 128).tolist() == [0, 0, 1, 15, 16, 16, 17, 17, 21, 21, 26, 31, 31, 31]


def test_distances_in_one_bucket_look_alike_and_others_do_not() -> None:
    torch.manual_seed(0)
    positions = RelativePositions(2, num_buckets=8, max_distance=16)
    at = torch.arange(40)[None]
    bias = positions(at, at)
    assert bias.shape == (1, 2, 40, 40)
    assert torch.equal(bias[0, :, 39, 0], bias[0, :, 39, 10])
    assert not torch.equal(bias[0, :, 39, 39], bias[0, :, 39, 38])
    assert torch.equal(bias[0, :, 20, 17], bias[0, :, 10, 7])


def test_cached_equals_recomputed_and_rows_can_be_kept() -> None:
    torch.manual_seed(0)
    model = Transformer(SIZES, relative=RelativePositions(2, 8, 16)).eval()
    x, at = torch.randn(2, 6, 16), torch.arange(6).expand(2, 6)
    whole = model(x, positions=at, mask=causal_mask(torch.ones(2, 6, dtype=torch.bool)))
    cache = StaticCache(SIZES.num_layers, 6)
    first = model(x[:, :4], positions=at[:, :4], mask=causal_mask(torch.ones(2, 4, dtype=torch.bool)), cache=cache)
    cache.select(torch.tensor([1]))
    steps = [model(x[1:, i : i + 1], positions=at[1:, i : i + 1], cache=cache) for i in (4, 5)]
    torch.testing.assert_close(torch.cat([first[1:], *steps], dim=1), whole[1:], atol=1e-5, rtol=0)


def test_only_differences_of_positions_matter_and_they_do() -> None:
    torch.manual_seed(0)
    model, x = Transformer(SIZES, relative=RelativePositions(2)).eval(), torch.randn(1, 4, 16)
    at = torch.arange(4)[None]
    torch.testing.assert_close(model(x, positions=at), model(x, positions=at + 70))
    assert not torch.allclose(model(x, positions=at), model(x, positions=at * 3), atol=1e-4)


def test_padding_changes_no_output() -> None:
    torch.manual_seed(0)
    model, x = Transformer(SIZES, relative=RelativePositions(2)).eval(), torch.randn(1, 7, 16)
    at = torch.arange(7)[None]
    padded = model(x, positions=at, mask=causal_mask(torch.arange(7)[None] < 4))
    alone = model(x[:, :4], positions=at[:, :4], mask=causal_mask(torch.ones(1, 4, dtype=torch.bool)))
    torch.testing.assert_close(padded[:, :4], alone)


def test_buckets_that_cannot_reach_are_refused() -> None:
    with pytest.raises(ValueError, match="beyond 16"):
        RelativePositions(2, num_buckets=32, max_distance=16)
