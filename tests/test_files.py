"""Files are whole or absent, and a folder has one writer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from voder.errors import ResourceError
from voder.files import atomic_path, only_writer, relative_to_folder, write_text


def test_a_failed_write_leaves_what_stood_before_and_nothing_else(tmp_path):
    write_text(tmp_path / "a.txt", "old")

    def write_half():
        with atomic_path(tmp_path / "a.txt") as temporary:
            temporary.write_text("half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        write_half()
    assert (tmp_path / "a.txt").read_text() == "old"
    assert os.listdir(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_resource_error_naming_the_file(tmp_path):
    with pytest.raises(ResourceError, match=r"cannot write .*a\.txt: No space"), atomic_path(tmp_path / "a.txt"):
        raise OSError(28, "No space left on device")
    assert os.listdir(tmp_path) == []


def test_a_folder_that_cannot_be_made_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write_text(tmp_path / "file" / "a.txt", "x")


def test_a_second_writer_is_refused_and_the_lock_vanishes_with_its_holder(tmp_path):
    with only_writer(tmp_path), pytest.raises(ResourceError, match=f"id {os.getpid()}"), only_writer(tmp_path):
        pass
    with only_writer(tmp_path):
        assert os.listdir(tmp_path) == [".lock"]
    assert os.listdir(tmp_path) == []


def test_a_killed_writer_does_not_block_the_next(tmp_path):
    code = (
        "import os, signal, sys; from voder.files import only_writer\n"
        "with only_writer(sys.argv[1]): os.kill(os.getpid(), signal.SIGKILL)"
    )
    assert subprocess.run([sys.executable, "-c", code, str(tmp_path)], timeout=60).returncode == -9
    assert os.listdir(tmp_path) == [".lock"]
    with only_writer(tmp_path):
        pass


def test_paths_are_relative_where_more_than_the_root_is_shared():
    assert relative_to_folder(Path("/data/corpus/a.wav"), Path("/data/out")) == "../corpus/a.wav"
    assert relative_to_folder(Path("/data/out/a.wav"), Path("/data/out")) == "a.wav"
    assert relative_to_folder(Path("/corpus/a.wav"), Path("/elsewhere/out")) == "/corpus/a.wav"
