"""Rows of ids for language models: batches, blocks, packs, and the loss of the next id.

What carries loss is said by labels, never by comparing ids: an end that shares its id with padding still counts.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from voder.sequence.masks import length_mask
from voder.shapes import Lengths, Tokens
from voder.train.task import Loss, TensorBatch

IGNORED = -100
"""The label of what carries no loss."""


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
