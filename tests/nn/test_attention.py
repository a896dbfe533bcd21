"""Attention: masks, rotary positions, the cache, and the CPU training path."""

import pytest
import torch

from voder.nn.attention import (
    Attention,
    attend,
    causal_mask,
    padding_mask,
    prefix_causal_mask,
    rotate,
    rotation,
)
from voder.nn.cache import StaticCache


def valid(*lengths: int, size: int) -> torch.Tensor:
    return torch.arange(size) < torch.tensor(lengths)[:, None]


def test_attention_equals_the_formula() -> None:
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 6, 8)
    mask = causal_mask(valid(6, 4, size=6))
    scores = (query @ key.transpose(-1, -2)) / 8**0.5
    expected = scores.masked_fill(~mask[:, None], -torch.inf).softmax(-1) @ value
    torch.testing.assert_close(attend(query, key, value, mask), expected)


def test_the_bf16_training_path_has_the_same_result_and_gradient() -> None:
    torch.manual_seed(0)
    mask = causal_mask(valid(6, 4, size=6))
    given = torch.randn(3, 2, 4, 6, 8)
    full = given.clone().requires_grad_()
    half = given.bfloat16().requires_grad_()
    attend(*full, mask).square().sum().backward()
    attend(*half, mask).square().sum().backward()
    assert half.grad is not None
    assert full.grad is not None
    torch.testing.assert_close(half.grad.float(), full.grad, atol=0.05, rtol=0.05)


def test_padding_mask_sees_both_ways_and_never_padding() -> None:
    mask = padding_mask(valid(2, 3, size=3))
    assert mask[0].tolist() == [[True, True, False], [True, True, False], [True, True, True]]
    assert mask[1].all()


def test_causal_mask_sees_the_past_only() -> None:
    mask = causal_mask(valid(3, size=3))
    assert mask[0].tolist() == [[True, False, False], [True, True, False], [True, True, True]]


def test_prefix_sees_itself_both_ways_and_the_rest_sees_prefix_and_past() -> None:
    mask = prefix_causal_mask(valid(2, size=3), valid(2, size=2))[0]
    assert mask.tolist() == [
        [True, True, False, False, False],
        [True, True, False, False, False],
        [True, True, True, False, False],  # padding looks at itself, nobody looks at it
        [True, True, False, True, False],
        [True, True, False, True, True],
    ]


def test_every_query_may_look_at_something_even_in_an_empty_row() -> None:
    for mask in (padding_mask(valid(0, size=4)), causal_mask(valid(0, size=4))):
        assert mask.any(dim=-1).all()


def test_rotated_products_depend_on_distance_only() -> None:
    torch.manual_seed(0)
    query, key = torch.randn(2, 1, 1, 1, 16)

    def product(at_query: float, at_key: float) -> torch.Tensor:
        turned = [rotate(x, rotation(torch.tensor([[at]]), 16)) for x, at in ((query, at_query), (key, at_key))]
        return (turned[0] * turned[1]).sum()

    torch.testing.assert_close(product(5.0, 2.0), product(-1.5, -4.5))
    assert abs(product(5.0, 2.0) - product(5.0, 3.0)) > 1e-3


def test_a_cache_step_equals_the_whole() -> None:
    torch.manual_seed(0)
    attention = Attention(16, 2).eval()
    x = torch.randn(2, 5, 16)
    positions = torch.arange(5.0).expand(2, 5)
    whole = attention(x, mask=causal_mask(valid(5, 5, size=5)), positions=rotation(positions, 8))
    cache = StaticCache(1, 5)
    for step in range(5):
        out = attention(
            x[:, step : step + 1],
            positions=rotation(positions[:, step : step + 1], 8),
            cache=cache,
        )
        cache.advance(1)
        torch.testing.assert_close(out[:, 0], whole[:, step])


def test_a_full_cache_says_so() -> None:
    cache = StaticCache(1, 2)
    with pytest.raises(ValueError, match="holds 2 positions; 3 are needed"):
        cache.append(0, torch.zeros(1, 1, 3, 4), torch.zeros(1, 1, 3, 4))


def test_select_reorders_and_repeats_rows() -> None:
    cache = StaticCache(1, 2)
    keys = torch.tensor([1.0, 2.0])[:, None, None, None]
    cache.append(0, keys, keys)
    cache.advance(1)
    cache.select(torch.tensor([1, 1, 0]))
    past, _ = cache.append(0, torch.zeros(3, 1, 1, 1), torch.zeros(3, 1, 1, 1))
    assert past[:, 0, 0, 0].tolist() == [2.0, 2.0, 1.0]


def test_width_must_fit_the_heads() -> None:
    with pytest.raises(ValueError, match="twice num_heads"):
        Attention(18, 4)
