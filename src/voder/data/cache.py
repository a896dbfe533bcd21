"""Decoded recordings kept in memory, up to a bound: small corpora are decoded once, large ones again and again."""

from collections.abc import Callable, Hashable
from typing import Generic, TypeVar

import numpy as np

from voder.data.manifest import Manifest

T = TypeVar("T")


class Kept(Generic[T]):
    """What is costly to make: what is made first stays, up to `max_bytes`; the rest is made again and again."""

    def __init__(self, max_bytes: int, size: Callable[[T], int]) -> None:
        """`size` says how many bytes something takes."""
        self.max_bytes, self.num_bytes = max_bytes, 0
        self.size = size
        self._found: dict[Hashable, T] = {}

    def __contains__(self, key: Hashable) -> bool:
        return key in self._found

    def get(self, key: Hashable, make: Callable[[], T]) -> T:
        """What is kept under a key, or made now."""
        if key in self._found:
            return self._found[key]
        made = make()
        size = self.size(made)
        if self.num_bytes + size <= self.max_bytes:
            self._found[key] = made
            self.num_bytes += size
        return made


class AudioCache:
    """Mono samples of a manifest's recordings at one rate; the first ones read stay, up to `max_bytes`."""

    def __init__(
        self,
        manifest: Manifest,
        *,
        sample_rate_hz: int,
        max_bytes: int,
        prepare: Callable[[np.ndarray], np.ndarray] = lambda samples: samples,
    ) -> None:
        """`prepare` is applied once to every recording's samples `[sample]`."""
        self.manifest = manifest
        self.sample_rate_hz = sample_rate_hz
        self.prepare = prepare
        self._kept = Kept[np.ndarray](max_bytes, lambda samples: samples.nbytes)

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples `[sample]` float32 of one recording.

        Raises:
            AudioError: it cannot be read.
        """
        return self._kept.get(index, lambda: self._read(index))

    def _read(self, index: int) -> np.ndarray:
        clip = self.manifest[index].read(sample_rate_hz=self.sample_rate_hz, channels=1)
        return np.ascontiguousarray(self.prepare(clip.samples[0]), dtype=np.float32)
