"""A language model whose vocabulary has grown by codes and markers: the network, and what its growing does to weights.

New rows are the mean of the old ones, and a LoRA (2106.09685) begins as no change, so that a model that has grown says
what it said before.
"""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.errors import CheckpointError
from voder.nn.causal_lm import CausalLmConfig, build_causal_lm, save_plain
from voder.nn.lora import LoraSizes, merge_lora, with_lora
from voder.sequence.grown import GrownVocabulary
from voder.shapes import Mask, Tokens

TABLES = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
"""Ends of the names of weights with one row per id."""
NETWORK = "network."
"""What the names of the language model's weights begin with."""
_ADAPTED, _BESIDE = "network.base_model.model.", ".base_layer."


class GrownLm(nn.Module):
    """Ids to logits; the network is transformers' own, with peft's LoRA beside its weights where there is one."""

    config: Any
    """Its `network` says how the language model is built: with all ids."""
    vocabulary: GrownVocabulary
    holds_trained: Tensor
    """Whether a trained language model's weights were put in."""

    def __init__(self, network: CausalLmConfig, lora: LoraSizes | None = None, targets: Sequence[str] = ()) -> None:
        super().__init__()
        built = build_causal_lm(network)
        self.network = built if lora is None else with_lora(built, lora, targets)
        self.register_buffer("holds_trained", torch.zeros((), dtype=torch.bool))

    def forward(self, ids: Tokens, valid: Mask) -> Float[Tensor, "batch position vocabulary"]:
        """Logits of the id behind every position; rows are padded on the right."""
        logits: Tensor = self.network(input_ids=ids, attention_mask=valid.long()).logits
        return logits


def trained_state(network: nn.Module) -> dict[str, Tensor]:
    """Weights of a trained language model as a `GrownLm` names them."""
    state = {NETWORK + name: value for name, value in network.state_dict().items()}
    return state | {"holds_trained": torch.ones((), dtype=torch.bool)}


def grown_rows(state: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Give tables of `old` ids rows up to `new`: the mean of those that are there."""
    grown = dict(state)
    for name, value in state.items():
        if new > old and name.endswith(TABLES) and value.shape[0] == old:
            grown[name] = torch.cat((value, value.mean(dim=0, keepdim=True).expand(new - old, -1)))
    return grown


def grown_state(state: Mapping[str, Tensor], wanted: Mapping[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Weights for a network that wants names and shapes of `wanted`, from those of one with `old` ids.

    Tables grow to `new` ids; where LoRA is wanted and not there, it begins as no change. What cannot be found is left
    out, for `checkpoint.load_into` to name.
    """
    plain = grown_rows({_plain(name): value for name, value in state.items()}, old, new)
    found = {}
    for name, value in wanted.items():
        if ".lora_" in name and name not in state:
            found[name] = torch.zeros(value.shape)
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(found[name], a=math.sqrt(5))
        elif _plain(name) in plain:
            found[name] = plain[_plain(name)]
    return found


def _plain(name: str) -> str:
    """The name of a weight without peft's spelling."""
    return name.replace(_ADAPTED, NETWORK).replace(_BESIDE, ".")


def wrong_ids(vocabulary: GrownVocabulary, folder: Path) -> list[str]:
    """Tokens that a published folder's `added_tokens.json`, if it has one, puts elsewhere than our vocabulary does.

    Raises:
        CheckpointError: that file is damaged.
    """
    file = folder / "added_tokens.json"
    try:
        said = json.loads(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{file} is not readable ({error}); copy it again") from error
    if not isinstance(said, dict) or not all(isinstance(id_, int) for id_ in said.values()):
        raise CheckpointError(f"{file} must name an id for each token")
    ours = vocabulary.named()
    return [
        f"{token} {id_} instead of {ours.get(token, 'nothing')}"
        for token, id_ in said.items()
        if ours.get(token) != id_ and (token in ours or vocabulary.text_size <= id_ < vocabulary.size)
    ]


def save_grown(model: GrownLm, tokenizer: Any, folder: Path) -> None:
    """Write a plain Hugging Face folder, codes and markers in its tokenizer; LoRA is merged.

    Raises:
        CheckpointError: the tokenizer already has one of the added tokens elsewhere.
    """
    vocabulary = model.vocabulary
    grown = grown_tokenizer(tokenizer, vocabulary.text_size, vocabulary.tokens)
    has_lora = any(".lora_" in name for name, _ in model.named_parameters())
    save_plain(merge_lora(model.network) if has_lora else model.network, grown, folder)


def grown_tokenizer(tokenizer: Any, text_size: int, tokens: Sequence[str]) -> Any:
    """A text tokenizer with `tokens` at the ids from `text_size` on; rows without a token get names of their own.

    Raises:
        CheckpointError: it already has one of them elsewhere.
    """
    from tokenizers import AddedToken

    filler = [f"<unused_{number}>" for number in range(len(tokenizer), text_size)]
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in (*filler, *tokens)])
    found = tokenizer.convert_tokens_to_ids(list(tokens))
    wrong = [token for number, token in enumerate(tokens) if found[number] != text_size + number]
    if wrong:
        raise CheckpointError(f"the text tokenizer already has {', '.join(wrong[:5])} at other ids")
    return tokenizer
