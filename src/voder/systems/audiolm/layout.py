"""How units and codes become the sequences of the three stages (2209.03143, section 3): the one place that training
and continuing share.

    semantic   [begin] units …                                                     [end]
    coarse     units … [begin] frame after frame, the first codebooks of each      [end]
    fine       the first codebooks of a chunk, frame after frame, then the others

Units that repeat are merged in the first two. Codes of codebook k are moved by k codebook sizes, so that each codebook
has ids of its own; in the coarse stage they lie behind the units. Marks lie behind all of these and equal none. A chunk
of the fine stage has a known length and needs no marks.
"""

from collections.abc import Iterator

import numpy as np
import torch

from voder.errors import TokensError
from voder.roles import Units
from voder.sequence.assemble import Piece
from voder.sequence.patterns import flatten, unflatten
from voder.sequence.vocab import Vocabulary
from voder.systems.audiolm.config import AudioLmConfig


def merged(units: np.ndarray) -> np.ndarray:
    """Units `[position]` without repeats."""
    return Units(units=units, durations=np.ones_like(units)).deduplicated().units


class Layout:
    """Lays out the stages of one configuration."""

    def __init__(self, config: AudioLmConfig) -> None:
        self.config = config
        size, num_coarse = config.codebook_size, config.num_coarse
        # what can be said comes first: the output layers end there
        self.semantic_ids = Vocabulary.stacked(unit=config.num_units, end=1, begin=1)
        self.coarse_ids = Vocabulary.stacked(unit=config.num_units, code=num_coarse * size, end=1, begin=1)
        self.fine_ids = Vocabulary.stacked(coarse=num_coarse * size, fine=config.num_fine * size)

    def semantic(self, units: np.ndarray, *, ended: bool) -> list[Piece]:
        """Stage 1 of merged units; `ended` when nothing follows them, so that the end is learned."""
        marks = self.semantic_ids
        end = marks["end"].start if ended else None
        return [_reading(self._ids(marks, "unit", units), marks["begin"].start, end, start=0)]

    def semantic_prompt(self, units: np.ndarray) -> list[Piece]:
        """Stage 1 before it goes on; without units it begins."""
        ids = self._ids(self.semantic_ids, "unit", units)
        return [Piece(np.concatenate(([self.semantic_ids["begin"].start], ids)))]

    def coarse(self, units: np.ndarray, codes: np.ndarray, *, ended: bool) -> list[Piece]:
        """Stage 2 of merged units and codes `[codebook, frame]`, of which the first codebooks are read."""
        end = self.coarse_ids["end"].start if ended else None
        heard, said = self._coarse(units, codes)
        return [Piece(heard), _reading(said, self.coarse_ids["begin"].start, end, start=len(heard))]

    def coarse_prompt(self, units: np.ndarray, codes: np.ndarray) -> list[Piece]:
        """Stage 2 before it goes on: all units, and codes of the frames that are known."""
        heard, said = self._coarse(units, codes)
        begin = self.coarse_ids["begin"].start
        return [Piece(np.concatenate((heard, [begin], said)))]

    def _coarse(self, units: np.ndarray, codes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids = self.coarse_ids
        return self._ids(ids, "unit", units), self._ids(ids, "code", self.flat(codes[: self.config.num_coarse]))

    def fine(self, codes: np.ndarray) -> list[Piece]:
        """Stage 3 of one chunk `[codebook, frame]`: reads the first codebooks of all frames, predicts the others."""
        known, wanted = self._fine(*np.split(codes, [self.config.num_coarse]))
        said = Piece(np.concatenate((known[-1:], wanted[:-1])), len(known) - 1, targets=wanted)
        return [Piece(known[:-1]), said]

    def fine_prompt(self, codes: np.ndarray, num_known: int) -> list[Piece]:
        """Stage 3 before it goes on: first codebooks of a chunk, the others of its first `num_known` frames."""
        coarse, others = np.split(codes, [self.config.num_coarse])
        return [Piece(np.concatenate(self._fine(coarse, others[:, :num_known])))]

    def _fine(self, coarse: np.ndarray, others: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        ids = self.fine_ids
        return self._ids(ids, "coarse", self.flat(coarse)), self._ids(ids, "fine", self.flat(others))

    def chunks(self, codes: np.ndarray) -> Iterator[np.ndarray]:
        """Stretches of codes `[codebook, frame]`, one beside the other; the last may be short."""
        for start in range(0, codes.shape[1], self.config.fine_frames):
            yield codes[:, start : start + self.config.fine_frames]

    def flat(self, codes: np.ndarray) -> np.ndarray:
        """Codes `[codebook, frame]` frame after frame, each codebook in its own range."""
        outside = (codes < 0) | (codes >= self.config.codebook_size)
        if outside.any():
            raise TokensError(
                f"codes reach {codes.min()} to {codes.max()}, but this model knows 0 to "
                f"{self.config.codebook_size - 1}: they are of another codec"
            )
        return flatten(torch.from_numpy(np.ascontiguousarray(codes)), self.config.codebook_size).numpy()

    def unflat(self, ids: np.ndarray, num_codebooks: int) -> np.ndarray:
        """Undo `flat`."""
        return unflatten(torch.from_numpy(np.asarray(ids, np.int64)), num_codebooks, self.config.codebook_size).numpy()

    def _ids(self, ids: Vocabulary, name: str, local: np.ndarray) -> np.ndarray:
        """Ids of one range.

        Raises:
            TokensError: a number outside of it, so of another tokenizer.
        """
        try:
            return ids.ids(name, local.astype(np.int64))
        except ValueError as error:
            raise TokensError(
                f"{name}s reach {local.min()} to {local.max()}, but this model knows 0 to {ids[name].size - 1}: "
                "they are of another tokenizer"
            ) from error


def _reading(ids: np.ndarray, begin: int, end: int | None, *, start: int) -> Piece:
    """Read `[begin, ids...]`, predict `[ids..., end]`, or without an end the ids alone."""
    if end is not None:
        return Piece.reading(ids, begin=begin, end=end, start=start)
    return Piece(np.concatenate(([begin], ids[:-1])), start, targets=ids)
