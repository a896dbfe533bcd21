"""Pieces of ids laid behind one another into rows, and rows padded into a batch.

A piece brings its own positions, so two pieces can share a time line (text and its audio both start at 0) while
another pair lives far away on it (a prompt and its transcript). What a reader of a piece should predict next,
and whether that carries loss, is known here from the layout, never from comparing ids.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voder.shapes import Mask, Tokens


@dataclass(frozen=True)
class Piece:
    """Ids of one row that belong together."""

    ids: np.ndarray
    """Int `[position]`."""
    start: float = 0.0
    """Position of the first id on the time line."""
    stride: float = 1.0
    """Distance between neighbouring ids."""
    segment: int = 0
    """A number that the model may embed (prompt or target)."""
    targets: np.ndarray | None = None
    """What is predicted at each id; None predicts nothing."""

    @classmethod
    def reading(
        cls, codes: np.ndarray, *, begin: int, end: int, start: float = 0.0, segment: int = 0, loss: bool = True
    ) -> "Piece":
        """A decoder's view of `codes`: reads `[begin, codes...]`, predicts `[codes..., end]`.

        The end token carries loss like any other; with `loss=False` nothing does.
        """
        ids = np.concatenate(([begin], codes))
        return cls(ids, start, 1.0, segment, np.concatenate((codes, [end])) if loss else None)


@dataclass(frozen=True)
class Stream:
    """Rows of pieces, padded on the right."""

    ids: Tokens
    positions: Float[Tensor, "batch position"]
    segments: Tokens
    valid: Mask
    """False on padding."""
    targets: Tokens
    """What is predicted at each position."""
    loss: Mask
    """True where the prediction carries loss: never on padding, whatever its id."""

    def to(self, device: torch.device) -> "Stream":
        """Move every tensor."""
        return replace(self, **{name: value.to(device, non_blocking=True) for name, value in vars(self).items()})

    def head(self, num_rows: int) -> "Stream":
        """The first rows, without the columns that only later rows needed (in steps of 8)."""
        longest = int(self.valid[:num_rows].sum(dim=1).max())
        width = min(self.ids.shape[1], -(-longest // 8) * 8)
        return replace(self, **{name: value[:num_rows, :width] for name, value in vars(self).items()})


def _row(pieces: Sequence[Piece]) -> list[np.ndarray]:
    """Fields of one row: ids, positions, segments, targets, loss."""
    blank = [np.zeros(p.ids.size, np.int64) for p in pieces]
    return [
        np.concatenate([p.ids for p in pieces]),
        np.concatenate([p.start + p.stride * np.arange(p.ids.size) for p in pieces]),
        np.concatenate([np.full(p.ids.size, p.segment) for p in pieces]),
        np.concatenate([b if p.targets is None else p.targets for p, b in zip(pieces, blank, strict=True)]),
        np.concatenate([np.full(p.ids.size, p.targets is not None) for p in pieces]),
    ]


def assemble(rows: Sequence[Sequence[Piece]], *, multiple: int = 1) -> Stream:
    """Lay out each row's pieces and pad to the longest row, rounded up to a multiple (few shapes, warm memory)."""
    laid = [_row(pieces) for pieces in rows]
    lengths = np.array([fields[0].size for fields in laid])
    width = -(-int(lengths.max()) // multiple) * multiple
    kinds = (np.int64, np.float32, np.int64, np.int64, np.bool_)
    padded = [np.zeros((len(rows), width), kind) for kind in kinds]
    for number, fields in enumerate(laid):
        for array, values in zip(padded, fields, strict=True):
            array[number, : values.size] = values
    valid = np.arange(width) < lengths[:, None]
    ids, positions, segments, targets, loss = (torch.from_numpy(array) for array in padded)
    return Stream(ids, positions, segments, torch.from_numpy(valid), targets, loss)
