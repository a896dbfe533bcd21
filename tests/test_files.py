"""Files are whole or absent, and a folder has one writer."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from voder.errors import ResourceError
from voder.files import (
    atomic_path,
    exchange,
    only_writer,
    relative_to_folder,
    remove_folder,
    remove_leftovers,
    standing,
    write_text,
)


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


def test_two_names_change_places_or_nothing_happens(tmp_path):
    (tmp_path / "a").mkdir()
    (tmp_path / "b").write_text("b")
    assert exchange(tmp_path / "a", tmp_path / "b")
    assert (tmp_path / "b").is_dir()
    assert (tmp_path / "a").read_text() == "b"
    assert not exchange(tmp_path / "a", tmp_path / "absent")
    assert sorted(os.listdir(tmp_path)) == ["a", "b"]


def test_what_was_moved_aside_is_found_until_it_is_put_back(tmp_path):
    (tmp_path / ".run[1].77.old").mkdir()
    assert standing(tmp_path / "run[1]") == tmp_path / ".run[1].77.old"
    assert standing(tmp_path / "run1") == tmp_path / "run1"
    remove_leftovers(tmp_path)
    assert os.listdir(tmp_path) == ["run[1]"]
    assert standing(tmp_path / "run[1]") == tmp_path / "run[1]"


def test_a_folder_loses_its_name_before_its_files(tmp_path, monkeypatch):
    (tmp_path / "a" / "b").mkdir(parents=True)
    monkeypatch.setattr("shutil.rmtree", lambda path, **options: None)
    remove_folder(tmp_path / "a")
    (left,) = os.listdir(tmp_path)
    assert left.startswith(".a.")
    assert left.endswith(".tmp")
