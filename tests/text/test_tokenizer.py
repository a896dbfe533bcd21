import pytest
from hypothesis import given
from hypothesis import strategies as st

from voder.errors import TextError
from voder.text.tokenizer import SymbolTokenizer


def test_words_there_and_back():
    tokenizer = SymbolTokenizer.fit(["one two", "three one"], "words")
    assert tokenizer.symbols == ("one", "three", "two")
    assert tokenizer.decode(tokenizer.encode("two  one")) == "two one"


@given(st.text(alphabet="abc d", min_size=1))
def test_characters_there_and_back(text):
    tokenizer = SymbolTokenizer.fit(["abc d"], "characters")
    assert tokenizer.decode(tokenizer.encode(text)) == " ".join(text.split())


def test_unknown_words_are_named():
    tokenizer = SymbolTokenizer(("one", "two"), "words")
    with pytest.raises(TextError, match=r"'ten'.*it knows 'one', 'two'"):
        tokenizer.encode("one ten two")


def test_unknown_characters_are_named():
    with pytest.raises(TextError, match=r"characters.*'é'"):
        SymbolTokenizer.fit(["cafe"]).encode("café")


def test_repeated_symbols_are_refused():
    with pytest.raises(ValueError, match=r"repeat"):
        SymbolTokenizer(("a", "b", "a"))
