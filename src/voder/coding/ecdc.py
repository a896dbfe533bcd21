"""The header of `.ecdc` files, version 0: EnCodec's container, byte for byte.

    "ECDC" | u8 version 0 | u32 big-endian length | JSON {"m": model, "al": samples, "nc": codebooks, "lm":
    bool}

Segments follow: a big-endian float32 scale where the model normalises, then packed or arithmetically coded
codes. Neither frame counts nor byte counts are stored: both follow from `al`. A reader must therefore never
allocate by `al` before it knows that the bytes are there; `Reader` hands out only what the file holds.
"""

import json
import math
import struct
from dataclasses import dataclass

from voder.errors import InputError

_MAGIC = b"ECDC"
_START = struct.Struct(">4sBI")
_SCALE = struct.Struct(">f")
_MAX_JSON_BYTES = 4096
MAX_SAMPLES = 2**40


@dataclass(frozen=True, kw_only=True)
class EcdcHeader:
    """What an `.ecdc` file says about itself."""

    model: str
    """Name of the model whose codes follow."""
    num_samples: int
    """Samples of the audio."""
    num_codebooks: int
    """Codebooks per frame."""
    lm: bool
    """Whether codes are arithmetically coded with the model's language model."""
    identity: str | None = None
    """Which weights made the codes. Ours alone writes it; other readers ignore it."""

    def to_bytes(self) -> bytes:
        """Serialise; without an identity this is exactly what EnCodec writes."""
        fields = {"m": self.model, "al": self.num_samples, "nc": self.num_codebooks, "lm": self.lm}
        if self.identity is not None:
            fields["id"] = self.identity
        text = json.dumps(fields).encode("utf-8")
        return _START.pack(_MAGIC, 0, len(text)) + text


class Reader:
    """Hands out the bytes of a file in order, and never more than there are."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._position = 0

    @property
    def remaining(self) -> int:
        """Bytes not read yet."""
        return len(self._data) - self._position

    def take(self, count: int, what: str) -> bytes:
        """Read exactly so many bytes.

        Raises:
            InputError: the file ends before that.
        """
        if count > self.remaining:
            raise InputError(f"the file ends inside its {what}: {count} bytes are needed, {self.remaining} are left")
        self._position += count
        return self._data[self._position - count : self._position]

    def rest(self) -> bytes:
        """Look at everything that is left, without reading it."""
        return self._data[self._position :]

    def scale(self) -> float:
        """Read a segment's scale.

        Raises:
            InputError: cut short, or not a loudness.
        """
        value: float = _SCALE.unpack(self.take(_SCALE.size, "scale"))[0]
        if not (math.isfinite(value) and 0 < value < 1e4):
            raise InputError(f"a segment's scale is {value}; allowed are numbers above 0 and below 10000")
        return value


def scale_bytes(value: float) -> bytes:
    """Serialise a segment's scale."""
    return _SCALE.pack(value)


def read_header(reader: Reader) -> EcdcHeader:
    """Read and check the header.

    Raises:
        InputError: not an `.ecdc` file, another version, cut short, or fields that make no sense.
    """
    magic, version, length = _START.unpack(reader.take(_START.size, "header"))
    if magic != _MAGIC:
        raise InputError(f"this is no .ecdc file: it begins with {magic!r} instead of {_MAGIC!r}")
    if version != 0:
        raise InputError(f"the .ecdc file has version {version}; this version of voder reads version 0")
    if length > _MAX_JSON_BYTES:
        raise InputError(f"the header claims {length} bytes of JSON; at most {_MAX_JSON_BYTES} are allowed")
    try:
        fields = json.loads(reader.take(length, "header").decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise InputError(f"the header is not JSON ({error or 'nested too deeply'})") from None
    if not isinstance(fields, dict):
        raise InputError(f"the header must be a JSON object, not {type(fields).__name__}")
    identity = fields.get("id")
    if not isinstance(identity, str | None):
        raise InputError(f"the header's id is {identity!r}; text is wanted")
    lm, model = fields.get("lm"), fields.get("m")
    if not isinstance(lm, bool) or not isinstance(model, str):
        raise InputError(f"the header's lm is {lm!r} and m is {model!r}; true or false and text are wanted")
    return EcdcHeader(
        model=model,
        num_samples=_whole(fields.get("al"), "al", MAX_SAMPLES),
        num_codebooks=_whole(fields.get("nc"), "nc", 1024),
        lm=lm,
        identity=identity,
    )


def _whole(value: object, name: str, most: int) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 1 <= value <= most:
        raise InputError(f"the header's {name} is {str(value)[:40]}; whole numbers from 1 to {most} are allowed")
    return value
