"""Masks from lengths."""

import torch

from voder.sequence.masks import length_mask, masked_mean, next_token_targets


def test_length_mask() -> None:
    assert length_mask(torch.tensor([0, 2]), 3).tolist() == [[False] * 3, [True, True, False]]


def test_end_tokens_carry_loss_and_padding_never_even_with_the_same_id() -> None:
    end = 7
    ids = torch.tensor([[1, 2, 3], [4, end, end]])  # the second row is padded with the end id
    targets, mask = next_token_targets(ids, torch.tensor([3, 1]), end)
    assert targets[0].tolist() == [1, 2, 3, end]
    assert mask[0].tolist() == [True] * 4
    assert targets[1, :2].tolist() == [4, end]
    assert mask[1].tolist() == [True, True, False, False]


def test_an_end_id_inside_an_item_is_an_id_like_any_other() -> None:
    targets, mask = next_token_targets(torch.tensor([[7, 7]]), torch.tensor([2]), 7)
    assert targets.tolist() == [[7, 7, 7]]
    assert mask.all()


def test_masked_mean_ignores_the_rest_and_survives_an_empty_mask() -> None:
    values = torch.tensor([[1.0, 3.0, 100.0]])
    assert masked_mean(values, torch.tensor([[True, True, False]])) == 2
    assert masked_mean(values, torch.zeros(1, 3, dtype=torch.bool)) == 0
