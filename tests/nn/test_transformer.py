"""The stack: padding changes nothing, the cache changes nothing, conditions act."""

import pytest
import torch

from voder.nn.attention import causal_mask, padding_mask
from voder.nn.cache import StaticCache
from voder.nn.transformer import Transformer, TransformerConfig

SIZES = TransformerConfig(width=16, num_layers=2, num_heads=2, ffn_width=32, dropout=0.1)


def stack(condition_width: int | None = None) -> Transformer:
    torch.manual_seed(0)
    return Transformer(SIZES, condition_width).eval()


def test_padding_changes_no_output() -> None:
    model, x = stack(), torch.randn(1, 4, 16)
    padded = torch.cat((x, torch.randn(1, 3, 16)), dim=1)
    at = torch.arange(7.0)[None]
    alone = model(x, positions=at[:, :4], mask=padding_mask(torch.ones(1, 4, dtype=torch.bool)))
    together = model(padded, positions=at, mask=padding_mask(torch.arange(7)[None] < 4))
    torch.testing.assert_close(together[:, :4], alone, atol=1e-6, rtol=0)


def test_cached_equals_recomputed() -> None:
    model, x = stack(), torch.randn(2, 6, 16)
    at = torch.arange(6.0).expand(2, 6)
    whole = model(x, positions=at, mask=causal_mask(torch.ones(2, 6, dtype=torch.bool)))
    cache = StaticCache(SIZES.num_layers, 6)
    first = model(x[:, :4], positions=at[:, :4], mask=causal_mask(torch.ones(2, 4, dtype=torch.bool)), cache=cache)
    steps = [model(x[:, i : i + 1], positions=at[:, i : i + 1], cache=cache) for i in (4, 5)]
    torch.testing.assert_close(torch.cat([first, *steps], dim=1), whole, atol=1e-5, rtol=0)
    assert cache.length == 6


def test_positions_matter_and_only_their_differences() -> None:
    model, x = stack(), torch.randn(1, 4, 16)
    at = torch.arange(4.0)[None]
    torch.testing.assert_close(model(x, positions=at), model(x, positions=at - 7.5), atol=1e-5, rtol=0)
    assert not torch.allclose(model(x, positions=at), model(x, positions=at * 2), atol=1e-3)


def test_a_fresh_adaptive_norm_is_a_plain_one_and_a_trained_one_listens() -> None:
    model, x, at = stack(condition_width=8), torch.randn(1, 4, 16), torch.arange(4.0)[None]
    one, other = torch.zeros(1, 8), torch.ones(1, 8)
    assert torch.equal(model(x, positions=at, condition=one), model(x, positions=at, condition=other))
    for name, parameter in model.named_parameters():
        if "projection.weight" in name and "norm" in name:
            torch.nn.init.normal_(parameter, std=0.1)
    assert not torch.allclose(model(x, positions=at, condition=one), model(x, positions=at, condition=other), atol=1e-3)


def test_a_missing_condition_is_an_error() -> None:
    with pytest.raises(ValueError, match="condition"):
        stack(condition_width=8)(torch.randn(1, 2, 16), positions=torch.arange(2.0)[None])


def test_dropout_acts_in_training_only() -> None:
    model, x, at = stack(), torch.randn(1, 4, 16), torch.arange(4.0)[None]
    assert torch.equal(model(x, positions=at), model(x, positions=at))
    model.train()
    assert not torch.equal(model(x, positions=at), model(x, positions=at))


@pytest.mark.parametrize("wrong", [{"width": 18, "num_heads": 4}, {"dropout": 1.0}])
def test_impossible_sizes_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ValueError, match=str(next(iter(wrong.values())))):
        TransformerConfig(**wrong)  # type: ignore[arg-type]
