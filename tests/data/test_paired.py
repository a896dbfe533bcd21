"""Codes and units of the same recordings: joined by id, and told apart when they cannot be of the same."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from voder.data.manifest import Utterance
from voder.data.paired import PairedStore
from voder.data.shards import TokenizerInfo, TokenWriter
from voder.errors import TokensError

INFO = TokenizerInfo(
    system="toy",
    identity="abc",
    num_codebooks=2,
    codebook_size=10,
    frame_rate_hz=50.0,
    sample_rate_hz=8_000,
    hop=160,
)
UNITS = replace(INFO, identity="xyz", num_codebooks=1, codebook_size=4, frame_rate_hz=25.0, hop=320)


def spoken(name):
    return Utterance(
        id=name, audio=Path(f"/{name}.wav"), duration_s=0.5, num_samples=4_000, sample_rate_hz=8_000, channels=1
    )


def write(folder, info, items, tokenizer):
    """A store with one split; `items` are names and numbers of frames."""
    with TokenWriter(folder, tokenizer=info, tokenizer_folder=tokenizer) as writer:
        writer.write_silence(np.zeros((info.num_codebooks, 5), np.int64))
        codes = [np.full((info.num_codebooks, frames), number % 4) for number, (_, frames) in enumerate(items)]
        writer.write_shard("train-00000", "key", [spoken(name) for name, _ in items], codes)
        writer.finish({"train": ["train-00000"]})


@pytest.fixture
def tokenizer(tmp_path):
    (tmp_path / "tokenizer").mkdir()
    (tmp_path / "tokenizer" / "config.json").write_text("{}")
    return tmp_path / "tokenizer"


@pytest.fixture
def store(tmp_path, tokenizer):
    """Codes of a, b, c; then the units that a test wants."""
    write(tmp_path / "tokens", INFO, [("a", 20), ("b", 30), ("c", 40)], tokenizer)
    return lambda items, info=UNITS: write(tmp_path / "tokens" / "units", info, items, tokenizer)


def test_recordings_that_both_hold_are_joined_by_id(store, tmp_path):
    store([("c", 19), ("x", 4), ("a", 10)])
    split = PairedStore(tmp_path / "tokens").split("train")
    assert [split.utterance(index).id for index in range(len(split))] == ["a", "c"]
    assert (split.lengths.tolist(), split.unit_lengths.tolist()) == ([20, 40], [10, 19])
    assert split.codes(1).tolist() == [[2] * 40] * 2
    assert split.units(1).tolist() == [0] * 19
    assert split.units(0).tolist() == [2] * 10


def test_units_of_other_recordings_are_seen_by_their_lengths(store, tmp_path):
    store([("a", 10), ("b", 15), ("c", 40)])
    with pytest.raises(TokensError, match=r"c lasts 0\.80 s by its codes but 1\.60 s by its units"):
        PairedStore(tmp_path / "tokens").split("train")


def test_nothing_in_common_is_refused(store, tmp_path):
    store([("x", 10)])
    with pytest.raises(TokensError, match="no recording of split train in common"):
        PairedStore(tmp_path / "tokens").split("train")


def test_a_codec_is_no_unit_tokenizer(store, tmp_path):
    store([("a", 10)], replace(UNITS, num_codebooks=2))
    with pytest.raises(TokensError, match="holds 2 codebooks of toy"):
        PairedStore(tmp_path / "tokens")


def test_codes_alone_are_refused_with_what_to_run(store, tmp_path):
    with pytest.raises(TokensError, match=r"run `voder tokenize` .* -o .*units"):
        PairedStore(tmp_path / "tokens")
