"""Language models whose vocabulary has grown: weights that grow along, and tokens at other ids."""

import json

import pytest
import torch

from voder.errors import CheckpointError
from voder.nn.grown_lm import grown_rows, grown_state, grown_tokenizer, wrong_ids
from voder.sequence.grown import GrownVocabulary
from voder.sequence.spans import SpanLayout
from voder.text.subwords import byte_tokenizer


class Vocabulary(GrownVocabulary):
    text_size, size, tokens = 261, 263, ("<a>", "<b>")
    layout, markers = SpanLayout([], 263), {"<a>": 261, "<b>": 262}


def test_new_rows_are_the_mean_of_the_old():
    state = {
        "network.model.embed_tokens.weight": torch.arange(8.0).view(4, 2),
        "network.other.weight": torch.ones(4, 2),
    }
    grown = grown_rows(state, 4, 6)
    assert grown["network.model.embed_tokens.weight"][4:].tolist() == [[3.0, 4.0], [3.0, 4.0]]
    assert grown["network.other.weight"].shape == (4, 2)


def test_lora_that_is_new_begins_as_no_change_and_lora_that_is_there_stays():
    plain = {"network.layer.q_proj.weight": torch.ones(2, 2)}
    inner = "network.base_model.model.layer.q_proj."
    wanted = {
        f"{inner}base_layer.weight": torch.empty(2, 2, device="meta"),
        f"{inner}lora_A.default.weight": torch.empty(1, 2, device="meta"),
        f"{inner}lora_B.default.weight": torch.empty(2, 1, device="meta"),
    }
    begun = grown_state(plain, wanted, 4, 4)
    assert torch.equal(begun[f"{inner}base_layer.weight"], plain["network.layer.q_proj.weight"])
    assert not begun[f"{inner}lora_B.default.weight"].any()
    assert begun[f"{inner}lora_A.default.weight"].any()
    kept = begun | {f"{inner}lora_B.default.weight": torch.ones(2, 1)}
    again = grown_state(kept, wanted, 4, 4)
    assert all(torch.equal(again[name], kept[name]) for name in wanted)
    assert grown_state({}, {"network.lost": torch.ones(1)}, 4, 4) == {}


def test_tokens_at_other_ids_are_named_and_damage_too(tmp_path):
    assert wrong_ids(Vocabulary(), tmp_path) == []
    file = tmp_path / "added_tokens.json"
    file.write_text(json.dumps({"<a>": 262, "<b>": 262, "<c>": 261, "<pad>": 900}))
    assert wrong_ids(Vocabulary(), tmp_path) == ["<a> 262 instead of 261", "<c> 261 instead of nothing"]
    for damage in ("{", "[1]", '{"<a>": "x"}'):
        file.write_text(damage)
        with pytest.raises(CheckpointError, match="added_tokens"):
            wrong_ids(Vocabulary(), tmp_path)


def test_a_row_is_spelled_in_runs_of_text():
    tokenizer = byte_tokenizer()
    ids = [*tokenizer("né", add_special_tokens=False)["input_ids"], 262, 261]
    assert Vocabulary().spell(ids, tokenizer.decode) == "né<b><a>"


def test_a_tokenizer_that_has_a_token_elsewhere_is_refused():
    tokenizer = grown_tokenizer(byte_tokenizer(), 270, ["<a>", "<b>"])
    assert tokenizer.convert_tokens_to_ids(["<a>", "<b>"]) == [270, 271]
    with pytest.raises(CheckpointError, match="<a>"):
        grown_tokenizer(tokenizer, 272, ["<a>"])
