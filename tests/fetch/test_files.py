"""A file appears under its name only when it is whole and right."""

import hashlib

import pytest

from voder.errors import CheckpointError, ResourceError
from voder.fetch.files import check_sum, write_checked

CONTENT = [b"abc" * 1000, b"", b"def"]
SUM = hashlib.sha256(b"".join(CONTENT)).hexdigest()


def write(target, **changed):
    write_checked(target, CONTENT, **{"num_bytes": 3003, "sha256": SUM, "origin": "a test", **changed})


def test_a_right_file_is_written(tmp_path):
    write(tmp_path / "deep" / "file")
    assert (tmp_path / "deep" / "file").read_bytes() == b"".join(CONTENT)
    check_sum(tmp_path / "deep" / "file", SUM, "a test")


@pytest.mark.parametrize("changed", [{"num_bytes": 3004}, {"sha256": "0" * 64}])
def test_a_wrong_file_leaves_what_stood_there(tmp_path, changed):
    (tmp_path / "file").write_bytes(b"before")
    with pytest.raises(CheckpointError, match="file from a test has"):
        write(tmp_path / "file", **changed)
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("file", b"before")]


def test_a_full_disk_leaves_what_stood_there(tmp_path):
    (tmp_path / "file").write_bytes(b"before")
    (tmp_path / "file.part").symlink_to("/dev/full")
    with pytest.raises(ResourceError, match="the disk is full; free space, or name another folder in VODER_HOME"):
        write(tmp_path / "file")
    assert [(f.name, f.read_bytes()) for f in tmp_path.iterdir()] == [("file", b"before")]
