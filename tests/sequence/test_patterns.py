"""Code patterns and their inverses."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voder.sequence.patterns import delay, flatten, join_fine, split_coarse, undelay, unflatten

shapes = st.tuples(st.integers(1, 5), st.integers(0, 7))


def codes(shape: tuple[int, int], size: int = 10) -> torch.Tensor:
    return torch.randint(size, shape, generator=torch.Generator().manual_seed(0))


@given(shape=shapes)
def test_flatten_is_inverted(shape: tuple[int, int]) -> None:
    given_codes = codes(shape)
    assert torch.equal(unflatten(flatten(given_codes, 10), shape[0], 10), given_codes)


def test_flatten_goes_frame_by_frame_with_a_range_per_codebook() -> None:
    assert flatten(torch.tensor([[1, 2], [3, 4]]), 10).tolist() == [1, 13, 2, 14]


def test_an_unfinished_frame_is_dropped_and_a_misplaced_id_refused() -> None:
    assert unflatten(torch.tensor([1, 13, 2]), 2, 10).tolist() == [[1], [3]]
    with pytest.raises(ValueError, match="outside the range"):
        unflatten(torch.tensor([13, 1]), 2, 10)


@given(shape=shapes)
def test_delay_is_inverted(shape: tuple[int, int]) -> None:
    given_codes = codes(shape)
    assert torch.equal(undelay(delay(given_codes, fill=-1)), given_codes)


def test_delay_shifts_by_the_codebook_number() -> None:
    assert delay(torch.tensor([[1, 2], [3, 4]]), fill=0).tolist() == [[1, 2, 0], [0, 3, 4]]


@given(shape=shapes, data=st.data())
def test_coarse_and_fine_join_again(shape: tuple[int, int], data: st.DataObject) -> None:
    given_codes = codes(shape)
    coarse, fine = split_coarse(given_codes, data.draw(st.integers(1, shape[0])))
    assert torch.equal(join_fine(coarse, fine), given_codes)


def test_a_split_beyond_the_codebooks_is_refused() -> None:
    with pytest.raises(ValueError, match="1 to 2"):
        split_coarse(codes((2, 3)), 3)
