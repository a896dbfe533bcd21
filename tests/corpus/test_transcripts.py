"""Transcripts beside recordings are found and read."""

import pytest

from voder.corpus.transcripts import Transcripts
from voder.errors import InputError


@pytest.fixture
def transcripts(tmp_path):
    def enter(**files):
        for name, content in files.items():
            path = tmp_path / name.replace("__", ".")
            path.write_bytes(content if isinstance(content, bytes) else content.encode())
        found = Transcripts()
        found.enter(tmp_path, sorted(path.name for path in tmp_path.iterdir()))
        return lambda name: found.of(tmp_path / name), found

    return enter


def test_each_kind_of_file_is_read_and_white_space_collapsed(transcripts):
    of, found = transcripts(
        a__wav="", a__txt=" Hello\n  you ", b__wav="", b__lab="bé", c__flac="", c__normalized__txt="sea", d__wav=""
    )
    assert [of("a.wav"), of("b.wav"), of("c.flac"), of("d.wav")] == ["Hello you", "bé", "sea", None]
    assert found.unused == []


def test_normalised_text_comes_first(transcripts):
    of, _ = transcripts(a__wav="", a__txt="5", a__lab="v", a__normalized__txt="five")
    assert of("a.wav") == "five"


def test_an_empty_transcript_is_none(transcripts):
    of, _ = transcripts(a__wav="", a__txt=" \n")
    assert of("a.wav") is None


def test_lists_of_a_folder_are_read(transcripts):
    of, _ = transcripts(
        **{"1-2-0__wav": "", "1-2-1__wav": "", "1-2__trans__txt": "1-2-0 HE WAS THERE\n1-2-1  SHE TOO\n\n1-2-9\n"}
    )
    assert [of("1-2-0.wav"), of("1-2-1.wav")] == ["HE WAS THERE", "SHE TOO"]


def test_text_files_without_a_recording_are_remembered(transcripts):
    _, found = transcripts(a__wav="", README__txt="read me", b__lab="b")
    assert found.unused == ["README.txt", "b.lab"]


def test_a_file_that_is_no_text_is_named(transcripts):
    of, _ = transcripts(a__wav="", a__txt=b"\xff\xfe", b__wav="", b__txt="a\0b")
    with pytest.raises(InputError, match=r"a\.txt is not UTF-8 text at byte 0"):
        of("a.wav")
    with pytest.raises(InputError, match=r"b\.txt is no transcript"):
        of("b.wav")
