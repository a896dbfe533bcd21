"""Named ranges of ids: one place that says which id means what."""

import itertools
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import torch
from torch import Tensor

Ids = TypeVar("Ids", int, np.ndarray, Tensor)


@dataclass(frozen=True)
class IdRange:
    """Ids `start` to `start + size - 1` under one name."""

    name: str
    start: int
    size: int

    @property
    def end(self) -> int:
        """The first id behind the range."""
        return self.start + self.size


class Vocabulary:
    """Ranges of ids that do not overlap.

    Raises:
        ValueError: two ranges overlap or share a name, or a range starts below zero or has a negative size.
    """

    def __init__(self, ranges: Iterable[IdRange]) -> None:
        self.ranges = tuple(sorted(ranges, key=lambda r: (r.start, r.end)))
        self._by_name = {r.name: r for r in self.ranges}
        if len(self._by_name) != len(self.ranges):
            raise ValueError(f"range names must differ: {[r.name for r in self.ranges]}")
        for r in self.ranges:
            if r.start < 0 or r.size < 0:
                raise ValueError(f"range {r.name!r} starts at {r.start} with size {r.size}; both must be at least 0")
        filled = [r for r in self.ranges if r.size]
        for before, after in itertools.pairwise(filled):
            if after.start < before.end:
                raise ValueError(
                    f"range {after.name!r} starts at {after.start}, inside {before.name!r} "
                    f"({before.start} to {before.end - 1})"
                )

    @classmethod
    def stacked(cls, **sizes: int) -> "Vocabulary":
        """Ranges one behind the other, in the order given."""
        ranges, start = [], 0
        for name, size in sizes.items():
            ranges.append(IdRange(name, start, size))
            start += size
        return cls(ranges)

    @property
    def size(self) -> int:
        """Rows that an embedding of these ids needs."""
        return max((r.end for r in self.ranges), default=0)

    def __getitem__(self, name: str) -> IdRange:
        if name not in self._by_name:
            raise ValueError(f"no range {name!r}; ranges are {', '.join(self._by_name)}")
        return self._by_name[name]

    def ids(self, name: str, local: Ids) -> Ids:
        """Turn numbers within a range (an int, an array or a tensor) into ids."""
        named = self[name]
        outside = (local < 0) | (local >= named.size)
        if outside if isinstance(outside, bool) else bool(outside.any()):
            raise ValueError(f"{name!r} holds {named.size} ids; numbers must lie in 0 to {named.size - 1}: {local}")
        return local + named.start

    def locate(self, id_: int) -> tuple[str, int]:
        """The range of an id, and its number within."""
        for r in self.ranges:
            if r.start <= id_ < r.end:
                return r.name, id_ - r.start
        raise ValueError(f"id {id_} lies in no range of {[(r.name, r.start, r.end - 1) for r in self.ranges]}")

    def members(self, *names: str) -> Tensor:
        """Bool `[size]`: True at the ids of the named ranges (what a decoder may be allowed to say)."""
        mask = torch.zeros(self.size, dtype=torch.bool)
        for name in names:
            mask[self[name].start : self[name].end] = True
        return mask
