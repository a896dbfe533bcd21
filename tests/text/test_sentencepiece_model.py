"""SentencePiece models of byte pairs, read without the package."""

from pathlib import Path

import pytest

from voder.errors import CheckpointError
from voder.text.sentencepiece_model import read_sentencepiece
from voder.text.subwords import encode

MODEL = Path(__file__).parents[1] / "fixtures" / "common" / "tiny_llama_tokenizer" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer():
    return read_sentencepiece(MODEL)


def test_ids_are_those_of_the_package(tokenizer):
    assert len(tokenizer) == 400
    assert encode(tokenizer, "hello") == [362, 304, 371, 270]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, ": a dog")) == ["▁", ":", "▁a", "▁d", "og"]
    assert encode(tokenizer, " ") == [362, 362]
    assert tokenizer.convert_ids_to_tokens(encode(tokenizer, "<eoa>")) == ["▁", "<0x3C>", "eo", "a", "<0x3E>"]


def test_text_comes_back(tokenizer):
    for text in ("hello to everyone", "a\nb", "Žluťoučký kůň 1984", "  two  blanks"):
        assert tokenizer.decode(encode(tokenizer, text)) == text


def test_what_looks_special_stays_text(tokenizer):
    assert {1, 2}.isdisjoint(encode(tokenizer, "<s> </s>"))
    assert tokenizer.bos_token_id == 1
    assert tokenizer.eos_token_id == 2


@pytest.mark.parametrize("content", [b"", b"\x0a\xff\xff\xff\xff\x0f", b"not a model", MODEL.read_bytes()[:3000]])
def test_damaged_files_are_refused_in_one_sentence(tmp_path, content):
    file = tmp_path / "tokenizer.model"
    file.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"tokenizer\.model is"):
        read_sentencepiece(file)
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_sentencepiece(tmp_path / "absent.model")
