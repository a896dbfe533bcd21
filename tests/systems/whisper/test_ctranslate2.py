import struct

import pytest
import torch

from voder.errors import CheckpointError
from voder.systems.whisper.ctranslate2 import Variables, read_variables, write_variables


@pytest.fixture
def variables():
    tensors = {
        "a/weight": torch.arange(6, dtype=torch.float32).view(2, 3),
        "b": torch.tensor([1.5, -2.0], dtype=torch.bfloat16),
        "c": torch.tensor(3, dtype=torch.int16),
        "d": torch.ones(2, 1, 2, dtype=torch.float16),
    }
    return Variables(specification="WhisperSpec", revision=3, tensors=tensors, aliases={"e": "b"})


@pytest.fixture
def file(tmp_path, variables):
    write_variables(tmp_path / "model.bin", variables)
    return tmp_path / "model.bin"


def test_what_is_written_is_read_back(file, variables):
    found = read_variables(file)
    assert (found.specification, found.revision, found.aliases) == ("WhisperSpec", 3, {"e": "b"})
    assert found.tensors.keys() == variables.tensors.keys()
    for name, value in variables.tensors.items():
        assert found.tensors[name].dtype == value.dtype
        assert torch.equal(found.tensors[name], value)


def test_the_layout_is_the_described_one(file):
    data = file.read_bytes()
    assert data[:4] == struct.pack("<I", 6)
    assert data[4:18] == struct.pack("<H", 12) + b"WhisperSpec\0"
    assert data[18:26] == struct.pack("<II", 3, 4)
    assert data[26:37] == struct.pack("<H", 9) + b"a/weight\0"
    assert data[37:51] == struct.pack("<BIIBI", 2, 2, 3, 0, 24)


def test_a_file_cut_anywhere_is_refused(file):
    data = file.read_bytes()
    for end in range(len(data)):
        file.write_bytes(data[:end])
        with pytest.raises(CheckpointError, match=r"model\.bin"):
            read_variables(file)
    file.write_bytes(data + b"x")
    with pytest.raises(CheckpointError, match="left over"):
        read_variables(file)


@pytest.mark.parametrize(
    ("place", "code", "value", "said"),
    [
        (0, "I", 7, "version 7"),
        (4, "H", 0xFFFF, "needs 65535 bytes"),
        (22, "I", 0xFFFFFFFF, "byte"),
        (37, "B", 200, "rank 200"),
        (38, "I", 0xFFFFFFFF, "takes 24 bytes"),
        (46, "B", 9, "unknown type 9"),
        (47, "I", 0xFFFFFFF0, "takes 4294967280 bytes"),
    ],
)
def test_numbers_in_the_file_are_not_believed(file, place, code, value, said):
    data = bytearray(file.read_bytes())
    struct.pack_into("<" + code, data, place, value)
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match=said):
        read_variables(file)


def test_sizes_that_agree_with_each_other_but_not_with_the_file_take_no_memory(file):
    data = bytearray(file.read_bytes())
    struct.pack_into("<BIIBI", data, 37, 2, 1 << 15, 1 << 15, 1, 1 << 30)  # a GiB of int8
    file.write_bytes(data)
    with pytest.raises(CheckpointError, match="needs 1073741824 bytes"):
        read_variables(file)


def test_nothing_there_is_said(tmp_path):
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_variables(tmp_path / "model.bin")
