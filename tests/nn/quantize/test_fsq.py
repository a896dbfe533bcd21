import pytest
import torch

from voder.nn.quantize import FiniteScalarQuantizer, FSQConfig, ResidualFSQ, ScalarGrid, build_fsq

CONVENTIONS = ["notebook", "vqp", "symmetric"]


@pytest.mark.parametrize("convention", CONVENTIONS)
@pytest.mark.parametrize("levels", [(8, 5, 5, 5), (3, 5, 4), (2, 2), (7,), (8, 6, 5)])
def test_every_code_comes_back_as_itself(convention, levels):
    grid = ScalarGrid(levels, convention)
    ids = torch.arange(grid.size)
    digits = grid.unnumber(ids)
    assert torch.equal(grid.number(digits), ids)
    assert all(int(digits[:, c].max()) == n - 1 for c, n in enumerate(levels))
    assert len(grid.values(digits).unique(dim=0)) == grid.size


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_every_level_can_be_reached_and_is_its_own_code(convention):
    grid = ScalarGrid((8, 5, 5, 5), convention)
    z = torch.linspace(-20, 20, 20001)[:, None].expand(-1, 4)
    digits = grid.digits(z)
    assert [len(digits[:, c].unique()) for c in range(4)] == [8, 5, 5, 5]
    torch.testing.assert_close(grid.quantise(z), grid.values(digits))


@pytest.mark.parametrize("convention", CONVENTIONS)
def test_gradient_is_that_of_the_squashing(convention):
    grid = ScalarGrid((8, 5), convention)
    z = torch.randn(50, 2, requires_grad=True)
    (through,) = torch.autograd.grad(grid.quantise(z).sum(), z)
    scale = 2 / (grid.levels - 1) if convention == "symmetric" else 1 / (grid.levels // 2)
    (soft,) = torch.autograd.grad((grid.bound(z) * scale).sum(), z)
    torch.testing.assert_close(through, soft)


@pytest.mark.parametrize("arrangement", ["parallel", "residual"])
def test_autocast_keeps_every_code(arrangement):
    torch.manual_seed(0)
    model = build_fsq(FSQConfig(levels=(8, 5, 5, 5), dim=16, num_codebooks=2, arrangement=arrangement))
    x = 2 * torch.randn(2, 16, 500)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        under = model(x)
        decoded = model.decode(under.codes)
    assert torch.equal(under.codes, model.encode(x))
    torch.testing.assert_close(decoded, under.values)
    assert under.values.dtype == torch.float32


def test_residual_stages_get_closer():
    model = ResidualFSQ(FSQConfig(levels=(5, 5, 5), dim=3, num_codebooks=4, arrangement="residual"))
    x = torch.rand(2, 3, 100) * 1.6 - 0.8
    softened = torch.tanh(x / 1.25) * 1.25
    errors = [float((model(x, num_codebooks=k).values - softened).abs().mean()) for k in (1, 2, 3, 4)]
    assert errors[3] < 0.3 * errors[1] < 0.1 * errors[0]
    torch.testing.assert_close(model.decode(model.encode(x, 2)), model(x, num_codebooks=2).values)


def test_parallel_codebooks_only_work_together():
    model = FiniteScalarQuantizer(FSQConfig(levels=(4, 4), dim=8, num_codebooks=2))
    with pytest.raises(ValueError, match="all 2"):
        model(torch.zeros(1, 8, 3), num_codebooks=1)
    with pytest.raises(ValueError, match="allowed are 0 to 15"):
        model.decode(torch.full((1, 2, 3), 16))


def test_perplexity_leaves_out_masked_frames():
    model = FiniteScalarQuantizer(FSQConfig(levels=(5,), dim=1))
    x = torch.tensor([[[0.0, 0.0, 3.0]]])
    mask = torch.tensor([[True, True, False]])
    assert float(model(x, mask).perplexity[0]) == pytest.approx(1.0)
    assert float(model(x).perplexity[0]) > 1.5


def test_wrong_levels_and_arrangements_are_refused():
    with pytest.raises(ValueError, match="at least 2"):
        ScalarGrid((1, 5))
    with pytest.raises(ValueError, match="hard_clamp"):
        ScalarGrid((5, 5), "vqp", hard_clamp=True)
    with pytest.raises(ValueError, match="ResidualFSQ"):
        FiniteScalarQuantizer(FSQConfig(arrangement="residual"))
    with pytest.raises(ValueError, match="FiniteScalarQuantizer"):
        ResidualFSQ(FSQConfig())
