import numpy as np
import pytest

from voder.metrics.codes import bitrate_bps, perplexity, usage


def test_uniform_and_collapsed_books():
    codes = np.array([np.arange(8), np.full(8, 3)])
    np.testing.assert_allclose(perplexity(codes, 8), [8, 1])
    np.testing.assert_allclose(usage(codes, 8), [1, 1 / 8])


def test_bitrate():
    assert bitrate_bps(25.0, 4, 256) == 800


def test_codes_out_of_range_are_refused():
    with pytest.raises(ValueError, match="0 to 7"):
        perplexity(np.array([[8]]), 8)
