"""Byte dropout: rate, scale, and doing nothing where it should do nothing."""

import pytest
import torch

from voder.nn.dropout import ByteDropout


def test_rate_and_mean_are_kept() -> None:
    torch.manual_seed(0)
    out = ByteDropout(0.1)(torch.ones(1000, 103))
    assert abs(float((out == 0).float().mean()) - 26 / 256) < 0.005
    assert abs(float(out.mean()) - 1) < 0.005


def test_gradient_flows_through_what_was_kept() -> None:
    torch.manual_seed(0)
    x = torch.ones(64, requires_grad=True)
    out = ByteDropout(0.5)(x)
    out.sum().backward()
    assert x.grad is not None
    assert torch.equal(x.grad, out.detach())


def test_the_same_seed_drops_the_same() -> None:
    x, layer = torch.ones(999), ByteDropout(0.3)
    torch.manual_seed(1)
    first = layer(x)
    torch.manual_seed(1)
    assert torch.equal(first, layer(x))
    assert not torch.equal(first, layer(x))


def test_nothing_is_dropped_in_evaluation_or_at_rate_zero() -> None:
    x = torch.randn(100)
    assert torch.equal(ByteDropout(0.5).eval()(x), x)
    assert torch.equal(ByteDropout(0.0)(x), x)


def test_a_share_of_one_is_refused() -> None:
    with pytest.raises(ValueError, match=r"1\.0"):
        ByteDropout(1.0)
