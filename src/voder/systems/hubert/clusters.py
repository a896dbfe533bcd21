"""HuBERT's objective (2106.07447, section II): the clusters of masked frames, told by cosine similarity.

Crops begin on a frame of the encoder, so that labels and frames stay aligned; short recordings are padded and their
padding carries no loss.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from voder.data.cache import AudioCache
from voder.data.manifest import Manifest
from voder.errors import ConfigError, ManifestError
from voder.shapes import Lengths
from voder.systems.hubert.config import HubertTaskConfig
from voder.systems.hubert.heads import ClusterHead
from voder.systems.hubert.labels import read_labels
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.objective import CropBatch, Prediction, mean_square
from voder.systems.hubert.targets import draw_spans

UNLABELLED = -1


@dataclass
class LabelledBatch(CropBatch):
    """Crops padded to one length, with a label per frame."""

    lengths: Lengths
    labels: Int[Tensor, "batch frame"]
    """UNLABELLED where there is none."""


class LabelledCrops:
    """Crops of recordings with the labels of their frames."""

    def __init__(self, manifest: Manifest, model: SpeechEncoder, config: HubertTaskConfig) -> None:
        """Read the labels.

        Raises:
            ManifestError: the labels do not fit, or no recording has a frame.
            ConfigError: labels do not fall on frames.
        """
        assert isinstance(model.head, ClusterHead)
        rate = model.sample_rate_hz
        self.labels = read_labels(
            manifest, config.labels, rate_hz=config.label_rate_hz, num_labels=len(model.head.label_embs)
        )
        ratio = Fraction(config.label_rate_hz).limit_denominator(10_000) * model.hop / rate
        if ratio.denominator != 1 or not ratio:
            raise ConfigError(
                f"task.label_rate_hz is {config.label_rate_hz:g}, but the encoder makes {rate / model.hop:g} frames a "
                "second: a multiple of that is wanted"
            )
        self.step, self.hop, self.field = int(ratio), model.hop, model.receptive_field
        self.num_samples = max(self.field, round(config.crop_s * rate))
        self.clips = AudioCache(manifest, sample_rate_hz=rate, max_bytes=config.cache_mb * 2**20)
        self.usable = np.flatnonzero(manifest.durations_s * rate >= self.field)
        if not len(self.usable):
            raise ManifestError(f"no recording of {manifest.path} has a frame of {self.field} samples")
        self._ends = np.cumsum(manifest.durations_s[self.usable])

    def batch(self, draws: list[np.random.Generator]) -> LabelledBatch:
        """One crop for each generator, of a recording drawn in proportion to its length."""
        return self._collate([self._crop(draw) for draw in draws])

    def whole(self, position: int) -> LabelledBatch:
        """The beginning of one usable recording."""
        return self._collate([self._cut(int(self.usable[position % len(self.usable)]), 0)])

    def _crop(self, draw: np.random.Generator) -> tuple[np.ndarray, np.ndarray]:
        place = np.searchsorted(self._ends, draw.random() * self._ends[-1], side="right")
        index = int(self.usable[min(int(place), len(self.usable) - 1)])
        slack = max(0, len(self.clips[index]) - self.num_samples)
        return self._cut(index, int(draw.integers(slack // self.hop + 1)))

    def _cut(self, index: int, first: int) -> tuple[np.ndarray, np.ndarray]:
        samples = self.clips[index][first * self.hop :][: self.num_samples]
        samples = np.pad(samples, (0, max(0, self.field - len(samples))))  # where a table rounded a duration up
        frames = (len(samples) - self.field) // self.hop + 1
        labels = self.labels[index][first * self.step :: self.step][:frames].astype(np.int64)
        return samples, np.pad(labels, (0, frames - len(labels)), constant_values=UNLABELLED)

    def _collate(self, crops: list[tuple[np.ndarray, np.ndarray]]) -> LabelledBatch:
        audio = np.zeros((len(crops), 1, max(len(samples) for samples, _ in crops)), np.float32)
        labels = np.full((len(crops), max(len(ids) for _, ids in crops)), UNLABELLED)
        for row, (samples, ids) in enumerate(crops):
            audio[row, 0, : len(samples)] = samples
            labels[row, : len(ids)] = ids
        lengths = torch.tensor([len(samples) for samples, _ in crops])
        return LabelledBatch(audio=torch.from_numpy(audio), lengths=lengths, labels=torch.from_numpy(labels))


def predict(model: SpeechEncoder, batch: LabelledBatch, *, start: float, span: int) -> Prediction:
    """Mask spans of frames and predict their labels; all labelled frames if no masked one has a label."""
    head = model.head
    assert isinstance(head, ClusterHead)
    front = model.front(batch.audio[:, 0], batch.lengths)
    items, frames = front.features.shape[:2]
    masked = draw_spans(items, frames, start=start, span=span, device=batch.audio.device)
    last = model.last_state(front, masked=masked)
    labels = torch.full((items, frames), UNLABELLED, device=masked.device)
    count = min(frames, batch.labels.shape[1])
    labels[:, :count] = batch.labels[:, :count]
    known = labels != UNLABELLED
    chosen = masked & known if bool((masked & known).any()) else known
    return Prediction(head(model.output(last)[chosen]), labels[chosen], mean_square(front.features, front.valid))
