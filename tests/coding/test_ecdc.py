import json
import struct

import pytest

from voder.coding.ecdc import EcdcHeader, Reader, read_header, scale_bytes
from voder.errors import InputError

HEADER = EcdcHeader(model="encodec_24khz", num_samples=24000, num_codebooks=8, lm=False)


def with_json(text):
    data = text if isinstance(text, bytes) else json.dumps(text).encode()
    return struct.pack(">4sBI", b"ECDC", 0, len(data)) + data


def test_bytes_are_those_of_the_original():
    wanted = b'ECDC\0\0\0\0\x39{"m": "encodec_24khz", "al": 24000, "nc": 8, "lm": false}'
    assert HEADER.to_bytes() == wanted
    assert read_header(Reader(wanted)) == HEADER


def test_an_identity_comes_back():
    named = EcdcHeader(model="mine", num_samples=1, num_codebooks=1, lm=True, identity="abc")
    assert read_header(Reader(named.to_bytes())) == named


@pytest.mark.parametrize(
    ("data", "message"),
    [
        (b"", "ends inside its header"),
        (b"RIFF\0\0\0\0\0", "no .ecdc file"),
        (b"ECDC\1\0\0\0\0", "version 1"),
        (b"ECDC\0\xff\xff\xff\xff", "at most 4096"),
        (b"ECDC\0\0\0\0\x09{}", "ends inside"),
        (with_json(b"\xff\xff"), "not JSON"),
        (with_json(b"[" * 4000), "not JSON"),
        (with_json([]), "must be a JSON object"),
        (with_json({}), "lm is None"),
        (with_json({"m": 3, "al": 1, "nc": 1, "lm": True}), "m is 3"),
        (with_json({"m": "x", "al": 1, "nc": 1, "lm": 1}), "lm is 1"),
        (with_json({"m": "x", "al": 2**60, "nc": 1, "lm": True}), "al is 1152921504606846976"),
        (with_json({"m": "x", "al": 0, "nc": 1, "lm": True}), "al is 0"),
        (with_json({"m": "x", "al": True, "nc": 1, "lm": True}), "al is True"),
        (with_json({"m": "x", "al": 1.5, "nc": 1, "lm": True}), "al is 1.5"),
        (with_json({"m": "x", "al": 1, "nc": 10**9, "lm": True}), "nc is 1000000000"),
        (with_json({"m": "x", "al": 1, "nc": 1, "lm": True, "id": 5}), "id is 5"),
        (with_json(b'{"m": "x", "al": 1e999, "nc": 1, "lm": true}'), "al is inf"),
    ],
)
def test_bad_headers_are_named(data, message):
    with pytest.raises(InputError, match=message):
        read_header(Reader(data))


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -1.0, 0.0, 1e9])
def test_a_scale_that_is_no_loudness_is_refused(value):
    with pytest.raises(InputError, match="scale is"):
        Reader(scale_bytes(value)).scale()


def test_scales_are_big_endian_floats():
    assert scale_bytes(1.0) == b"\x3f\x80\0\0"
    assert Reader(b"\x3f\x80\0\0").scale() == 1.0
    with pytest.raises(InputError, match="ends inside its scale"):
        Reader(b"\x3f").scale()
