"""GGUF files (llama.cpp's, versions 2 and 3): settings, a tokenizer, and tensors in blocks of few bits.

Little endian: magic, version, counts, key-value pairs, one record per tensor (name, dimensions from the fastest, type,
offset), then data aligned to `general.alignment` (32). Read are float32, float16, bfloat16 and the block types

    Q4_0   32 values   scale (f16), 16 bytes of nibbles: low ones first       scale * (q - 8)
    Q4_1   32 values   scale, minimum (f16), 16 bytes of nibbles              scale * q + minimum
    Q8_0   32 values   scale (f16), 32 signed bytes                           scale * q
    Q6_K  256 values   128 bytes of low nibbles, 64 of high pairs, 16 signed bytes, scale (f16)
"""

import mmap
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from voder.errors import CheckpointError

_SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_STRING, _ARRAY = 8, 9
_LARGEST_COUNT = 1 << 28
Blocks = np.ndarray


def _half(blocks: Blocks, start: int) -> np.ndarray:
    """A float16 in every block, as a column of float32."""
    return np.ascontiguousarray(blocks[:, start : start + 2]).view("<f2").astype(np.float32)


def _nibbles(packed: Blocks) -> np.ndarray:
    return np.concatenate((packed & 15, packed >> 4), axis=1).astype(np.float32)


def _q4_0(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * (_nibbles(blocks[:, 2:]) - 8)


def _q4_1(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * _nibbles(blocks[:, 4:]) + _half(blocks, 2)


def _q8_0(blocks: Blocks) -> np.ndarray:
    return _half(blocks, 0) * np.ascontiguousarray(blocks[:, 2:]).view(np.int8).astype(np.float32)


def _q6_k(blocks: Blocks) -> np.ndarray:
    low, high = blocks[:, :128].reshape(-1, 2, 1, 64), blocks[:, 128:192].reshape(-1, 2, 1, 32)
    shifts = np.array([0, 4], np.uint8).reshape(1, 1, 2, 1)
    # per half: 64 low nibbles, then the 64 high ones; of each byte of pairs, four values 32 apart
    low = ((low >> shifts) & 15).reshape(-1, 2, 4, 32)
    high = (high >> np.array([0, 2, 4, 6], np.uint8).reshape(1, 1, 4, 1)) & 3
    values = (low | (high << 4)).astype(np.int16).reshape(-1, 16, 16) - 32
    scales = np.ascontiguousarray(blocks[:, 192:208]).view(np.int8).astype(np.float32)
    return (_half(blocks, 208) * scales)[:, :, None] * values


class _Kind(NamedTuple):
    name: str
    values: int
    """Per block."""
    num_bytes: int
    """Per block."""
    read: Callable[[Blocks], np.ndarray]


_KINDS = {
    0: _Kind("F32", 1, 4, lambda blocks: blocks.view("<f4")),
    1: _Kind("F16", 1, 2, lambda blocks: blocks.view("<f2").astype(np.float32)),
    2: _Kind("Q4_0", 32, 18, _q4_0),
    3: _Kind("Q4_1", 32, 20, _q4_1),
    8: _Kind("Q8_0", 32, 34, _q8_0),
    14: _Kind("Q6_K", 256, 210, _q6_k),
    30: _Kind("BF16", 1, 2, lambda blocks: (blocks.view("<u2").astype(np.uint32) << 16).view(np.float32)),
}


@dataclass(frozen=True)
class Gguf:
    """What a file holds."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, Tensor]
    """As float32, with the slowest dimension first."""


class _Reader:
    """Values one after the other."""

    def __init__(self, content: mmap.mmap) -> None:
        self.content, self.place = content, 0

    def take(self, form: str) -> tuple[Any, ...]:
        """Unpack little-endian values."""
        values = struct.unpack_from(f"<{form}", self.content, self.place)
        self.place += struct.calcsize(f"<{form}")
        return values

    def text(self) -> str:
        """A length and so many bytes of UTF-8."""
        (length,) = self.take("Q")
        if self.place + length > len(self.content):
            raise ValueError(f"a text of {length} bytes does not fit")
        self.place += length
        return self.content[self.place - length : self.place].decode("utf-8", "surrogateescape")

    def value(self, kind: int) -> Any:
        """A setting."""
        if kind == _STRING:
            return self.text()
        if kind == _ARRAY:
            inner, count = self.take("IQ")
            if count > _LARGEST_COUNT:
                raise ValueError(f"a list of {count} values")
            return [self.value(inner) for _ in range(count)]
        return self.take(_SCALARS[kind])[0]


def read_gguf(file: Path) -> Gguf:
    """Read a whole file; nothing runs from it.

    Raises:
        CheckpointError: missing, damaged, or with a tensor of a type that is not read; names it.
    """
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as content:
            return _parse(_Reader(content))
    except CheckpointError as error:
        raise CheckpointError(f"{file}: {error}") from None
    except (OSError, ValueError, KeyError, struct.error, OverflowError) as error:
        raise CheckpointError(f"{file} is no readable GGUF file ({error})") from error


def _parse(reader: _Reader) -> Gguf:
    magic, version, num_tensors, num_settings = reader.take("4sIQQ")
    if magic != b"GGUF" or version not in (2, 3):
        raise ValueError(f"it begins with {magic!r}, version {version}; GGUF of version 2 or 3 is wanted")
    settings = {}
    for _ in range(num_settings):
        name = reader.text()
        settings[name] = reader.value(*reader.take("I"))
    records = []
    for _ in range(num_tensors):
        name = reader.text()
        shape = reader.take(f"{reader.take('I')[0]}Q")
        records.append((name, shape[::-1], *reader.take("IQ")))
    alignment = int(settings.get("general.alignment", 32))
    start = -(-reader.place // alignment) * alignment
    tensors = {
        name: _tensor(reader.content, name, shape, kind, start + offset) for name, shape, kind, offset in records
    }
    return Gguf(settings, tensors)


def _tensor(content: mmap.mmap, name: str, shape: tuple[int, ...], kind: int, start: int) -> Tensor:
    if kind not in _KINDS:
        known = ", ".join(each.name for each in _KINDS.values())
        raise CheckpointError(f"{name} is of GGUF type {kind}; read are {known}")
    form = _KINDS[kind]
    total = int(np.prod(shape, dtype=np.int64))
    if shape[-1] % form.values:
        raise ValueError(f"{name} has rows of {shape[-1]}, which blocks of {form.values} do not fill")
    num_bytes = total // form.values * form.num_bytes
    if start + num_bytes > len(content):
        raise ValueError(f"it ends before {name}")
    blocks = np.frombuffer(content[start : start + num_bytes], dtype=np.uint8).reshape(-1, form.num_bytes)
    return torch.from_numpy(form.read(blocks).reshape(shape).astype(np.float32, copy=True))
