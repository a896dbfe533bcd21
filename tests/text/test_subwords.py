"""Tokenizers of language models: bytes, folders, and text that looks like a marker."""

import json
import shutil
from pathlib import Path

import pytest

from voder.errors import CheckpointError, TextError
from voder.text.subwords import (
    CHAT_TEMPLATE,
    NUM_BYTE_IDS,
    byte_tokenizer,
    encode,
    encode_chat,
    encode_marked,
    fingerprint,
    read_tokenizer,
    read_unchanged,
    tokenizer_files,
    without_added,
)

MODEL = Path(__file__).parents[1] / "fixtures" / "common" / "tiny_llama_tokenizer" / "tokenizer.model"


@pytest.fixture(scope="module")
def tokenizer():
    return byte_tokenizer()


@pytest.mark.parametrize("text", ["Hello, world", "żółć 雨 🎵", "", " two  spaces\n", "<s> </s> <|im_end|>", "\x00\t"])
def test_every_text_comes_back_and_its_markers_stay_text(tokenizer, text):
    ids = encode(tokenizer, text)
    assert len(ids) == len(text.encode())
    assert all(5 <= id_ < NUM_BYTE_IDS for id_ in ids)
    assert tokenizer.decode(ids) == text


def test_half_a_character_is_refused(tokenizer):
    with pytest.raises(TextError, match="surrogate"):
        encode(tokenizer, "a\ud800")


def test_what_programs_write_has_markers(tokenizer):
    assert encode_marked(tokenizer, "<s>a</s>") == [1, encode(tokenizer, "a")[0], 2]
    assert len(tokenizer) == NUM_BYTE_IDS
    assert (tokenizer.pad_token_id, tokenizer.bos_token_id, tokenizer.eos_token_id) == (0, 1, 2)


def test_a_conversation_follows_the_template_and_cannot_break_out_of_it(tokenizer):
    ids = encode_chat(tokenizer, [{"role": "user", "content": "a<|im_end|>b"}])
    assert ids == encode_marked(tokenizer, "<|im_start|>user\n") + encode(tokenizer, "a<|im_end|>b") + encode_marked(
        tokenizer, "<|im_end|>\n<|im_start|>assistant\n"
    )
    assert ids.count(4) == 1
    closed = encode_chat(
        tokenizer, [{"role": "user", "content": "a"}, {"role": "assistant", "content": "b"}], answer=False
    )
    assert tokenizer.decode(closed) == "<|im_start|>user\na<|im_end|>\n<|im_start|>assistant\nb<|im_end|>\n"


def test_without_a_template_there_is_no_conversation():
    plain = byte_tokenizer()
    plain.chat_template = None
    with pytest.raises(TextError, match="no chat template"):
        encode_chat(plain, [{"role": "user", "content": "a"}])


def test_a_folder_is_read_as_it_was_written(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "t")
    again = read_tokenizer(tmp_path / "t")
    chat = [{"role": "user", "content": "ż <|im_end|>"}]
    assert encode(again, "ż </s>") == encode(tokenizer, "ż </s>")
    assert encode_chat(again, chat) == encode_chat(tokenizer, chat)
    with pytest.raises(CheckpointError, match="holds no tokenizer"):
        read_tokenizer(tmp_path)
    (tmp_path / "t" / "tokenizer.json").write_text("{")
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_tokenizer(tmp_path / "t")


def test_a_sentencepiece_model_is_read_with_what_the_files_beside_it_add(tmp_path):
    shutil.copy(MODEL, tmp_path)
    assert len(read_tokenizer(tmp_path)) == 400
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<1>": 401, "<0>": 400}))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"chat_template": CHAT_TEMPLATE}))
    tokenizer = read_tokenizer(tmp_path)
    assert tokenizer.convert_tokens_to_ids(["<0>", "<1>"]) == [400, 401]
    assert tokenizer.chat_template == CHAT_TEMPLATE
    assert len(read_unchanged(tmp_path, 400)) == 400
    (tmp_path / "added_tokens.json").write_text(json.dumps({"<1>": 402}))
    with pytest.raises(CheckpointError, match="leaves gaps before '<1>'"):
        read_tokenizer(tmp_path)
    (tmp_path / "added_tokens.json").write_text("[]")
    with pytest.raises(CheckpointError, match="must hold a table"):
        read_tokenizer(tmp_path)


def test_added_tokens_are_text_again_once_they_are_taken_away(tokenizer):
    grown = byte_tokenizer()
    grown.add_tokens(["<5>", "<sosp>"])
    with tokenizer_files(grown) as (folder, name):
        read = read_tokenizer(folder)
        assert fingerprint(read) == name
    assert not folder.exists()
    assert encode(read, "<sosp><5>") == [NUM_BYTE_IDS + 1, NUM_BYTE_IDS]
    plain = without_added(read, NUM_BYTE_IDS)
    assert encode(plain, "<sosp><5></s>") == encode(tokenizer, "<sosp><5></s>")
    assert len(plain) == NUM_BYTE_IDS
    assert set(plain.all_special_ids) == set(tokenizer.all_special_ids)
    assert fingerprint(plain) == fingerprint(tokenizer)
