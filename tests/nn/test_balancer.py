import pytest
import torch

from voder.nn.balancer import Balancer


def terms(y, scale=1.0):
    return {"near": scale * (y - 1).square().mean(), "far": 1000 * y.abs().mean()}


def test_shares_of_the_gradient_do_not_depend_on_the_scale_of_a_loss():
    y = torch.randn(3, 1, 40, requires_grad=True)
    gradients = []
    for scale in (1.0, 1e-4):
        balancer = Balancer({"near": 1.0, "far": 3.0})
        gradients.append(torch.autograd.grad(balancer(terms(y, scale), y), y)[0])
    torch.testing.assert_close(*gradients, rtol=1e-4, atol=1e-6)


def test_weights_are_shares_of_the_total_norm():
    y = torch.randn(3, 1, 40, requires_grad=True)
    balancer = Balancer({"near": 1.0, "far": 3.0}, total_norm=2.0)
    (gradient,) = torch.autograd.grad(balancer({"near": terms(y)["near"]}, y), y)
    assert float(gradient.flatten(1).norm(dim=1).mean()) == pytest.approx(2.0, rel=1e-4)


def test_without_rescaling_it_is_the_weighted_sum():
    y = torch.randn(2, 1, 8, requires_grad=True)
    balancer = Balancer({"near": 0.5, "far": 2.0}, rescale=False)
    loss = balancer(terms(y), y)
    plain = 0.5 * terms(y)["near"] + 2.0 * terms(y)["far"]
    torch.testing.assert_close(loss, plain)
    torch.testing.assert_close(torch.autograd.grad(loss, y), torch.autograd.grad(plain, y))


def test_a_saved_balancer_goes_on_as_if_never_stopped():
    first, second = Balancer({"near": 1.0, "far": 1.0}, decay=0.5), Balancer({"near": 1.0, "far": 1.0}, decay=0.5)
    for step in range(3):
        y = (torch.randn(2, 1, 8) * 10**step).requires_grad_()
        if step == 2:
            second.load_state_dict(first.state_dict())
            assert torch.equal(second(terms(y), y), first(terms(y), y))
        first(terms(y), y)


def test_a_loss_without_weight_is_refused():
    y = torch.randn(2, 1, 8, requires_grad=True)
    with pytest.raises(ValueError, match="'far'"):
        Balancer({"near": 1.0})(terms(y), y)
