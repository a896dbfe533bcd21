"""Arithmetic coding with the exact intervals of EnCodec's coder (2210.13438, §3.3), so that its streams can
be read.

The interval [low, high] is held in Python integers; each step doubles it until it is at least 2^24 wide,
narrows it to the symbol's share (rounded inwards in doubles), and emits the leading bits on which both ends
agree. Bits fill each byte from the least significant one. The doubles are exact on every IEEE machine; what
may differ between machines are the probabilities, so a stream made with a language model is safe only where
it was made.
"""

import math

import numpy as np
from jaxtyping import Float, Int
from torch import Tensor

from voder.errors import InputError

RANGE_BITS = 24
_TOTAL = 1 << RANGE_BITS
_MIN_RANGE = 2


def quantised_cdf(
    probabilities: Float[Tensor, "*rows symbol"], range_bits: int = RANGE_BITS
) -> Int[Tensor, "*rows symbol"]:
    """Turn float32 probabilities into cumulative integer ranges of at least 2, about 2^range_bits in all.

    Rounding may leave the last entry of a row above the total: such a row must not code its last symbol,
    which `Encoder` refuses.
    """
    total, symbols = 1 << range_bits, probabilities.shape[-1]
    share = _MIN_RANGE * symbols / total
    if share > 1:
        raise ValueError(f"{symbols} symbols do not fit {range_bits} bits")
    # probabilities closer than 1e-8 count as equal: that is all the protection against other hardware there
    # is
    stable = (probabilities.detach().float() / 1e-8).floor() * 1e-8
    return (((1 - share) * total * stable).floor().long() + _MIN_RANGE).cumsum(dim=-1)


def fewest_bits(num_symbols: int) -> float:
    """Bits that a symbol costs at the very least, since every other symbol keeps a range of 2."""
    return -math.log2(1 - _MIN_RANGE * (num_symbols - 1) / _TOTAL)


class _Interval:
    """The state that coder and decoder share."""

    def __init__(self) -> None:
        self.low, self.high, self.top_bit = 0, 0, -1

    @property
    def width(self) -> int:
        return self.high - self.low + 1

    def double(self) -> None:
        self.low, self.high, self.top_bit = self.low * 2, self.high * 2 + 1, self.top_bit + 1

    def settle(self) -> list[int]:
        """Take off the leading bits on which both ends agree, and return them."""
        bits = []
        while self.top_bit >= 0 and (bit := self.low >> self.top_bit) == self.high >> self.top_bit:
            self.low -= bit << self.top_bit
            self.high -= bit << self.top_bit
            self.top_bit -= 1
            bits.append(bit)
        return bits


class Encoder:
    """Codes symbols one by one; `finish` gives the bytes.

    `strict=False` codes a last symbol whose row ends above the total as the original does: one beyond its
    interval, where another stream may begin.
    """

    def __init__(self, *, strict: bool = True) -> None:
        self._strict = strict
        self._interval = _Interval()
        self._bits: list[int] = []

    def push(self, symbol: int, cdf: Int[np.ndarray, " symbol"]) -> None:
        """Code one symbol by its row of cumulative ranges.

        Raises:
            ValueError: the symbol has no room: not in the table, or last in a row that ends above the total.
        """
        if not 0 <= symbol < len(cdf):
            raise ValueError(f"symbol is {symbol}; the table has {len(cdf)}")
        if self._strict and cdf[symbol] > _TOTAL:
            raise ValueError(f"symbol {symbol} reaches beyond 2^{RANGE_BITS}; its table is rounded badly")
        state = self._interval
        while state.width < _TOTAL:
            state.double()
        unit = state.width / _TOTAL
        first = int(cdf[symbol - 1]) if symbol else 0
        state.high = state.low + math.floor((int(cdf[symbol]) - 1) * unit)
        state.low = state.low + math.ceil(first * unit)
        self._bits += state.settle()

    def finish(self) -> bytes:
        """Emit what is left of the interval's low end and give all bytes."""
        state = self._interval
        self._bits += [state.low >> bit & 1 for bit in range(state.top_bit, -1, -1)]
        state.top_bit = -1
        return np.packbits(np.array(self._bits, dtype=np.uint8), bitorder="little").tobytes()


class Decoder:
    """Reads symbols one by one from bytes."""

    def __init__(self, data: bytes) -> None:
        self._interval = _Interval()
        self._data = data
        self._value = 0
        self._position = 0

    @property
    def num_bytes_read(self) -> int:
        """Bytes that the symbols read so far have touched."""
        return -(-self._position // 8)

    def pull(self, cdf: Int[np.ndarray, " symbol"]) -> int:
        """Read the next symbol by its row of cumulative ranges.

        Raises:
            InputError: the bytes end, or fit no symbol.
        """
        state = self._interval
        while state.width < _TOTAL:
            state.double()
            self._value = self._value * 2 + self._next_bit()
        unit = state.width / _TOTAL
        offset = self._value - state.low
        starts = np.ceil(np.concatenate(([0], cdf[:-1])) * unit)
        symbol = int(np.searchsorted(starts, offset, side="right")) - 1
        end = math.floor((int(cdf[symbol]) - 1) * unit)
        if offset > end:
            raise InputError("the coded stream fits no symbol: it is damaged, or made with other probabilities")
        state.high = state.low + end
        state.low = state.low + int(starts[symbol])
        state.settle()
        self._value &= (1 << (state.top_bit + 1)) - 1  # the same leading bits leave the value
        return symbol

    def _next_bit(self) -> int:
        byte, bit = divmod(self._position, 8)
        if byte >= len(self._data):
            raise InputError(f"the coded stream ends after {len(self._data)} bytes, before its last symbol")
        self._position += 1
        return self._data[byte] >> bit & 1
