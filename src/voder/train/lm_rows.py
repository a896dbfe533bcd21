"""Rows of ids for language models whose vocabulary has grown: batches, the loss, and the weights that grow along.

What carries loss is said by labels, never by comparing ids: an end that shares its id with padding still counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from voder import checkpoint
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch
from voder.nn.causal_lm import build_causal_lm, expand_vocabulary
from voder.sequence.masks import length_mask
from voder.shapes import Lengths, Tokens
from voder.text.subwords import byte_tokenizer
from voder.train.base_lm import BYTES, BaseLm
from voder.train.task import Loss, TensorBatch

IGNORED = -100
"""The label of what carries no loss."""
TABLES = ("embed_tokens.weight", "lm_head.weight", "wte.weight")
"""Ends of the names of weights with one row per id."""
_NETWORK = "network."


@dataclass(frozen=True, kw_only=True)
class Row:
    """Ids, and for each its label: itself where it carries loss."""

    ids: list[int]
    labels: list[int]

    @classmethod
    def behind(cls, ids: Sequence[int], masked: int) -> "Row":
        """A row whose first ids carry no loss."""
        masked = min(masked, len(ids))
        return cls(ids=list(ids), labels=[IGNORED] * masked + list(ids[masked:]))

    def cut(self, most: int) -> "Row":
        """At most so many ids."""
        return self if len(self.ids) <= most else Row(ids=self.ids[:most], labels=self.labels[:most])


@dataclass
class RowBatch(TensorBatch):
    """Rows padded on the right."""

    ids: Tokens
    labels: Int[Tensor, "batch position"]
    lengths: Lengths

    @classmethod
    def of(cls, rows: Sequence[Row]) -> "RowBatch":
        """Pad rows to the longest."""
        longest = max(len(row.ids) for row in rows)
        ids = torch.zeros(len(rows), longest, dtype=torch.int64)
        labels = torch.full_like(ids, IGNORED)
        for number, row in enumerate(rows):
            ids[number, : len(row.ids)] = torch.tensor(row.ids)
            labels[number, : len(row.ids)] = torch.tensor(row.labels)
        return cls(ids=ids, labels=labels, lengths=torch.tensor([len(row.ids) for row in rows]))

    def row(self, number: int) -> Row:
        """One row without its padding."""
        length = int(self.lengths[number])
        return Row(ids=self.ids[number, :length].tolist(), labels=self.labels[number, :length].tolist())


def next_id_loss(model: nn.Module, batch: RowBatch) -> Loss:
    """Cross-entropy of every labelled id behind the first of its row; `model(ids, valid)` gives logits."""
    logits = model(batch.ids, length_mask(batch.lengths, batch.ids.shape[1]))
    wanted = batch.labels[:, 1:]
    counts = wanted != IGNORED
    with torch.autocast(logits.device.type, enabled=False):
        summed = F.cross_entropy(logits[:, :-1][counts].float(), wanted[counts], reduction="sum")
    # a row may be cut before anything carries loss
    return Loss(value=summed / counts.sum().clamp(min=1), weight=float(counts.sum()))


def blocks(rows: Iterable[Sequence[int]], size: int) -> list[list[int]]:
    """Rows behind one another, cut into blocks; what does not fill the last one is dropped."""
    stream = [id_ for row in rows for id_ in row]
    return [stream[start : start + size] for start in range(0, len(stream) - size + 1, size)]


def pack(rows: Iterable[Row], size: int) -> list[Row]:
    """Whole rows behind one another as long as they fit; a row that is longer than a pack is one alone, uncut."""
    packs: list[Row] = []
    ids: list[int] = []
    labels: list[int] = []
    for row in rows:
        if ids and len(ids) + len(row.ids) > size:
            packs.append(Row(ids=ids, labels=labels))
            ids, labels = [], []
        ids, labels = ids + row.ids, labels + row.labels
    return [*packs, Row(ids=ids, labels=labels)] if ids else packs


def grown_rows(state: dict[str, Tensor], old: int, new: int) -> dict[str, Tensor]:
    """Give tables of `old` ids rows up to `new`: the mean of those that are there."""
    grown = dict(state)
    for name, value in state.items():
        if new > old and name.endswith(TABLES) and value.shape[0] == old:
            grown[name] = torch.cat((value, value.mean(dim=0, keepdim=True).expand(new - old, -1)))
    return grown


def text_tokenizer(base: BaseLm | None, name: str) -> Any:
    """The tokenizer called `name` that training reads texts with: the base language model's, or bytes.

    Raises:
        ConfigError: the model was fitted on another language model's tokenizer, which is not at hand.
        FittedPartMismatch: the base language model has another one.
    """
    if base is None and name == BYTES:
        return byte_tokenizer()
    if base is None:
        raise ConfigError(f"the checkpoint reads text with tokenizer {name}: name its language model with task.lm")
    if base.tokenizer_name != name:
        raise FittedPartMismatch(f"task.lm reads text with tokenizer {base.tokenizer_name}, the checkpoint with {name}")
    return base.tokenizer


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


def base_state(base: BaseLm, size: int) -> dict[str, Tensor]:
    """Weights of a base language model whose vocabulary has grown to `size`, by names that begin with `network.`."""
    plain: Any = build_causal_lm(base.config)
    state = checkpoint.load_state(base.folder)
    checkpoint.load_into(plain, {name.removeprefix(_NETWORK): value for name, value in state.items()}, base.folder)
    expand_vocabulary(plain, size)
    return {_NETWORK + name: value for name, value in plain.state_dict().items()}
