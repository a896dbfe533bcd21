import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voder.coding.arithmetic import Decoder, Encoder, fewest_bits, quantised_cdf
from voder.errors import InputError


def tables_and_symbols(seed, count, symbols, sharpness):
    generator = torch.Generator().manual_seed(seed)
    probabilities = torch.softmax(sharpness * torch.randn(count, symbols, generator=generator), dim=1)
    drawn = torch.multinomial(probabilities, 1, generator=generator)[:, 0].tolist()
    return quantised_cdf(probabilities).numpy(), drawn


def encode(symbols, tables):
    encoder = Encoder()
    for symbol, row in zip(symbols, tables, strict=True):
        encoder.push(symbol, row)
    return encoder.finish()


@settings(max_examples=30, deadline=None)
@given(seed=st.integers(0, 2**32), count=st.integers(0, 60), symbols=st.integers(8, 300), sharpness=st.floats(0, 8))
def test_every_stream_comes_back_and_ends_where_it_should(seed, count, symbols, sharpness):
    tables, drawn = tables_and_symbols(seed, count, symbols, sharpness)
    coded = encode(drawn, tables)
    decoder = Decoder(coded + b"\xff")
    assert [decoder.pull(row) for row in tables] == drawn
    assert decoder.num_bytes_read == len(coded)


def test_size_is_that_of_the_information():
    tables, drawn = tables_and_symbols(0, 2000, 64, 2.0)
    ranges = np.diff(tables, axis=1, prepend=0)
    bits = -np.log2(ranges[np.arange(2000), drawn] / 2**24).sum()
    assert abs(8 * len(encode(drawn, tables)) - bits) < 40


def test_no_symbol_is_cheaper_than_the_fewest_bits():
    table = quantised_cdf(torch.eye(64)[:1]).numpy()
    symbols = [0] * 10_000
    assert 8 * len(encode(symbols, table.repeat(10_000, 0))) >= 10_000 * fewest_bits(64)


def test_tables_rise_by_two_at_least_and_end_near_the_total():
    tables = quantised_cdf(torch.softmax(30 * torch.randn(50, 1024), dim=1)).numpy()
    assert np.diff(tables, axis=1, prepend=0).min() >= 2
    assert (abs(tables[:, -1] - 2**24) < 2048).all()


def test_a_symbol_outside_its_interval_is_refused_unless_asked_for():
    over = np.array([4, 2**24 + 1])
    with pytest.raises(ValueError, match="rounded badly"):
        Encoder().push(1, over)
    with pytest.raises(ValueError, match="the table has 2"):
        Encoder().push(2, over)
    official = Encoder(strict=False)
    official.push(1, over)
    assert Decoder(official.finish()).pull(over) == 1


def test_a_stream_that_ends_early_is_named():
    tables, drawn = tables_and_symbols(1, 50, 64, 1.0)
    decoder = Decoder(encode(drawn, tables)[:-3])
    with pytest.raises(InputError, match="ends after"):
        [decoder.pull(row) for row in tables]


def test_a_gap_between_symbols_is_named():
    table = np.array([2, 2**23])  # the upper half belongs to nobody
    with pytest.raises(InputError, match="fits no symbol"):
        Decoder(b"\xff" * 8).pull(table)


def test_too_many_symbols_are_refused():
    with pytest.raises(ValueError, match="do not fit 4 bits"):
        quantised_cdf(torch.full((1, 9), 1 / 9), 4)
