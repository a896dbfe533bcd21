"""Strings that training never composes."""

import itertools

import pytest

from voder.data.holdout import held_out_strings, is_held_out
from voder.errors import ConfigError

WORDS = ["zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine"]


def test_about_the_asked_share_of_strings_is_held_out() -> None:
    texts = [" ".join(words) for words in itertools.product(WORDS, repeat=4)]
    share = sum(is_held_out(text, 0.03) for text in texts) / len(texts)
    assert 0.025 < share < 0.035


def test_only_strings_of_three_to_five_words_are_held_out() -> None:
    for count, held in ((1, False), (2, False), (3, True), (5, True), (6, False)):
        assert is_held_out(" ".join(["one"] * count), 1.0) == held
    assert not is_held_out("one two three", 0.0)


def test_the_choice_depends_on_the_words_and_not_on_how_they_are_written() -> None:
    for words in itertools.product(WORDS[:5], repeat=3):
        assert is_held_out(" ".join(words), 0.5) == is_held_out(", ".join(words).upper() + ".", 0.5)


def test_evaluation_draws_exactly_what_training_withholds() -> None:
    texts = held_out_strings(WORDS, 60, fraction=0.03)
    assert len(set(texts)) == 60
    assert all(is_held_out(text, 0.03) for text in texts)
    assert {len(text.split()) for text in texts} == {3, 4, 5}
    assert texts == held_out_strings(WORDS, 60, fraction=0.03)
    assert texts != held_out_strings(WORDS, 60, fraction=0.03, seed=1)


def test_asking_for_more_than_there_are_is_refused() -> None:
    with pytest.raises(ConfigError, match="of 500 held-out strings exist over 2 words"):
        held_out_strings(["one", "two"], 500, fraction=0.5)
