"""`prepare`: what is kept, what is left out and why, and the files it writes."""

import json
import os
import shutil

import numpy as np
import pytest
import soundfile

from voder.corpus.prepare import prepare_corpus
from voder.data.manifest import Manifest
from voder.errors import ConfigError, InputError, ResourceError
from voder.files import only_writer

SPLITS = ("train", "valid", "test")


@pytest.fixture
def corpus(tmp_path, sound):
    """Twelve recordings of three speakers, in five formats, with transcripts beside them."""
    folder = tmp_path / "corpus"
    for number in range(12):
        suffix = (".wav", ".flac", ".ogg", ".opus", ".mp3")[number % 5]
        path = folder / f"spk{number % 3}" / f"clip{number}{suffix}"
        path.parent.mkdir(parents=True, exist_ok=True)
        sound(path, number, rate=(8_000, 24_000)[number % 2], channels=1 + number % 2, seconds=0.2)
        path.with_suffix(".txt").write_text(f"Sentence number {number}.")
    return folder


def read(output, names=SPLITS):
    return {name: list(Manifest.open(output / f"{name}.jsonl")) for name in names}


def skipped(output):
    return [json.loads(line) for line in (output / "skipped.jsonl").read_text().splitlines()]


def all_bytes(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_a_folder_of_every_format_becomes_three_manifests(corpus, tmp_path):
    report = prepare_corpus(corpus, tmp_path / "out", language="en", licence="CC0-1.0")
    found = read(tmp_path / "out")
    everything = [each for name in SPLITS for each in found[name]]
    assert (report.total, report.kept, report.skipped, len(everything)) == (12, 12, {}, 12)
    assert all(found[name] for name in SPLITS)
    assert {each.text for each in everything} == {f"Sentence number {number}." for number in range(12)}
    assert {each.speaker for each in everything} == {"spk0", "spk1", "spk2"}
    assert {each.channels for each in everything} == {1, 2}
    assert {(each.language, each.licence, each.source) for each in everything} == {("en", "CC0-1.0", "corpus")}
    for each in everything:
        assert each.read().num_samples == each.num_samples
    assert sorted(os.listdir(tmp_path / "out")) == sorted(
        [*(f"{name}.jsonl" for name in SPLITS), "prepare.json", "skipped.jsonl"]
    )
    assert '"audio": "../corpus/spk' in (tmp_path / "out" / "train.jsonl").read_text()


def test_the_report_counts_what_was_written(corpus, tmp_path):
    report = prepare_corpus(corpus, tmp_path / "out", licence="CC0-1.0")
    assert json.loads((tmp_path / "out" / "prepare.json").read_text()) == json.loads(json.dumps(report.to_dict()))
    assert (report.speakers, report.with_speaker, report.with_text, report.different_texts) == (3, 12, 12, 12)
    assert report.licences == {"CC0-1.0": 12}
    assert report.languages == {"not stated": 12}
    assert sum(facts.recordings for facts in report.splits.values()) == 12
    assert abs(report.hours - 12 * 0.2 / 3600) < 2e-4
    page = report.summary()
    assert "kept 12 of 12 recordings" in page
    assert "transcripts: 12 of 12, 12 different" in page
    assert "licences: CC0-1.0 (12)" in page
    assert "3 speakers are fewer than 10" in page


def test_running_again_gives_the_same_bytes(corpus, tmp_path):
    prepare_corpus(corpus, tmp_path / "out", workers=1)
    before = all_bytes(tmp_path / "out")
    prepare_corpus(corpus, tmp_path / "out", workers=3)
    assert all_bytes(tmp_path / "out") == before


def test_the_seed_moves_the_split(corpus, tmp_path):
    options = {"valid_fraction": 0.3, "test_fraction": 0.3}
    ids = []
    for seed in (0, 1):
        prepare_corpus(corpus, tmp_path / f"out{seed}", seed=seed, **options)
        ids.append({each.id for each in read(tmp_path / f"out{seed}")["test"]})
    assert ids[0] != ids[1]


def test_ids_come_from_content_not_from_names(corpus, tmp_path):
    prepare_corpus(corpus, tmp_path / "one")
    shutil.copytree(corpus, tmp_path / "moved")
    for path in sorted((tmp_path / "moved").rglob("*.*")):
        os.rename(path, path.with_name("renamed-" + path.name))
    prepare_corpus(tmp_path / "moved", tmp_path / "two")
    one, two = (
        {each.id: name for name, items in read(tmp_path / out).items() for each in items} for out in ("one", "two")
    )
    assert one == two
    assert len(one) == 12


def test_bad_files_are_listed_with_their_reasons(corpus, tmp_path, sound):
    (corpus / "spk0" / "empty.wav").write_bytes(b"")
    (corpus / "spk0" / "noise.mp3").write_bytes(b"hello world" * 50)
    soundfile.write(corpus / "spk1" / "nan.wav", np.array([0.5, np.nan] * 500), 8_000, subtype="FLOAT")
    soundfile.write(corpus / "spk1" / "silent.wav", np.zeros(4_000), 8_000)
    sound(corpus / "spk2" / "short.wav", 99, seconds=0.01)
    sound(corpus / "spk2" / "strange.wav", 98).with_suffix(".txt").write_bytes(b"\xff\xff")
    (corpus / "spk2" / "talk.m4a").write_bytes(b"x")
    report = prepare_corpus(corpus, tmp_path / "out")
    reasons = {each["where"].split("/")[1]: (each["kind"], each["reason"]) for each in skipped(tmp_path / "out")}
    assert (report.total, report.kept, len(reasons)) == (19, 12, 7)
    assert reasons["empty.wav"][0] == reasons["noise.mp3"][0] == "unreadable audio"
    assert "is empty (0 bytes)" in reasons["empty.wav"][1]
    assert "is nan at 0.000 s" in reasons["nan.wav"][1]
    assert reasons["silent.wav"][0] == "digital silence"
    assert reasons["short.wav"] == ("too short", "it lasts 0.01 s, less than min_duration_s=0.05")
    assert reasons["strange.wav"][0] == "unreadable transcript"
    assert reasons["talk.m4a"][0] == "unread format"
    assert report.skipped["unreadable audio"] == 3
    assert "  skipped 3: unreadable audio" in report.summary()


@pytest.mark.parametrize("bad", ["spk0/empty.wav", "spk0/talk.m4a"])
def test_strict_stops_with_the_first_bad_file_and_writes_nothing(corpus, tmp_path, bad):
    (corpus / bad).write_bytes(b"")
    with pytest.raises(InputError, match=bad):
        prepare_corpus(corpus, tmp_path / "out", strict=True)
    assert not (tmp_path / "out").exists()


def test_duplicates_are_dropped_and_held_out_ones_kept(tmp_path, sound):
    for name in ("a", "b", "c"):
        sound(tmp_path / f"{name}.wav", 7)
    for number in range(6):
        sound(tmp_path / f"{number}.wav", number)
    rows = [("a", "train", "x"), ("b", "test", "x"), ("c", "train", "y"), *((str(k), "train", "z") for k in range(6))]
    lines = [json.dumps({"audio": f"{name}.wav", "split": split, "text": text}) for name, split, text in rows]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    report = prepare_corpus(tmp_path / "m.jsonl", tmp_path / "out")
    assert report.recordings_in_two_splits == 0
    assert [each.audio.name for each in read(tmp_path / "out")["test"]] == ["b.wav"]
    assert [(each["where"], each["reason"]) for each in skipped(tmp_path / "out")] == [
        ("m.jsonl line 1", "the same recording as m.jsonl line 2"),
        ("m.jsonl line 3", "the same recording as m.jsonl line 2, with another transcript"),
    ]


def test_texts_that_are_heard_in_training_are_reported(tmp_path, sound):
    (tmp_path / "c").mkdir()
    for number in range(40):
        sound(tmp_path / "c" / f"{number}.wav", number)
        (tmp_path / "c" / f"{number}.txt").write_text(["One!", "two"][number % 2])
    report = prepare_corpus(tmp_path / "c", tmp_path / "out")
    assert report.split_by == "recording"
    assert report.splits["test"].texts_in_train == 1.0
    assert report.different_texts == 2
    assert "100% of texts in train" in report.summary()


def test_recordings_without_a_transcript_are_kept_and_counted_unless_required(corpus, tmp_path):
    (corpus / "spk0" / "clip0.txt").write_text(" ")
    (corpus / "spk1" / "clip1.txt").unlink()
    report = prepare_corpus(corpus, tmp_path / "out")
    assert (report.kept, report.with_text) == (12, 10)
    report = prepare_corpus(corpus, tmp_path / "out2", require_text=True)
    assert (report.kept, report.skipped) == (10, {"no transcript": 2})


def test_limits_on_length_act(corpus, tmp_path, sound):
    sound(corpus / "spk0" / "long.wav", 50, seconds=2.0)
    report = prepare_corpus(corpus, tmp_path / "out", max_duration_s=1.0)
    assert report.skipped == {"too long": 1}
    with pytest.raises(InputError, match=r"no recording that can be used, of 13; the first: .*it lasts 0\.2"):
        prepare_corpus(corpus, tmp_path / "out2", min_duration_s=5.0)


def test_stretches_of_long_files_become_recordings_of_their_own(tmp_path, sound):
    sound(tmp_path / "long.flac", 1, seconds=2.0, rate=8_000)
    rows = [(0.0, 0.5), (0.5, 0.5), (1.0, 0.5), (1.5, 0.5), (1.9, 0.5)]
    lines = [json.dumps({"audio_filepath": "long.flac", "offset": o, "duration": d, "text": f"t {o}"}) for o, d in rows]
    (tmp_path / "m.jsonl").write_text("\n".join(lines))
    report = prepare_corpus(tmp_path / "m.jsonl", tmp_path / "out")
    everything = sorted(
        (each for items in read(tmp_path / "out").values() for each in items), key=lambda each: each.start_sample
    )
    assert (report.kept, report.skipped) == (4, {"stretch beyond the file": 1})
    assert [(each.start_sample, each.num_samples) for each in everything] == [(k * 4_000, 4_000) for k in range(4)]
    whole = soundfile.read(tmp_path / "long.flac", dtype="float32")[0]
    np.testing.assert_array_equal(np.concatenate([each.read().samples[0] for each in everything]), whole)


def test_a_prepared_corpus_can_be_prepared_again(corpus, tmp_path):
    prepare_corpus(corpus, tmp_path / "out")
    report = prepare_corpus(tmp_path / "out", tmp_path / "again")
    assert report.kept == 12
    for name in SPLITS:
        assert [each.id for each in read(tmp_path / "again")[name]] == [
            each.id for each in read(tmp_path / "out")[name]
        ]


def test_durations_that_a_table_gets_wrong_are_noted(tmp_path, sound):
    for number in range(3):
        sound(tmp_path / f"{number}.wav", number, seconds=0.5)
    (tmp_path / "t.csv").write_text("path,duration\n0.wav,0.5\n1.wav,3.0\n2.wav,0.52\n")
    report = prepare_corpus(tmp_path / "t.csv", tmp_path / "out")
    assert "1 durations in the table differ from what was decoded; the decoded ones count" in report.notes


def test_missing_files_are_listed(tmp_path, sound):
    sound(tmp_path / "a.wav")
    (tmp_path / "t.csv").write_text("path,text\na.wav,hi\nb.wav,ho\n")
    report = prepare_corpus(tmp_path, tmp_path / "out")
    assert (report.kept, report.skipped) == (1, {"missing file": 1})
    assert [len(items) for items in read(tmp_path / "out").values()] == [1, 0, 0]


def test_another_corpus_is_never_overwritten(corpus, tmp_path, sound):
    prepare_corpus(corpus, tmp_path / "out")
    before = all_bytes(tmp_path / "out")
    (tmp_path / "other").mkdir()
    sound(tmp_path / "other" / "a.wav")
    with pytest.raises(InputError, match=r"out was prepared from .*corpus: name another output folder"):
        prepare_corpus(tmp_path / "other", tmp_path / "out")
    with pytest.raises(InputError, match="must not be the corpus itself"):
        prepare_corpus(corpus, corpus)
    with only_writer(tmp_path / "out", ".prepare.lock"), pytest.raises(ResourceError, match="another process"):
        prepare_corpus(corpus, tmp_path / "out")
    assert all_bytes(tmp_path / "out") == before


def test_an_output_inside_the_corpus_is_passed_by(corpus):
    for _ in range(2):
        assert prepare_corpus(corpus, corpus / "data").kept == 12


def test_wrong_options_and_empty_folders_are_said_clearly(corpus, tmp_path):
    with pytest.raises(ConfigError, match=r"valid_fraction must lie in \[0, 1\), but is 1\.5"):
        prepare_corpus(corpus, tmp_path / "out", valid_fraction=1.5)
    with pytest.raises(ConfigError, match="must leave something to train on"):
        prepare_corpus(corpus, tmp_path / "out", valid_fraction=0.5, test_fraction=0.5)
    with pytest.raises(ConfigError, match="must exceed min_duration_s"):
        prepare_corpus(corpus, tmp_path / "out", max_duration_s=0.01)
    (tmp_path / "none").mkdir()
    with pytest.raises(InputError, match="holds no recordings"):
        prepare_corpus(tmp_path / "none", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_names_of_any_bytes_and_length_do_no_harm(tmp_path, sound):
    (tmp_path / "c").mkdir()
    odd = os.fsdecode(b"\xff\xfe")
    for number, name in enumerate([odd, "a", "b"]):
        sound(tmp_path / "c" / f"{name}.wav", number)
    (tmp_path / "c" / f"{odd}x.wav").write_bytes(b"")
    (tmp_path / "c" / f"{odd}x.txt").write_text("x")
    (tmp_path / "c" / f"{odd}y.txt").write_text("y")
    report = prepare_corpus(tmp_path / "c", tmp_path / "out")
    assert (report.kept, len(skipped(tmp_path / "out"))) == (3, 1)
    assert odd + ".wav" in {each.audio.name for items in read(tmp_path / "out").values() for each in items}
    report.summary().encode()
    (tmp_path / "t.csv").write_text(f"path,text\nc/a.wav,x\n{'n' * 5_000}.wav,y\n")
    assert prepare_corpus(tmp_path / "t.csv", tmp_path / "out2").skipped == {"missing file": 1}
