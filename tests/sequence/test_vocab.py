"""Named id ranges."""

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from voder.sequence.vocab import IdRange, Vocabulary


def test_stacked_ranges_follow_one_another() -> None:
    vocabulary = Vocabulary.stacked(special=3, symbol=27, speaker=0, code=16)
    assert [(r.name, r.start, r.end) for r in vocabulary.ranges] == [
        ("special", 0, 3),
        ("symbol", 3, 30),
        ("speaker", 30, 30),
        ("code", 30, 46),
    ]
    assert vocabulary.size == 46


def test_overlaps_are_refused_by_name() -> None:
    with pytest.raises(ValueError, match="'b' starts at 4, inside 'a'"):
        Vocabulary([IdRange("a", 0, 5), IdRange("b", 4, 2)])


@pytest.mark.parametrize("ranges", [[IdRange("a", -1, 2)], [IdRange("a", 0, -1)], [IdRange("a", 0, 1)] * 2])
def test_impossible_ranges_are_refused(ranges: list[IdRange]) -> None:
    with pytest.raises(ValueError, match="a"):
        Vocabulary(ranges)


@given(sizes=st.lists(st.integers(0, 9), min_size=1, max_size=5))
def test_ids_and_locate_are_inverse(sizes: list[int]) -> None:
    vocabulary = Vocabulary.stacked(**{f"r{i}": size for i, size in enumerate(sizes)})
    for id_ in range(vocabulary.size):
        name, local = vocabulary.locate(id_)
        assert vocabulary.ids(name, local) == id_


def test_arrays_and_tensors_are_moved_whole() -> None:
    vocabulary = Vocabulary.stacked(a=2, b=3)
    assert vocabulary.ids("b", np.array([0, 2])).tolist() == [2, 4]
    assert vocabulary.ids("b", torch.tensor([0, 2])).tolist() == [2, 4]


def test_numbers_outside_a_range_are_refused() -> None:
    vocabulary = Vocabulary.stacked(a=2, b=3)
    with pytest.raises(ValueError, match="0 to 1"):
        vocabulary.ids("a", 2)
    with pytest.raises(ValueError, match="0 to 1"):
        vocabulary.ids("a", torch.tensor([0, -1]))
    with pytest.raises(ValueError, match="no range"):
        vocabulary.locate(5)
    with pytest.raises(ValueError, match="ranges are a, b"):
        vocabulary["c"]


def test_members_marks_exactly_the_named_ranges() -> None:
    assert Vocabulary.stacked(a=2, b=1, c=1).members("a", "c").tolist() == [True, True, False, True]
