"""Codes packed into a fixed number of bits each, least significant bit first, as EnCodec's files hold
them."""

import numpy as np
from jaxtyping import Int

from voder.errors import InputError

CodeArray = Int[np.ndarray, "codebook frame"]


def num_bytes(count: int, bits: int) -> int:
    """Bytes that `count` values of `bits` bits take."""
    return -(-count * bits // 8)


def pack(codes: CodeArray, bits: int) -> bytes:
    """Pack codes frame by frame, codebooks in order; the last byte is filled with zeros.

    Raises:
        InputError: a code does not fit.
    """
    values = codes.T.reshape(-1).astype(np.int64)
    if values.size and not 0 <= values.min() <= values.max() < 1 << bits:
        raise InputError(f"codes from {values.min()} to {values.max()} do not fit {bits} bits")
    table = values[:, None] >> np.arange(bits) & 1
    return np.packbits(table.reshape(-1).astype(np.uint8), bitorder="little").tobytes()


def unpack(data: bytes, num_codebooks: int, num_frames: int, bits: int) -> CodeArray:
    """Read codes that `pack` wrote.

    Raises:
        InputError: there are fewer bytes than the codes need.
    """
    count = num_codebooks * num_frames
    needed = num_bytes(count, bits)
    if len(data) < needed:
        raise InputError(f"the codes end after {len(data)} bytes; {needed} are needed")
    table = np.unpackbits(np.frombuffer(data[:needed], dtype=np.uint8), bitorder="little")[: count * bits]
    values = table.reshape(count, bits).astype(np.int64) << np.arange(bits)
    return values.sum(axis=1).reshape(num_frames, num_codebooks).T.copy()
