import numpy as np
import pytest

from voder.coding.bits import num_bytes, pack, unpack
from voder.errors import InputError


@pytest.mark.parametrize(("books", "frames", "bits"), [(1, 1, 1), (4, 31, 10), (2, 7, 3), (8, 5, 8), (3, 0, 10)])
def test_codes_come_back(books, frames, bits):
    codes = np.random.default_rng(0).integers(0, 1 << bits, (books, frames))
    data = pack(codes, bits)
    assert len(data) == num_bytes(books * frames, bits)
    assert np.array_equal(unpack(data, books, frames, bits), codes)


def test_the_first_code_lies_in_the_lowest_bits():
    assert pack(np.array([[1], [2]]), 4) == bytes([0x21])
    assert pack(np.array([[0b1000000001]]), 10) == bytes([1, 2])


def test_too_few_bytes_and_codes_that_do_not_fit_are_refused():
    with pytest.raises(InputError, match="2 are needed"):
        unpack(b"\0", 1, 1, 10)
    with pytest.raises(InputError, match="do not fit 3 bits"):
        pack(np.array([[8]]), 3)
    with pytest.raises(InputError, match="do not fit"):
        pack(np.array([[-1]]), 3)
