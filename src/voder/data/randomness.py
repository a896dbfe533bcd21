"""Randomness without state: every generator is a pure function of a seed and the names of a stream.

Training draws from `generator(seed, "crop", step, rank)` and the like, so that a resumed run needs no stored position.
"""

import hashlib

import numpy as np
import torch


def fold(seed: int, *stream: int | str) -> int:
    """Return 63 bits that depend on `seed` and every part of `stream`, the same on every machine."""
    parts = "".join(f"{type(part).__name__[0]}{len(str(part))}:{part}" for part in (int(seed), *stream))
    digest = hashlib.blake2b(parts.encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(seed: int, *stream: int | str) -> np.random.Generator:
    """Return a NumPy generator (Philox, counter-based) for one stream of one seed."""
    key = fold(seed, *stream) | fold(seed, "high", *stream) << 64
    return np.random.Generator(np.random.Philox(key=key))


def torch_generator(seed: int, *stream: int | str) -> torch.Generator:
    """Return a CPU torch generator for one stream of one seed."""
    return torch.Generator().manual_seed(fold(seed, *stream))
