"""Corpora of many shapes: the same recordings, texts and speakers are found."""

import json
import os

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voder.corpus.sources import find_recordings
from voder.errors import InputError


@pytest.fixture
def corpus(tmp_path):
    """Lay out files (empty sound files do: they are not opened here) and find the recordings."""

    def lay(files, find=".", **options):
        for name, content in files.items():
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = find_recordings(tmp_path / find, **options)
        rows = [
            (each.audio.relative_to(tmp_path).as_posix(), each.text, each.speaker, each.split)
            for each in found.candidates
        ]
        return rows, found

    return lay


def test_a_csv_with_a_header(corpus):
    table = 'path,sentence,client_id,locale,license\na.wav,"Hi, you",x,en,CC0\nb,"a ""b""\nc",y,,\n'
    rows, found = corpus({"t.csv": table, "a.wav": "", "clips/b.mp3": ""})
    assert rows == [("a.wav", "Hi, you", "x", None), ("clips/b.mp3", 'a "b" c', "y", None)]
    first, second = found.candidates
    assert (first.language, first.licence, second.language, second.licence) == ("en", "CC0", None, None)
    assert (first.where, second.where) == ("t.csv line 2", "t.csv line 4")


def test_a_tsv_keeps_lone_quotation_marks(corpus):
    rows, _ = corpus({"t.tsv": 'file\ttext\na.wav\tsay "no\nb.wav\t"yes\n', "a.wav": "", "b.wav": ""})
    assert [row[1] for row in rows] == ['say "no', '"yes']


def test_ljspeechs_list_without_header(corpus):
    table = 'LJ-1|Printed in 1450|Printed in fourteen "fifty\nLJ-2|Two|\n'
    rows, _ = corpus({"metadata.csv": table, "wavs/LJ-1.wav": "", "wavs/LJ-2.wav": ""})
    assert rows == [
        ("wavs/LJ-1.wav", 'Printed in fourteen "fifty', None, None),
        ("wavs/LJ-2.wav", "Two", None, None),
    ]


def test_other_separators_with_a_header(corpus):
    rows, _ = corpus({"t.csv": "Filename;Transcript\na.wav;x, y\n", "a.wav": ""}, find="t.csv")
    assert rows == [("a.wav", "x, y", None, None)]


def test_nemos_json_lines_are_stretches(corpus):
    row = {"audio_filepath": "a.wav", "text": "hi", "duration": 1.5, "offset": 2.0, "lang": "en", "speaker": 7}
    rows, found = corpus({"m.jsonl": json.dumps(row) + "\n", "a.wav": ""})
    assert rows == [("a.wav", "hi", "7", None)]
    assert (found.candidates[0].start_s, found.candidates[0].duration_s) == (2.0, 1.5)


def test_a_voder_manifest_with_stretches(corpus):
    row = {"audio": "a.wav", "start_sample": 800, "num_samples": 1_600, "sample_rate": 8_000, "duration": 0.2}
    _, found = corpus({"m.jsonl": json.dumps(row), "a.wav": ""})
    assert (found.candidates[0].start_s, found.candidates[0].duration_s) == (0.1, 0.2)


def test_a_ready_manifest_keeps_its_split(corpus):
    lines = [
        {"id": str(k), "audio": f"audio/{k}.flac", "text": "x", "split": s} for k, s in enumerate(["train", "dev"])
    ]
    files = {"manifest.jsonl": "\n".join(map(json.dumps, lines)), "audio/0.flac": "", "audio/1.flac": "", "x.csv": "?"}
    assert [row[3] for row in corpus(files)[0]] == ["train", "valid"]


def test_one_table_per_split(corpus):
    header = "path\tsentence\n"
    files = {f"{name}.tsv": f"{header}{name}.mp3\t{name}\n" for name in ("train", "dev", "test", "validated")}
    rows, found = corpus(files)
    assert [(row[1], row[3]) for row in rows] == [("dev", "valid"), ("test", "test"), ("train", "train")]
    assert found.notes == ["split taken from the tables dev.tsv, test.tsv, train.tsv"]


def test_several_tables_need_a_name(corpus):
    files = {"a.csv": "path,text\n", "b.csv": "path,text\nx.wav,x\n"}
    with pytest.raises(InputError, match=r"holds several tables \(a\.csv, b\.csv\): name the one to use"):
        corpus(files)
    assert len(corpus(files, find="b.csv")[0]) == 1


