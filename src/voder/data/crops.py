"""Random crops of recordings, mono or not, long or short: what codecs train on.

A crop starts anywhere in a recording drawn in proportion to its length, and runs on through further
recordings where that one ends, a short silence between. So no crop is padding, and none is always the start
of a file.
"""

import numpy as np
from jaxtyping import Float32

from voder.audio.io import read_audio
from voder.data.manifest import Manifest
from voder.errors import ManifestError

_WHOLE_S = 60.0  # longer recordings are read in stretches, not kept
_GAP_S = (0.01, 0.15)


class RandomCrops:
    """Crops of `num_samples` at one rate and channel count."""

    def __init__(
        self, manifest: Manifest, *, sample_rate_hz: int, channels: int, num_samples: int, max_bytes: int
    ) -> None:
        """Short recordings stay decoded in memory, up to `max_bytes`.

        Raises:
            ManifestError: the manifest is empty.
        """
        if not len(manifest):
            raise ManifestError(f"{manifest.path} lists no recordings; there is nothing to train on")
        self.manifest, self.sample_rate_hz = manifest, sample_rate_hz
        self.channels, self.num_samples, self.max_bytes = channels, num_samples, max_bytes
        self._ends = np.cumsum(manifest.durations_s / manifest.durations_s.sum())
        self._kept: dict[int, np.ndarray] = {}
        self._num_bytes = 0

    def crop(self, rng: np.random.Generator) -> Float32[np.ndarray, "channel sample"]:
        """Draw one crop.

        Raises:
            AudioError: a recording cannot be read.
        """
        pieces: list[np.ndarray] = []
        have = 0
        while have < self.num_samples:
            missing = self.num_samples - have
            if pieces:
                gap = int(rng.uniform(*_GAP_S) * self.sample_rate_hz)
                pieces.append(np.zeros((self.channels, min(gap, missing)), np.float32))
                missing -= pieces[-1].shape[1]
            index = min(int(np.searchsorted(self._ends, rng.random())), len(self._ends) - 1)
            pieces.append(self._stretch(index, float(rng.random()), missing))
            have = sum(piece.shape[1] for piece in pieces)
        return np.concatenate(pieces, axis=1)

    def _stretch(self, index: int, where: float, wanted: int) -> np.ndarray:
        """At most `wanted` samples of a recording, from a start drawn uniformly over it."""
        if self.manifest.durations_s[index] > _WHOLE_S:
            return self._read_stretch(index, where, wanted)
        samples = self._whole(index)
        start = int(where * max(1, samples.shape[1]))
        return samples[:, start : start + wanted]

    def _whole(self, index: int) -> np.ndarray:
        kept = self._kept.get(index)
        if kept is None:
            clip = self.manifest[index].read(channels=self.channels, sample_rate_hz=self.sample_rate_hz)
            kept = clip.samples
            if self._num_bytes + kept.nbytes <= self.max_bytes:
                self._kept[index] = kept
                self._num_bytes += kept.nbytes
        return kept

    def _read_stretch(self, index: int, where: float, wanted: int) -> np.ndarray:
        utterance = self.manifest[index]
        own = -(-wanted * utterance.sample_rate_hz // self.sample_rate_hz)
        start = int(where * utterance.num_samples)
        count = min(own, utterance.num_samples - start)
        clip = read_audio(
            utterance.audio,
            start_sample=utterance.start_sample + start,
            num_samples=count,
            channels=self.channels,
            sample_rate_hz=self.sample_rate_hz,
        )
        return clip.samples[:, :wanted]
