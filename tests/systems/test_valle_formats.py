"""lhotse's manifests: read, written, and the same again; and `voder prepare` reads them."""

import gzip
import json
from dataclasses import replace

import numpy as np
import pytest

from voder.audio.io import AudioClip, write_audio
from voder.corpus.prepare import prepare_corpus
from voder.corpus.sources import find_recordings
from voder.data.manifest import Manifest, Utterance
from voder.errors import InputError, ManifestError
from voder.systems.valle.formats import Cut, cut_of, read_cuts, read_supervised, write_cuts, write_supervised

RATE = 8000


@pytest.fixture
def cuts(tmp_path):
    """Two stretches of one file and a whole stereo file."""
    draw = np.random.default_rng(0)
    for name, channels in (("long", 1), ("stereo", 2)):
        samples = draw.uniform(-0.5, 0.5, (channels, 3 * RATE)).astype(np.float32)
        write_audio(tmp_path / f"{name}.wav", AudioClip(samples, RATE))
    first = Utterance(
        id="a",
        audio=tmp_path / "long.wav",
        duration_s=0.5,
        num_samples=RATE // 2,
        sample_rate_hz=RATE,
        channels=1,
        text="hello you",
        speaker="ann",
        language="en",
    )
    second = replace(first, id="b", start_sample=4001, num_samples=9001, duration_s=9001 / RATE, text="ich")
    whole = replace(
        first, id="c", audio=tmp_path / "stereo.wav", num_samples=3 * RATE, duration_s=3.0, channels=2, text=None
    )
    return [Cut(utterance=first, phonemes=("h", "ə", "_")), Cut(utterance=second), Cut(utterance=whole)]


@pytest.mark.parametrize("name", ["cuts.jsonl", "cuts.jsonl.gz"])
def test_cuts_written_are_the_ones_read(tmp_path, cuts, name):
    write_cuts(tmp_path / name, cuts)
    assert list(read_cuts(tmp_path / name)) == cuts
    before = (tmp_path / name).read_bytes()
    write_cuts(tmp_path / name, read_cuts(tmp_path / name))
    assert (tmp_path / name).read_bytes() == before


def test_recordings_and_supervisions_written_are_the_ones_read(tmp_path, cuts):
    recordings, supervisions = tmp_path / "recordings.jsonl.gz", tmp_path / "supervisions.jsonl.gz"
    write_supervised(recordings, supervisions, cuts)
    listed = [json.loads(line) for line in gzip.decompress(recordings.read_bytes()).splitlines()]
    assert [row["num_samples"] for row in listed] == [3 * RATE, 3 * RATE]  # each file once, whole
    assert list(read_supervised(recordings, supervisions)) == cuts
    wholes = [cut.utterance for cut in read_cuts(recordings)]
    assert [each.num_samples for each in wholes] == [3 * RATE, 3 * RATE]
    assert [each.text for each in wholes] == [None, None]


def theirs(**changes):
    """A cut as lhotse writes it, features and all."""
    recording = {
        "id": "LJ001",
        "sources": [{"type": "file", "channels": [0], "source": "wavs/LJ001.wav"}],
        "sampling_rate": 24000,
        "num_samples": 231751,
        "duration": 9.656291667,
        "channel_ids": [0],
        "transforms": [{"name": "Resample"}],
    }
    said = {
        "id": "LJ001-0",
        "recording_id": "LJ001",
        "start": 0.0,
        "duration": 9.656291667,
        "channel": 0,
        "text": "Printing, in the only sense",
        "language": "English",
        "custom": {"tokens": {"text": ["p", "ɹ"]}, "normalized_text": "printing"},
    }
    cut = {
        "id": "LJ001-0-cut",
        "start": 0,
        "duration": 9.656291667,
        "channel": 0,
        "supervisions": [said],
        "features": {"type": "PytorchEncodec", "num_frames": 725, "storage_path": "x.h5"},
        "recording": recording,
        "type": "MonoCut",
    }
    return cut | changes


