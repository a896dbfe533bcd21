"""CTranslate2's `model.bin`, read and written. Nothing in it is executed, and no number in it is believed before it
has been compared with the bytes that are there.

Little endian: uint32 version, a string (the specification's name), uint32 revision, uint32 number of variables; each
variable is a string, uint8 rank, uint32 per dimension, uint8 type, uint32 bytes, data; then uint32 number of aliases,
each two strings. A string is uint16 length with its closing NUL, then the bytes.
"""

import mmap
import struct
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from voder.errors import CheckpointError
from voder.files import atomic_path

VERSION = 6
_TYPES = (torch.float32, torch.int8, torch.int16, torch.int32, torch.float16, torch.bfloat16)
_HIGHEST_RANK = 4


@dataclass(frozen=True, kw_only=True)
class Variables:
    """What a `model.bin` holds."""

    specification: str
    revision: int
    tensors: Mapping[str, Tensor]
    """By path, such as encoder/conv1/weight, in the type they were stored in."""
    aliases: Mapping[str, str] = field(default_factory=dict)
    """Path of a variable that is another one."""


class _Reader:
    """Takes fields off the front of a buffer; refuses to go beyond its end."""

    def __init__(self, data: memoryview, file: Path) -> None:
        self.data, self.file, self.place = data, file, 0

    def fail(self, what: str) -> CheckpointError:
        return CheckpointError(f"{self.file} is not a whole CTranslate2 model: {what} at byte {self.place}")

    def take(self, count: int, what: str) -> memoryview:
        if count > len(self.data) - self.place:
            raise self.fail(f"{what} needs {count} bytes and {len(self.data) - self.place} are left")
        self.place += count
        return self.data[self.place - count : self.place]

    def number(self, code: str, what: str) -> int:
        return int(struct.unpack("<" + code, self.take(struct.calcsize("<" + code), what))[0])

    def text(self, what: str) -> str:
        raw = bytes(self.take(self.number("H", what), what))
        if not raw.endswith(b"\0"):
            raise self.fail(f"{what} does not end with a zero byte")
        try:
            return raw[:-1].decode("utf-8")
        except UnicodeDecodeError as error:
            raise self.fail(f"{what} is not text") from error

    def tensor(self, name: str) -> Tensor:
        rank = self.number("B", f"the rank of {name}")
        if rank > _HIGHEST_RANK:
            raise self.fail(f"{name} has rank {rank}, more than {_HIGHEST_RANK},")
        shape = [self.number("I", f"the shape of {name}") for _ in range(rank)]
        code = self.number("B", f"the type of {name}")
        if code >= len(_TYPES):
            raise self.fail(f"{name} has the unknown type {code}")
        num_bytes = self.number("I", f"the size of {name}")
        count = 1
        for size in shape:
            count *= size
        if count * _TYPES[code].itemsize != num_bytes:
            raise self.fail(f"{name} of shape {shape} says it takes {num_bytes} bytes")
        # a copy: the file's mapping ends before the tensors do
        raw = bytearray(self.take(num_bytes, name))
        return torch.frombuffer(raw, dtype=_TYPES[code]).view(shape) if num_bytes else torch.empty(shape)


def read_variables(file: Path) -> Variables:
    """Read a `model.bin`.

    Raises:
        CheckpointError: missing, of another version, cut short, or saying sizes that are not there.
    """
    try:
        with open(file, "rb") as opened, mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
            view = memoryview(mapped)
            try:
                return _read(_Reader(view, file))
            finally:
                view.release()
    except (OSError, ValueError) as error:  # an empty file cannot be mapped
        raise CheckpointError(f"{file} cannot be read ({error}); give the model.bin of a CTranslate2 model") from error


def _read(reader: _Reader) -> Variables:
    version = reader.number("I", "the version")
    if version != VERSION:
        raise reader.fail(f"version {version} instead of {VERSION}")
    specification = reader.text("the specification's name")
    revision = reader.number("I", "the revision")
    tensors: dict[str, Tensor] = {}
    for _ in range(reader.number("I", "the number of variables")):
        name = reader.text("a variable's name")
        tensors[name] = reader.tensor(name)
    aliases = {}
    for _ in range(reader.number("I", "the number of aliases")):
        alias = reader.text("an alias")
        aliases[alias] = reader.text("an alias")
    if reader.place != len(reader.data):
        raise reader.fail(f"{len(reader.data) - reader.place} bytes are left over")
    return Variables(specification=specification, revision=revision, tensors=tensors, aliases=aliases)


def write_variables(file: Path, variables: Variables) -> None:
    """Write a `model.bin`, atomically."""
    with atomic_path(file) as temporary, open(temporary, "wb") as out:
        out.write(struct.pack("<I", VERSION) + _text(variables.specification))
        out.write(struct.pack("<II", variables.revision, len(variables.tensors)))
        for name, value in variables.tensors.items():
            data = value.detach().cpu().contiguous()
            out.write(_text(name) + struct.pack(f"<B{data.ndim}I", data.ndim, *data.shape))
            raw = data.flatten().view(torch.uint8).numpy().tobytes() if data.numel() else b""
            out.write(struct.pack("<BI", _TYPES.index(data.dtype), len(raw)) + raw)
        out.write(struct.pack("<I", len(variables.aliases)))
        for alias, name in variables.aliases.items():
            out.write(_text(alias) + _text(name))


def _text(text: str) -> bytes:
    raw = text.encode() + b"\0"
    return struct.pack("<H", len(raw)) + raw
