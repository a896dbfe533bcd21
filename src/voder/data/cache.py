"""Decoded recordings kept in memory, up to a bound: small corpora are decoded once, large ones again and again."""

from collections.abc import Callable

import numpy as np

from voder.data.manifest import Manifest


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
        self.max_bytes = max_bytes
        self.prepare = prepare
        self.num_bytes = 0
        self._kept: dict[int, np.ndarray] = {}

    def __len__(self) -> int:
        return len(self.manifest)

    def __getitem__(self, index: int) -> np.ndarray:
        """Samples `[sample]` float32 of one recording.

        Raises:
            AudioError: it cannot be read.
        """
        kept = self._kept.get(index)
        if kept is not None:
            return kept
        clip = self.manifest[index].read(sample_rate_hz=self.sample_rate_hz, channels=1)
        samples = np.ascontiguousarray(self.prepare(clip.samples[0]), dtype=np.float32)
        if self.num_bytes + samples.nbytes <= self.max_bytes:
            self._kept[index] = samples
            self.num_bytes += samples.nbytes
        return samples
