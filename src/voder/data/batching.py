"""Batches of like lengths, as a pure function of the step.

Items are sorted into buckets of like length; each epoch permutes the items of every bucket and the order of the
batches with generators derived from (seed, epoch). Nothing is drawn from an iterator, so resuming is asking for another
step, and the items of a step do not depend on the number of workers: they share one global batch.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
from jaxtyping import Int64

from voder.data.randomness import generator
from voder.errors import ConfigError, InputError

Indices = Int64[np.ndarray, " item"]
Item = TypeVar("Item")

_WIDTH = 1.25
"""A bucket closes when the next item is longer than this times its first …"""
_FULL_BATCHES = 4
"""… unless it holds fewer batches than this: small corpora get few buckets, hence full batches."""


@dataclass(frozen=True)
class _Bucket:
    items: Indices
    num_batches: int


class BucketedBatches:
    """Which items make the global batch of a step.

    `max_total` bounds items times the longest item of a batch (what padding makes of it), `max_batch` bounds the items.
    Batches of an epoch hold every item exactly once. Raises InputError when there are no items and ConfigError when an
    item alone exceeds `max_total`.
    """

    def __init__(
        self, lengths: np.ndarray, *, max_total: float, max_batch: int, seed: int, shuffle: bool = True
    ) -> None:
        lengths = np.asarray(lengths)
        if lengths.ndim != 1 or len(lengths) == 0:
            raise InputError("there is nothing to train on: the list of recordings is empty")
        if max_batch < 1:
            raise ConfigError(f"max_batch must be at least 1, but is {max_batch}")
        longest = int(np.argmax(lengths))
        if not lengths[longest] <= max_total:
            raise ConfigError(
                f"item {longest} is {lengths[longest]:g} long, more than a whole batch may be "
                f"(max_total={max_total:g}): raise max_total or leave out long items"
            )
        self.seed, self.shuffle = seed, shuffle
        self._buckets = _make_buckets(lengths, max_total, max_batch)
        self.batches_per_epoch = sum(bucket.num_batches for bucket in self._buckets)
        self._plan: tuple[int, list[Indices]] | None = None

    def indices(self, step: int, *, rank: int = 0, world: int = 1) -> Indices:
        """Return the items of worker `rank` of `world` at `step`: every world-th item of the global batch.

        Raises ConfigError when the batch has fewer items than there are workers.
        """
        if step < 0 or not 0 <= rank < world:
            raise ValueError(f"step, rank and world must satisfy 0 <= step, 0 <= rank < world: {step}, {rank}, {world}")
        epoch, position = divmod(step, self.batches_per_epoch)
        batch = self._epoch(epoch)[position]
        if len(batch) < world:
            raise ConfigError(
                f"the batch of step {step} has {len(batch)} items for {world} workers: raise max_total or max_batch"
            )
        return batch[rank::world]

    def _epoch(self, epoch: int) -> list[Indices]:
        plan = self._plan
        if plan is None or plan[0] != epoch:  # a cache only: the plan of an epoch is always the same
            plan = (epoch, self._make_epoch(epoch))
            self._plan = plan
        return plan[1]

    def _make_epoch(self, epoch: int) -> list[Indices]:
        batches: list[Indices] = []
        for number, bucket in enumerate(self._buckets):
            items = bucket.items
            if self.shuffle:
                items = generator(self.seed, "bucket", epoch, number).permutation(items)
            batches.extend(np.array_split(items, bucket.num_batches))
        if not self.shuffle:
            return batches
        order = generator(self.seed, "batches", epoch).permutation(len(batches))
        return [batches[index] for index in order]


def spread(items: Sequence[Item], most: int) -> list[Item]:
    """At most so many of the items, evenly spread from the first on: what an evaluation judges."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]


def _make_buckets(lengths: np.ndarray, max_total: float, max_batch: int) -> list[_Bucket]:
    order = np.argsort(lengths, kind="stable").astype(np.int64)
    ordered = lengths[order]
    buckets: list[_Bucket] = []
    start = 0
    while start < len(order):
        stop = int(np.searchsorted(ordered, ordered[start] * _WIDTH, side="right"))
        stop = _extend(ordered, start, stop, max_total, max_batch)
        size = _batch_size(float(ordered[stop - 1]), max_total, max_batch)
        buckets.append(_Bucket(order[start:stop], -(-(stop - start) // size)))
        start = stop
    return buckets


def _extend(ordered: np.ndarray, start: int, stop: int, max_total: float, max_batch: int) -> int:
    """Move a bucket's end up until it fills a few batches, and take a short rest of the corpus along."""
    while stop < len(ordered):
        wanted = _FULL_BATCHES * _batch_size(float(ordered[stop - 1]), max_total, max_batch)
        if stop - start >= wanted and len(ordered) - stop >= _FULL_BATCHES:
            break
        stop = max(stop + 1, min(start + wanted, len(ordered)))
    return min(stop, len(ordered))


def _batch_size(longest: float, max_total: float, max_batch: int) -> int:
    return max(1, min(max_batch, int(max_total // max(longest, 1e-9))))