@pytest.mark.parametrize(
    ("table", "reason"),
    [
        ("t.jsonl:{", "not JSON"),
        ('t.jsonl:{"text": "x"}', "no sound file is named: the column must be one of audio, audio_filepath"),
        ('t.jsonl:{"audio": "a.wav", "text": ["x"]}', "text must be text, but is list"),
        ('t.jsonl:{"audio": "a.wav", "offset": 1}', "offset is given without duration"),
        ('t.jsonl:{"audio": "a.wav", "duration": "long"}', "duration must be a number from 0, but is 'long'"),
        ('t.jsonl:{"audio": "a.wav", "start_sample": 5}', "start_sample is given without sample_rate"),
        ("t.csv:path,text\na.wav,b,c", "3 columns where the first line has 2"),
        ("t.csv:path,text\n,b", "no sound file is named"),
        ('t.jsonl:{"audio": "a.wav", "text": "\\ud800"}', "text holds half a character"),
        (b"t.csv:path,text\na.wav,\xff", "not UTF-8"),
        ("t.csv:path,text\na.wav,a\0b", "zero character"),
    ],
)
def test_a_bad_line_is_named_and_the_rest_is_kept(corpus, table, reason):
    table = table if isinstance(table, bytes) else table.encode()
    name, content = table.split(b":", 1)
    good = b'{"audio": "good.wav"}' if name.endswith(b"jsonl") else b"good.wav,x"
    rows, found = corpus({name.decode(): content + b"\n" + good + b"\n"})
    assert [row[0] for row in rows] == ["good.wav"]
    assert [each.kind for each in found.rejected] == ["bad table line"]
    assert reason in found.rejected[0].reason
    assert found.rejected[0].where == f"{name.decode()} line {1 if name.endswith(b'jsonl') else 2}"


def test_a_table_without_column_names_is_refused(corpus):
    with pytest.raises(InputError, match="does not name its columns: the first line must hold one of audio, "):
        corpus({"t.csv": "a.wav,hello\n"})
    with pytest.raises(InputError, match="is no table: the suffix must be one of"):
        corpus({"t.xls": ""}, find="t.xls")


def test_a_folder_with_transcripts_in_a_fixed_order(corpus):
    files = {"b.wav": "", "b.txt": "bee", "a.FLAC": "", "c.opus": "", "d.m4a": "", ".hidden.wav": "", "z.txt": "z"}
    rows, found = corpus(files)
    assert rows == [("a.FLAC", None, None, None), ("b.wav", "bee", None, None), ("c.opus", None, None, None)]
    assert [(each.where, each.kind) for each in found.rejected] == [("d.m4a", "unread format")]
    assert any("1 hidden sound files" in note for note in found.notes)
    assert any("1 text files belong to no recording (z.txt" in note for note in found.notes)


def test_a_folder_per_speaker(corpus):
    files = {"ann/1.wav": "", "bob/1.wav": "", "bob/1.lab": "hey"}
    rows, found = corpus(files)
    assert rows == [("ann/1.wav", None, "ann", None), ("bob/1.wav", "hey", "bob", None)]
    assert any("speakers taken from the names of sub-folders" in note for note in found.notes)
    assert [row[2] for row in corpus(files, folder_speakers=False)[0]] == [None, None]


@pytest.mark.parametrize(
    "files",
    [
        ["ann/1.wav", "2.wav"],  # one lies outside
        ["clips/1.wav", "clips/2.wav"],  # one folder is no choice
        ["ann/x/1.wav", "bob/y/2.wav"],  # two folders deep
    ],
)
def test_other_sub_folders_name_nobody(corpus, files):
    assert [row[2] for row in corpus(dict.fromkeys(files, ""))[0]] == [None, None]


def test_librispeechs_folders_name_speakers(corpus):
    files = {"19/198/19-198-0000.flac": "", "26/495/26-495-0001.flac": "", "19/198/19-198.trans.txt": "19-198-0000 HI"}
    rows, _ = corpus(files)
    assert [row[1:3] for row in rows] == [("HI", "19"), (None, "26")]


def test_folders_named_after_splits_are_splits(corpus):
    files = dict.fromkeys(["train/ann/1.wav", "train/bob/1.wav", "dev/cid/1.wav"], "")
    rows, found = corpus(files)
    assert [row[2:] for row in rows] == [("cid", "valid"), ("ann", "train"), ("bob", "train")]
    assert "split taken from the folders dev, train" in found.notes


def test_the_output_folder_is_passed_by(corpus, tmp_path):
    rows, _ = corpus({"a.wav": "", "out/b.wav": ""}, exclude=tmp_path / "out")
    assert [row[0] for row in rows] == ["a.wav"]


def test_nothing_is_said_clearly(tmp_path):
    with pytest.raises(InputError, match="holds no recordings: give a folder of wav, flac"):
        find_recordings(tmp_path)
    with pytest.raises(InputError, match="does not exist"):
        find_recordings(tmp_path / "none")
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(InputError, match="does not exist"):
        find_recordings(tmp_path / "pipe")


CELLS = st.sampled_from(
    ["path", "text", "a.wav", "offset", "1", '"', ",", "|", "\t", "\n", "\r", "\0", "é", "{}", '{"audio":']
)


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    suffix=st.sampled_from([".csv", ".tsv", ".jsonl"]),
    head=st.sampled_from(["", "path,text\n", "id|text\n", "audio\ttext\n"]),
    cells=st.lists(CELLS, max_size=20),
    noise=st.binary(max_size=10),
)
def test_any_table_is_read_or_refused(tmp_path, suffix, head, cells, noise):
    (tmp_path / f"t{suffix}").write_bytes(head.encode() + "".join(cells).encode() + noise)
    found = None
    try:
        found = find_recordings(tmp_path / f"t{suffix}")
    except InputError as error:
        found = str(error)
    if isinstance(found, str):
        assert "does not name its columns" in found
    else:
        assert all(each.audio.name for each in found.candidates)
        assert all(each.reason for each in found.rejected)
