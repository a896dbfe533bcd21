from dataclasses import replace

import pytest
import torch

from voder.nn.quantize.rvq import ResidualVectorQuantizer, RVQConfig, canonical_rows, kmeans, nearest

SMALL = RVQConfig(num_codebooks=3, codebook_size=16, dim=6, decay=0.9, kmeans_iterations=5)


def quantizer(seed=0, **changes):
    torch.manual_seed(seed)
    return ResidualVectorQuantizer(replace(SMALL, **changes))


def latents(seed=1, batch=4, frames=30):
    return torch.randn(batch, 6, frames, generator=torch.Generator().manual_seed(seed))


def test_nearest_is_brute_force_and_the_lowest_id_wins_ties():
    points, vectors = torch.randn(500, 6), torch.randn(40, 6)
    assert torch.equal(nearest(points, vectors), torch.cdist(points, vectors).argmin(dim=1))
    assert nearest(torch.ones(1, 2), torch.ones(3, 2)).tolist() == [0]
    assert nearest(torch.ones(0, 2), torch.ones(3, 2)).shape == (0,)


def test_kmeans_finds_separate_clusters_and_leaves_empty_ones_alone():
    centres = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0]])
    points = (centres[:, None] + 0.1 * torch.randn(3, 20, 2)).flatten(0, 1)
    found = kmeans(points, torch.tensor([0, 20, 40]), 5)
    torch.testing.assert_close(found.means, centres, atol=0.2, rtol=0)
    assert found.counts.tolist() == [20, 20, 20]
    same_start = kmeans(points, torch.tensor([0, 0, 20]), 1)
    assert same_start.counts[1] == 0
    assert torch.equal(same_start.means[1], points[0])


def test_decode_of_encode_is_the_quantised_value_and_codebooks_nest():
    model = quantizer(kmeans_init=False).eval()
    x = latents()
    result = model(x)
    assert torch.equal(result.codes, model.encode(x))
    torch.testing.assert_close(model.decode(result.codes), result.values)
    assert torch.equal(model.encode(x, 2), result.codes[:, :2])
    torch.testing.assert_close(model.decode(result.codes[:, :2]), model(x, num_codebooks=2).values)


def test_gradient_passes_straight_through():
    model, x = quantizer(), latents().requires_grad_()
    weight = torch.randn_like(x)
    (gradient,) = torch.autograd.grad((model(x).values * weight).sum(), x)
    torch.testing.assert_close(gradient, weight)


@pytest.mark.parametrize("flavour", ["repaired", "official"])
def test_every_codebook_pulls_the_encoder_only_when_repaired(flavour):
    model, x = quantizer(straight_through=flavour, kmeans_init=False).eval(), latents().requires_grad_()
    (all_books,) = torch.autograd.grad(model(x).commitment * 3, x)
    (first,) = torch.autograd.grad(model(x, num_codebooks=1).commitment, x)
    assert torch.allclose(all_books, first) == (flavour == "official")


def test_warmup_passes_latents_then_fits_codebooks_to_residuals():
    model = quantizer(warmup_steps=2)
    for _ in range(2):
        assert not model.needs_initialising
        result = model(latents())
        assert torch.equal(result.values, latents())
        assert float(result.commitment) == 0
    assert model.needs_initialising
    model.initialise(latents(2, 8, 40).transpose(1, 2).flatten(0, 1))
    assert not model.needs_initialising
    result = model(latents())
    errors = [float((model.decode(result.codes[:, : k + 1]) - latents()).square().mean()) for k in range(3)]
    assert errors[0] < 0.8
    assert errors == sorted(errors, reverse=True)
    assert all(len(book.unique()) > 8 for book in result.codes.transpose(0, 1))


