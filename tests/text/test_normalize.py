import pytest

from voder.text.normalize import normalize_words, spell


@pytest.mark.parametrize(
    ("written", "said"),
    [
        ("It's  5 o’clock -- no, SIX!", "it's 5 o'clock no six"),
        ("'quoted' words", "quoted words"),
        ("ﬁne", "fine"),
        ("Straße, ÄRGER", "strasse ärger"),
        ("well-known\tfact\n", "well known fact"),
        ("…", ""),
        ("नमस्ते दुनिया", "नमस्ते दुनिया"),
    ],
)
def test_words_are_what_was_said(written, said):
    assert normalize_words(written) == said


def test_normalizing_twice_changes_nothing():
    once = normalize_words("Don't — STOP… (now)")
    assert normalize_words(once) == once


def test_spell_composes_and_collapses():
    assert spell("  cafe\u0301 \n au  lait ") == "café au lait"
