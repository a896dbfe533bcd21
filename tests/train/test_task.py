"""What tasks share."""

from voder.train.task import spread


def test_what_is_looked_at_again_is_spread_over_all_of_it():
    assert spread(range(10), 3) == [0, 3, 6]
    assert spread("abc", 9) == ["a", "b", "c"]
    assert spread([], 3) == []
