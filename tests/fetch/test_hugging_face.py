"""The Hub's files: compared with their sums, and its many errors said in one sentence."""

import shutil
from dataclasses import replace
from types import SimpleNamespace

import pytest

from voder import fetch, hub
from voder.errors import CheckpointError, ResourceError
from voder.published import HubFile


class EntryNotFoundError(Exception):
    """Named like the Hub library's."""


class GatedRepoError(Exception):
    """Named like the Hub library's."""


class LocalEntryNotFoundError(Exception):
    """Named like the Hub library's."""


@pytest.fixture
def asked(toy, monkeypatch):
    """Serve the toy's files in the Hub's place; what was asked for."""
    calls = []

    def copy(repository, path, *, revision, local_dir):
        calls.append((repository, path, revision))
        local_dir.mkdir(parents=True, exist_ok=True)
        shutil.copy(toy.files / path, local_dir / path)

    monkeypatch.setattr("huggingface_hub.hf_hub_download", copy)
    return calls


def failing(monkeypatch, error):
    def fail(*args, **kwargs):
        raise error

    monkeypatch.setattr("huggingface_hub.hf_hub_download", fail)


def test_files_of_the_pinned_revision_are_converted(toy, asked):
    fetch.fetch("toy-whisper", via="hub")
    assert hub.load("toy-whisper").model.config.width == 16
    assert {call[0] for call in asked} == {"toys/whisper"}
    assert {call[2] for call in asked} == {"a" * 40}


def test_files_may_lie_in_several_repositories(toy, asked, monkeypatch):
    (source,) = toy.row.hub
    sources = tuple(
        replace(source, repository=f"toys/{number}", files=(file,)) for number, file in enumerate(source.files)
    )
    monkeypatch.setattr(hub, "published", lambda: {toy.row.name: replace(toy.row, hub=sources)})
    fetch.fetch("toy-whisper", via="hub")
    assert hub.load("toy-whisper").model.config.width == 16
    assert {call[0] for call in asked} == {"toys/0", "toys/1"}


@pytest.mark.parametrize("etag", ["0" * 64, "of a small file: git's own sum"])
def test_a_file_without_a_sum_in_the_table_is_compared_with_what_the_hub_promises(toy, asked, monkeypatch, etag):
    files = tuple(HubFile(file.path, file.num_bytes) for file in toy.row.hub[0].files)
    row = replace(toy.row, hub=(replace(toy.row.hub[0], files=files),))
    monkeypatch.setattr(hub, "published", lambda: {row.name: row})
    monkeypatch.setattr("huggingface_hub.get_hf_file_metadata", lambda address: SimpleNamespace(etag=etag))
    if len(etag) == 64:
        with pytest.raises(CheckpointError, match="from toys/whisper has the sha256"):
            fetch.fetch("toy-whisper", via="hub")
    else:
        fetch.fetch("toy-whisper", via="hub")


def test_a_damaged_file_is_asked_for_again_the_next_time(toy, asked, monkeypatch):
    files = tuple(replace_sum(file) for file in toy.row.hub[0].files)
    row = replace(toy.row, hub=(replace(toy.row.hub[0], files=files),))
    monkeypatch.setattr(hub, "published", lambda: {row.name: row})
    for _ in range(2):
        with pytest.raises(CheckpointError, match="instead of 1111111111111111…"):
            fetch.fetch("toy-whisper", via="hub")
    assert len(asked) == 2


def replace_sum(file):
    return HubFile(file.path, file.num_bytes, "1" * 64)


@pytest.mark.parametrize(
    ("error", "kind", "expected"),
    [
        (EntryNotFoundError("404"), CheckpointError, "no longer has"),
        (GatedRepoError("401"), CheckpointError, "asks for consent"),
        (LocalEntryNotFoundError("An error. Please check"), ResourceError, r"\(it cannot be reached\)"),
        (ConnectionError("refused\nand more"), ResourceError, r"ConnectionError: refused\); run the same command"),
    ],
)
def test_what_goes_wrong_at_the_hub_is_one_sentence(toy, monkeypatch, error, kind, expected):
    failing(monkeypatch, error)
    with pytest.raises(kind, match=expected) as caught:
        fetch.fetch("toy-whisper", via="hub")
    assert "\n" not in str(caught.value)
