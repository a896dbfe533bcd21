import pytest

from voder.errors import ConfigError, TextError
from voder.systems.whisper.tokenizer import WhisperTokenizer, merge


def test_the_pair_of_lowest_rank_is_joined_first():
    ranks = {b"a": 0, b"b": 1, b"c": 2, b"bc": 3, b"ab": 4, b"abc": 5}
    assert merge(b"abc", {**ranks}) == [5]
    del ranks[b"abc"]
    assert merge(b"abc", ranks) == [0, 3]  # b and c, not a and b


@pytest.mark.parametrize("size", [51_864, 51_865, 51_866])
def test_what_is_written_is_read_back(size):
    tokenizer = WhisperTokenizer(size)
    for text in ("It's 5 o'clock,\n\n not  six!", "naïve 日本語 🙂 ♪♪", ""):
        assert tokenizer.decode(tokenizer.encode(text)) == text


def test_a_special_token_in_a_text_is_refused_by_name():
    with pytest.raises(TextError, match="endoftext"):
        WhisperTokenizer(51_865).encode("good <|endoftext|> night")


def test_languages_go_by_code_and_name_and_the_nearest_is_offered():
    assert WhisperTokenizer(51_865, language="German").language == "de"
    with pytest.raises(ConfigError, match="german"):
        WhisperTokenizer(51_865, language="germann")
    with pytest.raises(ConfigError, match="yue"):
        WhisperTokenizer(51_865, language="yue")  # only large-v3 knows Cantonese
    assert WhisperTokenizer(51_866, language="yue").language == "yue"


@pytest.mark.parametrize("wanted", [{"language": "de"}, {"task": "translate"}])
def test_an_english_only_vocabulary_refuses_other_jobs(wanted):
    with pytest.raises(ConfigError, match="English-only"):
        WhisperTokenizer(51_864, **wanted)


def test_characters_cut_between_ids_stay_whole_in_words():
    tokenizer = WhisperTokenizer(51_865, language="ja")
    words, groups = tokenizer.split_words(tokenizer.encode("今日は🙂"))
    assert "".join(words) == "今日は🙂"
    assert max(map(len, groups)) > 1