def test_what_lhotse_writes_is_read(tmp_path):
    cut = cut_of(theirs(), tmp_path)
    assert cut.utterance.audio == tmp_path / "wavs/LJ001.wav"
    assert (cut.utterance.num_samples, cut.utterance.sample_rate_hz) == (231751, 24000)
    assert (cut.utterance.text, cut.utterance.speaker) == ("Printing, in the only sense", None)
    assert cut.phonemes == ("p", "ɹ")


def test_several_supervisions_are_joined_in_time(tmp_path):
    said = [{"start": 2.0, "text": "two", "speaker": "a"}, {"start": 0.5, "text": "one", "speaker": "b"}]
    cut = cut_of(theirs(supervisions=said), tmp_path)
    assert (cut.utterance.text, cut.utterance.speaker, cut.phonemes) == ("one two", None, None)


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"type": "MixedCut"}, "a MixedCut has no recording of its own"),
        ({"recording": None}, "no recording"),
        ({"recording": theirs()["recording"] | {"sources": []}}, "must have one source"),
        (
            {"recording": theirs()["recording"] | {"sources": [{"type": "url", "source": "http://x"}]}},
            "of type 'url'; only files are read",
        ),
        ({"channel": [0, 1]}, "takes 2 of 1 channels"),
        ({"duration": None}, "duration must be a number from 0"),
        ({"duration": 0}, "must be more than 0"),
        ({"start": float("nan")}, "start must be a number from 0"),
    ],
)
def test_what_cannot_be_read_is_refused_by_name(tmp_path, changes, reason):
    with pytest.raises(ManifestError, match=reason):
        cut_of(theirs(**changes), tmp_path)


def test_a_bad_line_is_named(tmp_path):
    file = tmp_path / "cuts.jsonl"
    file.write_text(json.dumps(theirs()) + "\n{\n")
    with pytest.raises(ManifestError, match=r"cuts\.jsonl line 2: not JSON"):
        list(read_cuts(file))
    (tmp_path / "broken.jsonl.gz").write_bytes(b"nothing")
    with pytest.raises(ManifestError, match="cannot be read"):
        list(read_cuts(tmp_path / "broken.jsonl.gz"))
    said = tmp_path / "supervisions.jsonl"
    said.write_text(json.dumps({"id": "x", "recording_id": "who", "start": 0, "duration": 1}))
    write_cuts(tmp_path / "none.jsonl", [])
    with pytest.raises(ManifestError, match=r"line 1: none\.jsonl lists no recording 'who'"):
        list(read_supervised(tmp_path / "none.jsonl", said))


def test_prepare_reads_cuts(tmp_path, cuts):
    write_cuts(tmp_path / "manifests" / "cuts_train.jsonl.gz", cuts[:2])
    write_cuts(tmp_path / "manifests" / "cuts_dev.jsonl.gz", cuts[2:])
    prepare_corpus(tmp_path / "manifests", tmp_path / "data", workers=1, test_fraction=0.0)
    train = list(Manifest.open(tmp_path / "data" / "train.jsonl"))
    assert sorted((u.start_sample, u.num_samples, u.text, u.speaker) for u in train) == [
        (0, RATE // 2, "hello you", "ann"),
        (4001, 9001, "ich", "ann"),
    ]
    (valid,) = Manifest.open(tmp_path / "data" / "valid.jsonl")
    assert (valid.audio.name, valid.channels) == ("stereo.wav", 2)


def test_a_cut_that_cannot_be_read_is_listed_and_the_rest_is_kept(tmp_path, cuts):
    write_cuts(tmp_path / "x.jsonl", cuts)
    with open(tmp_path / "x.jsonl", "a") as file:
        file.write(json.dumps(theirs(type="PaddingCut")) + "\n")
    found = find_recordings(tmp_path / "x.jsonl")
    assert len(found.candidates) == 3
    assert "a PaddingCut has no recording" in found.rejected[0].reason
    whole = found.candidates[2]
    assert (whole.start_s, whole.duration_s) == (None, 3.0)
    (tmp_path / "cut.jsonl.gz").write_bytes(gzip.compress(b"{}\n" * 100)[:-9])
    with pytest.raises(InputError, match="no whole gzip file"):
        find_recordings(tmp_path / "cut.jsonl.gz")
