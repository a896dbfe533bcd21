import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from voder.metrics.text import (
    bootstrap_rate,
    corpus_edits,
    count_edits,
    pooled,
    random_rate,
    shuffled_rate,
)


@pytest.mark.parametrize(
    ("said", "heard", "counts", "rate"),
    [
        ("the cat sat on the mat", "the cat sat on mat", (5, 0, 1, 0), 1 / 6),
        ("hello world", "hello beautiful word", (1, 1, 0, 1), 1.0),
        ("a", "b c d", (0, 1, 0, 2), 3.0),
        ("one two", "", (0, 0, 2, 0), 1.0),
    ],
)
def test_word_edits(said, heard, counts, rate):
    made = count_edits(said, heard)
    assert (made.hits, made.substitutions, made.deletions, made.insertions) == counts
    assert made.rate == pytest.approx(rate)


def test_character_edits():
    made = count_edits("the cat sat on the mat", "the cat sat on mat", unit="characters")
    assert (made.hits, made.deletions) == (18, 4)


def test_an_empty_reference_counts_insertions_only():
    made = count_edits("", "two words")
    assert made.insertions == 2
    assert math.isnan(made.rate)


def test_writing_does_not_count_unless_asked():
    assert count_edits("It's SIX!", "it’s six").errors == 0
    assert count_edits("SIX", "six", normalize=False).errors == 1


def test_corpus_rate_pools_counts():
    counts = corpus_edits(["a b c d", "e"], ["a b c d", "f"])
    assert pooled(counts).rate == pytest.approx(1 / 5)


words = st.lists(st.sampled_from(["one", "two", "three"]), min_size=1, max_size=6).map(" ".join)


@given(words, words)
def test_counts_add_up(said, heard):
    made = count_edits(said, heard)
    assert made.reference_length == len(said.split())
    assert made.hits + made.substitutions + made.insertions == len(heard.split())
    assert (made.errors == 0) == (said == heard)


def test_interval_holds_the_rate_and_narrows_with_data():
    said, heard = ["a b", "c d", "e f", "g h"], ["a b", "c x", "e f", "g h"]
    few, many = corpus_edits(said, heard), corpus_edits(said * 50, heard * 50)
    small, large = bootstrap_rate(few), bootstrap_rate(many)
    assert small.low <= 1 / 8 <= small.high
    assert large.high - large.low < small.high - small.low
    assert bootstrap_rate(few) == small


def test_chance_of_ten_equal_words_is_nine_tenths():
    said = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"] * 40
    assert random_rate(said) == pytest.approx(0.9, abs=0.05)


def test_shuffled_references_cost_everything_when_all_differ():
    assert shuffled_rate(["a", "b", "c"], ["a", "b", "c"]) == 1.0


def test_what_is_matched_and_what_is_kept_of_a_text():
    made = count_edits("hello world", "hello beautiful word")
    assert made.match_error_rate == pytest.approx(2 / 3)
    assert made.information_preserved == pytest.approx(1 / 2 * 1 / 3)
    assert made.information_lost == pytest.approx(5 / 6)
    nothing = count_edits("", "")
    assert math.isnan(nothing.match_error_rate)
    assert nothing.information_preserved == 0
