"""Stretches of codes among text, marked by a start and an end id: built, parsed and kept to on ids alone.

Text of a person never becomes a marker, because markers are ids and text is encoded without them. Parsing looks at ids,
so a code's neighbours, blanks and spellings cannot confuse it. `SpanGrammar` says which ids may come next: inside a
stretch only its codes, whole frames, then its end; a stretch is begun only where there is room to complete it.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Bool, Int
from torch import Tensor

from voder.errors import TokensError

FlatCodes = Int[np.ndarray, " code"]
FrameCodes = Int[np.ndarray, "level frame"]


@dataclass(frozen=True, kw_only=True)
class SpanKind:
    """One kind of stretch (speech, image, music) and the ids that are its own."""

    name: str
    first: int
    """Id of its code 0."""
    size: int
    """Codes."""
    start: int
    """Id that begins a stretch."""
    end: int
    """Id that ends one."""
    levels: int = 1
    """Codes of a frame, one behind the other; each level has its own part of the codes."""
    length: int | None = None
    """Codes of every stretch, where all are equally long."""

    def __post_init__(self) -> None:
        if self.size < 1 or self.size % self.levels:
            raise ValueError(f"{self.name} has {self.size} codes, which must be a multiple of its levels {self.levels}")

    @property
    def shortest(self) -> int:
        """Ids of the shortest stretch, markers included."""
        return 2 + (self.length or self.levels)

    @property
    def level_size(self) -> int:
        """Codes of a level."""
        return self.size // self.levels

    def flatten(self, codes: FrameCodes) -> FlatCodes:
        """Codes `[level, frame]` as one row, frame by frame.

        Raises:
            TokensError: other levels, or a code out of range.
        """
        if codes.shape[0] != self.levels:
            raise TokensError(f"{self.name} codes have {codes.shape[0]} levels; {self.levels} are wanted")
        if codes.size and not 0 <= codes.min() <= codes.max() < self.level_size:
            raise TokensError(
                f"{self.name} codes run from {codes.min()} to {codes.max()}; 0 to {self.level_size - 1} are allowed"
            )
        offsets = np.arange(self.levels)[:, None] * self.level_size
        return np.asarray((codes + offsets).T.reshape(-1), np.int64)

    def unflatten(self, flat: Sequence[int]) -> FrameCodes:
        """The codes `[level, frame]` of a row; a last frame that is not whole is left out."""
        whole = len(flat) - len(flat) % self.levels
        row = np.asarray(list(flat[:whole]), np.int64) % self.level_size
        return row.reshape(-1, self.levels).T


@dataclass(frozen=True)
class Segment:
    """A piece of a row: text (no kind), or the codes of a stretch."""

    kind: str | None
    ids: tuple[int, ...]
    """Ids of text, or codes counted from 0."""
    closed: bool = True
    """False where a stretch has no start or no end, or the wrong length."""


Piece = str | int | tuple[str, Sequence[int]]
"""Text, an id, or the kind and the codes of a stretch."""
Exchange = tuple[Sequence[Piece], Sequence[Piece] | None]
"""A question and its answer; the last question of a conversation has none yet."""


def joined(pieces: Iterable[Piece]) -> list[Piece]:
    """Pieces in which texts beside one another are one, as a tokenizer must see them."""
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, str) and found and isinstance(found[-1], str):
            found[-1] += piece
        else:
            found.append(piece)
    return found


class SpanLayout:
    """The kinds of stretches that a vocabulary has."""

    def __init__(self, kinds: Iterable[SpanKind], size: int) -> None:
        """`size` counts all ids. Raises ValueError where ids overlap or lie beyond it."""
        self.kinds: Mapping[str, SpanKind] = {kind.name: kind for kind in kinds}
        self.size = size
        # on the CPU even while a model is laid out without weights: these are looked at
        self._owner = torch.zeros(size, dtype=torch.bool, device="cpu")
        for kind in self.kinds.values():
            codes = (kind.first, kind.first + kind.size)
            for low, high in (codes, (kind.start, kind.start + 1), (kind.end, kind.end + 1)):
                if low < 0 or high > size or bool(self._owner[low:high].any()):
                    raise ValueError(f"ids {low} to {high - 1} of {kind.name} overlap others or lie beyond {size - 1}")
                self._owner[low:high] = True
        self._starts = {kind.start: kind for kind in self.kinds.values()}
        self._ends = {kind.end: kind for kind in self.kinds.values()}

    def __getitem__(self, name: str) -> SpanKind:
        if name not in self.kinds:
            raise TokensError(f"this vocabulary has no {name}; it has {', '.join(self.kinds) or 'text alone'}")
        return self.kinds[name]

    def ids(self, name: str, codes: Sequence[int]) -> list[int]:
        """A stretch: start, codes, end.

        Raises:
            TokensError: a kind that is not there, a code out of range, or another length than the kind's.
        """
        kind = self[name]
        for code in codes:
            if not 0 <= code < kind.size:
                raise TokensError(f"{name} code {code} lies outside 0 to {kind.size - 1}")
        if kind.length is not None and len(codes) != kind.length:
            raise TokensError(f"{name} has {kind.length} codes; {len(codes)} were given")
        return [kind.start, *(kind.first + int(code) for code in codes), kind.end]

    def lay(self, pieces: Iterable[Piece], encode: Callable[[str], list[int]]) -> list[int]:
        """Ids of text, ids and stretches behind one another; `encode` must not know any marker."""
        row: list[int] = []
        for piece in joined(pieces):
            if isinstance(piece, str):
                row += encode(piece) if piece else []
            elif isinstance(piece, tuple):
                row += self.ids(*piece)
            else:
                row.append(piece)
        return row

    def segments(self, ids: Iterable[int]) -> list[Segment]:
        """Take a row apart; what is broken is marked as not closed, and nothing is left out."""
        found: list[Segment] = []
        kind: SpanKind | None = None
        held: list[int] = []

        def close(*, closed: bool) -> None:
            nonlocal kind, held
            if kind is not None or held:
                fits = kind is None or kind.length is None or kind.length == len(held)
                found.append(Segment(kind.name if kind else None, tuple(held), closed and fits))
            kind, held = None, []

        for id_ in map(int, ids):
            if id_ in self._starts:
                close(closed=kind is None)
                kind = self._starts[id_]
            elif kind is not None and id_ == kind.end:
                close(closed=True)
            elif kind is not None and kind.first <= id_ < kind.first + kind.size:
                held.append(id_ - kind.first)
            elif kind is None and not self.is_owned(id_):
                held.append(id_)
            else:  # text inside a stretch, or a code or an end outside of one
                close(closed=kind is None)
                stray = self._stray(id_)
                if stray is None:
                    held.append(id_)
                else:
                    found.append(stray)
        close(closed=kind is None)
        return found

    def is_owned(self, id_: int) -> bool:
        """Whether an id is a code or a marker."""
        return 0 <= id_ < self.size and bool(self._owner[id_])

    def _stray(self, id_: int) -> Segment | None:
        if id_ in self._ends:
            return Segment(self._ends[id_].name, (), closed=False)
        for kind in self.kinds.values():
            if kind.first <= id_ < kind.first + kind.size:
                return Segment(kind.name, (id_ - kind.first,), closed=False)
        return None


@dataclass
class SpanState:
    """Where a row stands."""

    room: int
    """Ids that may still be said."""
    kind: SpanKind | None = None
    """The stretch that is open."""
    count: int = 0
    """Codes said in it."""
    done: tuple[str, ...] = ()
    """Kinds of the stretches that are complete."""


class SpanGrammar:
    """Which ids may come next."""

    def __init__(
        self,
        layout: SpanLayout,
        *,
        text: bool = True,
        kinds: Sequence[str] = (),
        forbidden: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        required: str | None = None,
    ) -> None:
        """Allow text or none, and stretches of these kinds.

        Args:
            forbidden: ids that are never said (padding, begin, rows without a token).
            end_ids: ids that end an answer; allowed outside stretches even where text is not.
            required: a kind of stretch that must be there before the end, and comes while there is room for it.
        """
        self.layout, self.required = layout, None if required is None else layout[required]
        self.kinds = tuple(layout[name] for name in kinds)
        self._text = ~layout._owner if text else torch.zeros(layout.size, dtype=torch.bool)
        self._text[list(forbidden)] = False
        self._ends = torch.zeros(layout.size, dtype=torch.bool)
        self._ends[list(end_ids)] = True

    def allowed(self, state: SpanState) -> Bool[Tensor, " vocabulary"]:
        """True at what may come next."""
        kind = state.kind
        if kind is None:
            return self._outside(state)
        mask = torch.zeros_like(self._text)
        level, left = state.count % kind.levels, state.room - 1
        if self._waits(state) and self.required is not kind:
            left -= self.required.shortest if self.required else 0
        ends = level == 0 and state.count > 0
        if kind.length is not None:
            ends, goes_on = state.count == kind.length, state.count < kind.length
        else:
            goes_on = level > 0 or left >= kind.levels
        mask[kind.end] = ends
        if goes_on:
            first = kind.first + level * kind.level_size
            mask[first : first + kind.level_size] = True
        return mask

    def _outside(self, state: SpanState) -> Bool[Tensor, " vocabulary"]:
        waits = self._waits(state)
        if waits and self.required is not None and state.room <= self.required.shortest:
            last = torch.zeros_like(self._text)
            last[self.required.start] = True
            return last
        mask = self._text & ~self._ends if waits else self._text | self._ends
        for each in self.kinds:
            left = state.room - each.shortest
            if waits and self.required is not None and each is not self.required:
                left -= self.required.shortest
            mask[each.start] = left >= 0
        return mask

    def _waits(self, state: SpanState) -> bool:
        return self.required is not None and self.required.name not in state.done

    def advance(self, state: SpanState, id_: int) -> None:
        """Note what was said."""
        state.room -= 1
        if state.kind is None:
            state.kind = self.layout._starts.get(id_)
            state.count = 0
        elif id_ == state.kind.end:
            state.done = (*state.done, state.kind.name)
            state.kind = None
        else:
            state.count += 1
