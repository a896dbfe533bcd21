"""Manifests: every bad line named, none lost, memory flat."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from voder.audio.io import AudioClip, write_audio
from voder.data.manifest import MAX_LINE_BYTES, Manifest, Utterance, write_manifest
from voder.errors import AudioError, ManifestError


def utterance(folder, number=0, **changes):
    fields = {
        "id": f"id{number}",
        "audio": folder / f"{number}.wav",
        "duration_s": 0.5,
        "num_samples": 4_000,
        "sample_rate_hz": 8_000,
        "channels": 1,
    }
    return Utterance(**(fields | changes))


def line(**changes):
    row = {"id": "a", "audio": "a.wav", "duration": 1.0, "sample_rate": 8_000, "channels": 1}
    return json.dumps(row | changes)


@pytest.fixture
def write(tmp_path):
    def put(*lines):
        path = tmp_path / "m.jsonl"
        path.write_bytes(b"\n".join(each if isinstance(each, bytes) else each.encode() for each in lines) + b"\n")
        return path

    return put


def test_what_is_written_is_read_back_with_the_same_bytes(tmp_path):
    full = utterance(
        tmp_path / "sub",
        1,
        text="Žluťoučký „kůň“",
        speaker="s",
        language="cs",
        licence="CC0",
        source="c",
        start_sample=7,
    )
    items = [utterance(tmp_path), full, utterance(Path("/elsewhere"), 2, audio=Path("/elsewhere/2.wav"))]
    assert write_manifest(tmp_path / "m.jsonl", items) == 3
    manifest = Manifest.open(tmp_path / "m.jsonl")
    assert list(manifest) == items
    assert manifest[-1] == items[2]
    assert manifest.durations_s.tolist() == [0.5] * 3
    assert manifest.speakers() == ("s",)
    assert manifest.folder == tmp_path
    before = (tmp_path / "m.jsonl").read_bytes()
    write_manifest(tmp_path / "m.jsonl", manifest)
    assert (tmp_path / "m.jsonl").read_bytes() == before


def test_a_moved_folder_still_finds_its_recordings(tmp_path):
    os.mkdir(tmp_path / "a")
    write_manifest(tmp_path / "a" / "m.jsonl", [utterance(tmp_path / "a")])
    os.rename(tmp_path / "a", tmp_path / "b")
    assert Manifest.open(tmp_path / "b" / "m.jsonl")[0].audio == tmp_path / "b" / "0.wav"


def test_nemos_keys_are_read_and_the_rest_comes_from_the_sound_file(tmp_path, write):
    samples = np.arange(16_000, dtype=np.float32)[None] / 32_768
    write_audio(tmp_path / "x.wav", AudioClip(samples, 16_000))
    row = {"audio_filepath": "x.wav", "offset": 0.25, "duration": 0.5, "text": "hello", "lang": "en", "speaker": 7}
    found = Manifest.open(write(json.dumps(row)))[0]
    assert (found.start_sample, found.num_samples, found.sample_rate_hz, found.channels) == (4_000, 8_000, 16_000, 1)
    assert (found.text, found.language, found.speaker) == ("hello", "en", "7")
    np.testing.assert_array_equal(found.read().samples, samples[:, 4_000:12_000])
    assert found.read(sample_rate_hz=8_000, channels=2).samples.shape == (2, 4_000)


def test_reading_an_utterance_gives_its_length_and_sees_a_damaged_end(tmp_path):
    write_audio(tmp_path / "0.flac", AudioClip(np.full((1, 9_000), 0.5, np.float32), 8_000))
    item = utterance(tmp_path, audio=tmp_path / "0.flac")
    assert item.read().num_samples == 4_000
    (tmp_path / "0.flac").write_bytes((tmp_path / "0.flac").read_bytes()[:-3])
    with pytest.raises(AudioError, match="truncated"):
        item.read()


BAD = [
    ("{", "not JSON"),
    ("[" * 100_000, "not JSON"),
    ("[1]", "a JSON object is needed, not list"),
    (b'{"id": "\xff"}', "not UTF-8 at byte 8"),
    (line(audio=None), "audio is missing"),
    (line(audio=3), "audio must be text, but is int"),
    (line(audio="a\0b"), "audio holds a zero character"),
    (line(duration=None), "duration is missing"),
    (line(duration=0), "duration is 0"),
    (line(duration=-1), "duration must lie between 0 and 604800, but is -1"),
    (line(duration=float("nan")), "duration must lie between 0 and 604800, but is nan"),
    (line(duration=10**400), "duration must lie between"),
    (line(duration="1"), "duration must be a number, but is str"),
    (line(duration=True), "duration must be a number, but is bool"),
    (line(sample_rate=1), "sample_rate must lie between 1000 and 768000, but is 1"),
    (line(sample_rate=8000.5), "sample_rate must be a whole number"),
    (line(num_samples=16_000), r"duration 1 contradicts num_samples 16000 at 8000 Hz \(2 s\)"),
    (line(channels=0), "channels must lie between 1 and 64"),
    (line(text=["a"]), "text must be text, but is list"),
    (line(text="\ud800"), "text holds half a character"),
    ("x" * (MAX_LINE_BYTES + 5), "the line is longer than 1048576 bytes"),
]


@pytest.mark.parametrize(("bad", "reason"), BAD)
def test_a_bad_line_is_named_with_its_number_and_reason(write, bad, reason):
    path = write(line(id="first"), "", bad, line(id="last"))
    with pytest.raises(ManifestError, match=rf"m\.jsonl has 1 bad lines of 3: line 3: {reason}"):
        Manifest.open(path)
    manifest = Manifest.open(path, skip_bad=True)
    assert [manifest[0].id, manifest[1].id, len(manifest)] == ["first", "last", 2]
    assert [bad.line for bad in manifest.bad_lines] == [3]


def test_all_bad_lines_are_listed_and_many_are_counted(write):
    path = write(line(), *["{"] * 30)
    with pytest.raises(ManifestError, match=r"has 30 bad lines of 31: line 2: .*line 21: .*; and 10 more"):
        Manifest.open(path)
    assert len(Manifest.open(path, skip_bad=True).bad_lines) == 30


def test_an_id_that_stands_twice_is_named(write):
    path = write(line(id="x"), line(id="y"), line(id="x"), "{")
    with pytest.raises(ManifestError, match="line 3: id 'x' stands on an earlier line too; line 4: not JSON"):
        Manifest.open(path)
    assert [each.id for each in Manifest.open(path, skip_bad=True)] == ["x", "y"]


def test_empty_texts_are_unknown_and_white_space_goes(write):
    found = Manifest.open(write(line(text="  ", speaker="", language=" en ")))[0]
    assert (found.text, found.speaker, found.language) == (None, None, "en")


def test_a_byte_order_mark_and_windows_line_ends_are_fine(write):
    path = write(b"\xef\xbb\xbf" + line(id="a").encode() + b"\r", line(id="b") + "\r")
    assert [each.id for each in Manifest.open(path)] == ["a", "b"]


def test_names_of_files_need_not_be_utf8(tmp_path):
    odd = Path(os.fsdecode(bytes(tmp_path) + b"/\xff\xfe.wav"))
    write_manifest(tmp_path / "m.jsonl", [utterance(tmp_path, audio=odd, text="é")])
    assert Manifest.open(tmp_path / "m.jsonl")[0].audio == odd


def test_missing_and_changed_manifests_are_named(tmp_path, write):
    with pytest.raises(ManifestError, match=r"none\.jsonl cannot be read: No such file"):
        Manifest.open(tmp_path / "none.jsonl")
    manifest = Manifest.open(write(line(id="a"), line(id="b")))
    write("{}")
    with pytest.raises(ManifestError, match="has changed since it was opened"):
        manifest[1]
    with pytest.raises(IndexError, match="there is no number 2"):
        manifest[2]


def test_an_empty_manifest_is_empty(write):
    manifest = Manifest.open(write(""))
    assert len(manifest) == 0
    assert manifest.durations_s.shape == (0,)


def test_memory_holds_offsets_and_durations_only(tmp_path):
    count = 50_000
    with open(tmp_path / "m.jsonl", "w") as file:
        for number in range(count):
            file.write(line(id=f"utterance-{number}", text="some words " * 30, speaker=f"s{number % 10}") + "\n")
    code = (  # a process of its own, whose peak of memory is its own
        "import resource, sys; from voder.data.manifest import Manifest\n"
        "peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024\n"
        "before = peak(); m = Manifest.open(sys.argv[1]); print(len(m), m[49_999].id, peak() - before)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "m.jsonl"], capture_output=True, text=True, check=True
    )
    length, last, grown = done.stdout.split()
    assert (int(length), last) == (count, "utterance-49999")
    assert (tmp_path / "m.jsonl").stat().st_size > 400 * count
    assert int(grown) < 100 * count


VALUES = (
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20) | st.lists(st.integers(), max_size=2)
)
KEYS = st.sampled_from(
    ["id", "audio", "audio_filepath", "duration", "num_samples", "sample_rate", "channels", "text", "offset"]
)
LINES = st.one_of(
    st.binary(max_size=60).map(lambda data: data.replace(b"\n", b"")),
    st.dictionaries(KEYS, VALUES, max_size=9).map(lambda row: json.dumps(row).encode()),
    st.dictionaries(KEYS, VALUES, max_size=2).map(lambda row: line(**row).encode()),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.lists(LINES, max_size=8))
@example([b'{"audio": "a", "duration": 1e999}'])
def test_any_lines_are_kept_or_named(tmp_path, lines):
    (tmp_path / "m.jsonl").write_bytes(b"\n".join(lines))
    manifest = Manifest.open(tmp_path / "m.jsonl", skip_bad=True)
    written = sum(bool(each.strip()) for each in lines)
    assert len(manifest) + len(manifest.bad_lines) == written
    assert (manifest.durations_s > 0).all()
    assert all(reason and 1 <= number <= len(lines) for number, reason in manifest.bad_lines)
