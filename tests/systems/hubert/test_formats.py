"""fairseq's lists: read, written, and the same again; and `voder prepare` reads them."""

from dataclasses import replace

import numpy as np
import pytest
from systems.hubert.families import clips

from voder.audio.io import write_audio
from voder.corpus.prepare import prepare_corpus
from voder.data.manifest import Manifest, Utterance
from voder.errors import ManifestError
from voder.systems.hubert.formats import (
    from_letters,
    read_km,
    read_tsv,
    read_utterances,
    to_letters,
    write_dict,
    write_km,
    write_tsv,
)

TEXTS = ("HELLO WORLD", "IT'S ME")


@pytest.fixture
def recordings(tmp_path):
    """Two recordings in folders of their own."""
    made = []
    for number, (clip, text) in enumerate(zip(clips(8000, 9600), TEXTS, strict=True)):
        path = tmp_path / "sounds" / str(number) / f"clip{number}.wav"
        write_audio(path, clip)
        made.append(
            Utterance(
                id=path.stem,
                audio=path,
                duration_s=clip.duration_s,
                num_samples=clip.num_samples,
                sample_rate_hz=16_000,
                channels=1,
                text=text,
            )
        )
    return made


def test_a_list_written_is_the_one_read(tmp_path, recordings):
    write_tsv(tmp_path / "train.tsv", recordings)
    assert (tmp_path / "train.tsv").read_text() == (
        f"{tmp_path.resolve()}/sounds\n0/clip0.wav\t8000\n1/clip1.wav\t9600\n"
    )
    assert (tmp_path / "train.wrd").read_text() == "HELLO WORLD\nIT'S ME\n"
    assert (tmp_path / "train.ltr").read_text() == "H E L L O | W O R L D |\nI T ' S | M E |\n"
    assert (tmp_path / "dict.ltr.txt").read_text().splitlines()[0] == "| 4"
    assert list(read_utterances(tmp_path / "train.tsv")) == recordings
    (tmp_path / "train.wrd").unlink()
    assert [each.text for each in read_tsv(tmp_path / "train.tsv")] == list(TEXTS)


def test_recordings_without_texts_have_no_letters(tmp_path, recordings):
    write_tsv(tmp_path / "train.tsv", [recordings[0], replace(recordings[1], text=None)])
    assert not (tmp_path / "train.wrd").exists()
    assert [each.text for each in read_tsv(tmp_path / "train.tsv")] == [None, None]


def test_labels_written_are_the_ones_read(tmp_path):
    labels = [np.array([3, 3, 0, 12]), np.array([], np.int64), [7]]
    write_km(tmp_path / "train.km", labels)
    assert (tmp_path / "train.km").read_text() == "3 3 0 12\n\n7\n"
    write_dict(tmp_path / "dict.km.txt", 3)
    assert (tmp_path / "dict.km.txt").read_text() == "0 1\n1 1\n2 1\n"
    assert [each.tolist() for each in read_km(tmp_path / "train.km")] == [[3, 3, 0, 12], [], [7]]


def test_prepare_reads_lists_with_their_splits_and_letters(tmp_path, recordings):
    write_tsv(tmp_path / "lists" / "train.tsv", recordings[:1])
    write_tsv(tmp_path / "lists" / "valid.tsv", recordings[1:])
    prepare_corpus(tmp_path / "lists", tmp_path / "data", workers=1, test_fraction=0.0)
    for split, text in zip(("train", "valid"), TEXTS, strict=True):
        (found,) = Manifest.open(tmp_path / "data" / f"{split}.jsonl")
        assert found.text == text


def test_letters_are_texts():
    assert from_letters(to_letters("  a  bc ")) == "a bc"
    with pytest.raises(ManifestError, match="which ends words"):
        to_letters("a|b")


def test_stretches_and_nothing_at_all_cannot_be_listed(tmp_path, recordings):
    with pytest.raises(ManifestError, match=r"clip0 begins inside .*lists whole files only"):
        write_tsv(tmp_path / "x.tsv", [replace(recordings[0], start_sample=5)])
    with pytest.raises(ManifestError, match="there are no recordings to list"):
        write_tsv(tmp_path / "x.tsv", [])


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("", "is empty"),
        ("a\tb\n", "first line must be the folder"),
        ("/x\na.wav 5\n", "line 2: a file, a tab and a number of samples are wanted"),
        ("/x\na.wav\t-5\n", "line 2: a file, a tab"),
        (b"/x\n\xff\t5\n", "not UTF-8 at byte 3"),
    ],
)
def test_a_bad_list_is_refused_by_line(tmp_path, content, reason):
    (tmp_path / "x.tsv").write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ManifestError, match=reason):
        read_tsv(tmp_path / "x.tsv")


def test_what_lies_beside_must_be_as_long(tmp_path):
    (tmp_path / "x.tsv").write_text("/x\na.wav\t5\n")
    (tmp_path / "x.ltr").write_text("A |\nB |\n")
    with pytest.raises(ManifestError, match=r"x\.ltr has 2 lines, but x\.tsv lists 1 recordings"):
        read_tsv(tmp_path / "x.tsv")
    with pytest.raises(ManifestError, match="cannot be read"):
        read_tsv(tmp_path / "none.tsv")


@pytest.mark.parametrize("line", ["1 x", "1.5", "-1", "99999999999", "9" * 30])
def test_bad_labels_are_refused_by_line(tmp_path, line):
    (tmp_path / "x.km").write_text(f"0 1\n{line}\n")
    with pytest.raises(ManifestError, match="line 2: labels"):
        read_km(tmp_path / "x.km")
