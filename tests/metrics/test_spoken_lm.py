import numpy as np
import pytest

from voder.metrics.spoken_lm import pair_accuracy


def test_who_is_always_right_and_who_knows_nothing():
    assert pair_accuracy([2.0, 3.0], [1.0, 2.9]) == 1.0
    assert pair_accuracy([1.0, 1.0], [1.0, 1.0]) == 0.5
    draws = np.random.default_rng(0).standard_normal((2, 4000)).tolist()
    assert pair_accuracy(*draws) == pytest.approx(0.5, abs=0.03)


def test_half_a_pair_is_refused():
    with pytest.raises(ValueError, match="1 right and 2 wrong"):
        pair_accuracy([1.0], [1.0, 2.0])
    with pytest.raises(ValueError, match="at least one"):
        pair_accuracy([], [])
