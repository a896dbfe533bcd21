"""The bundled recordings are what the demo and its credit say they are."""

import pytest

from voder.data.holdout import held_out_strings, is_held_out
from voder.data.manifest import Manifest
from voder.demo.pipeline import HELD_OUT_FRACTION, digits_as_words
from voder.demo.recordings import ARCHIVE, WORDS, Recordings, unpack
from voder.demo.strings import PROMPT_WORDS, Takes, plan_lines
from voder.text.normalize import normalize_words


@pytest.fixture(scope="module")
def recordings(tmp_path_factory: pytest.TempPathFactory) -> Recordings:
    return unpack(tmp_path_factory.mktemp("demo") / "recordings")


def test_the_archive_fits_its_limit() -> None:
    assert ARCHIVE.stat().st_size <= 6_000_000


def test_credit_and_licence_ship(recordings: Recordings) -> None:
    assert "CC BY-SA 4.0" in recordings.credit
    licences = {u.licence for u in Manifest.open(recordings.known / "manifest.jsonl")}
    assert licences == {"CC-BY-SA-4.0"}


def test_the_new_speaker_is_unknown(recordings: Recordings) -> None:
    known = set(Manifest.open(recordings.known / "manifest.jsonl").speakers())
    new = set(Manifest.open(recordings.new / "manifest.jsonl").speakers())
    assert len(known) == 4
    assert len(new) == 1
    assert not known & new


def test_unpacking_again_changes_nothing(recordings: Recordings) -> None:
    folder = recordings.known.parent
    before = (folder / "known" / "manifest.jsonl").stat().st_mtime_ns
    unpack(folder)
    assert (folder / "known" / "manifest.jsonl").stat().st_mtime_ns == before


def test_lines_are_unseen_strings_with_prompts_of_other_words(recordings: Recordings) -> None:
    takes = Takes(Manifest.open(recordings.new / "manifest.jsonl"), sample_rate_hz=8000, peak=0.7)
    texts = held_out_strings(WORDS, 12, fraction=HELD_OUT_FRACTION, seed=0)
    lines = plan_lines(takes, texts, words=WORDS, seed=0)
    again = plan_lines(takes, texts, words=WORDS, seed=0)
    for line, same in zip(lines, again, strict=True):
        assert is_held_out(line.text, HELD_OUT_FRACTION)
        assert len(line.prompt_text.split()) == PROMPT_WORDS
        assert not set(line.prompt_text.split()) & set(line.text.split())
        assert 0.7 < line.prompt.duration_s < 3.5
        assert (line.original.samples == same.original.samples).all()


def test_numerals_become_the_words_that_were_said() -> None:
    assert normalize_words(digits_as_words("My name is 3, 14 and 0.")) == "my name is three one four and zero"