def test_the_recipe_of_the_digit_codec_uses_all_its_codes():
    config = RVQConfig(
        num_codebooks=4, codebook_size=256, dim=8, decay=0.98, warmup_steps=3, kmeans_iterations=8, dropout=0.25
    )
    torch.manual_seed(0)
    model = ResidualVectorQuantizer(config)
    for step in range(20):
        torch.manual_seed(step)
        x = torch.randn(16, 8, 13)
        if model.needs_initialising:
            model.initialise(torch.randn(8192, 8))
        model(x)
    assert all(value > 200 for value in model.perplexity().tolist())


@pytest.mark.parametrize("updates", ["repaired", "official"])
def test_dead_codes_move_into_the_data_only_when_repaired(updates):
    model = quantizer(updates=updates, kmeans_init=False, num_codebooks=1)
    book = model.codebooks[0]
    book.vectors[3:] = 100.0
    book.sums.copy_(book.vectors)
    book.counts.fill_(1.0)
    for _ in range(40):
        model(latents())
    alive = int((book.vectors.abs().max(dim=1).values < 20).sum())
    assert (alive == 16) == (updates == "repaired")


def test_masked_frames_reach_neither_codebooks_nor_losses():
    x, mask = latents(), torch.arange(30)[None].expand(4, -1) < torch.tensor([30, 10, 20, 1])[:, None]
    results = []
    for junk in (0.0, 50.0):
        model = quantizer(kmeans_init=False)
        torch.manual_seed(3)
        result = model(torch.where(mask[:, None], x, junk), mask)
        results.append((result.commitment, model.state_dict()))
    torch.testing.assert_close(results[0], results[1], rtol=0, atol=0)


def test_codes_do_not_change_under_autocast():
    model, x = quantizer(kmeans_init=False).eval(), latents(batch=16, frames=200)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        result = model(x)
        assert torch.equal(model.encode(x), result.codes)
    assert torch.equal(result.codes, model.encode(x))
    assert result.values.dtype == torch.float32


def test_dropout_uses_fewer_codebooks_in_training_only_and_obeys_the_seed():
    model = quantizer(dropout=1.0, kmeans_init=False)
    counts = []
    for seed in range(20):
        torch.manual_seed(seed)
        counts.append(model(latents()).codes.shape[1])
    torch.manual_seed(7)
    assert model(latents()).codes.shape[1] == counts[7]
    assert set(counts) == {1, 2, 3}
    assert model.eval()(latents()).codes.shape[1] == 3


def test_a_saved_quantizer_goes_on_as_if_never_stopped():
    models = [quantizer(warmup_steps=1), quantizer(seed=9, warmup_steps=1)]
    for step in range(6):
        if step in (1, 3):  # before and after the codebooks are fitted
            models[1].load_state_dict(models[0].state_dict())
        for model in models:
            torch.manual_seed(step)
            model(latents(step))
    torch.testing.assert_close(models[0].state_dict(), models[1].state_dict(), rtol=0, atol=0)


def test_nothing_moves_in_evaluation():
    model = quantizer(kmeans_init=False).eval()
    before = {name: value.clone() for name, value in model.state_dict().items()}
    model(latents())
    model.encode(latents())
    torch.testing.assert_close(model.state_dict(), before, rtol=0, atol=0)


def test_row_order_does_not_matter_for_draws():
    rows = torch.randn(50, 3)
    assert torch.equal(canonical_rows(rows), canonical_rows(rows[torch.randperm(50)]))


def test_impossible_numbers_of_codebooks_are_refused():
    model = quantizer(kmeans_init=False)
    for count in (0, 4):
        with pytest.raises(ValueError, match="1 to 3"):
            model(latents(), num_codebooks=count)
        with pytest.raises(ValueError, match="1 to 3"):
            model.encode(latents(), count)
    with pytest.raises(ValueError, match="4 codebooks"):
        model.decode(torch.zeros(1, 4, 2, dtype=torch.int64))


def test_perplexity_counts_effective_codes():
    model = quantizer(kmeans_init=False)
    book = model.codebooks[0]
    book.counts.zero_()
    book.counts[:4] = 2.5
    assert float(model.perplexity()[0]) == pytest.approx(4.0)
