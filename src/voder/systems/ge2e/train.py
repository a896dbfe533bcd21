"""Training: the generalized end-to-end loss, softmax form (1710.10467, equations 5 to 6 and 9).

A batch is N speakers with M windows each. Every window should be nearer to the mean of its own speaker's other windows
than to the mean of any other speaker, by scaled cosines.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.data.batching import spread
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.shapes import Lengths
from voder.systems.ge2e.config import Ge2eConfig, Ge2eTaskConfig
from voder.systems.ge2e.infer import Verification, embed_all, verification
from voder.systems.ge2e.model import Ge2e
from voder.train.task import Loss, Task, TensorBatch


@dataclass
class VoiceBatch(TensorBatch):
    """Windows of speakers, speaker by speaker."""

    audio: Float[Tensor, "window sample"]
    lengths: Lengths
    """Samples of each that are not filling."""
    speakers: int
    """How many; the windows of one stand together."""


class Ge2eTask(Task):
    """Negative log-likelihood of each window's own speaker."""

    batch_setting = "task.speakers"
    model: Ge2e
    config: Ge2eTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: Ge2eConfig, task_config: Ge2eTaskConfig, data: Path, start: Ge2eConfig | None = None
    ) -> Ge2eConfig:
        """The data decides nothing; that it is there is found out before a run is begun."""
        Manifest.open(data / "train.jsonl")
        return model_config if start is None else start

    def __init__(self, model: nn.Module, config: Ge2eTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        by_speaker: dict[str, list[int]] = {}
        for number, utterance in enumerate(self.train_manifest):
            if utterance.speaker is not None:
                by_speaker.setdefault(utterance.speaker, []).append(number)
        self.recordings = [by_speaker[s] for s in sorted(by_speaker) if len(by_speaker[s]) >= config.min_recordings]
        if len(self.recordings) < 2:
            raise ManifestError(
                f"{self.train_manifest.path} has {len(self.recordings)} speakers with at least "
                f"{config.min_recordings} recordings; 2 are needed to tell voices apart (task.min_recordings)"
            )
        self.clips = AudioCache(
            self.train_manifest, sample_rate_hz=self.model.sample_rate_hz, max_bytes=config.cache_mb * 2**20
        )

    def batch(self, step: int, rank: int, world: int) -> VoiceBatch:
        """Speakers of this step, spread over the ranks; each rank tells its own apart."""
        rng = generator(self.seed, "speakers", step)
        count = min(self.config.speakers, len(self.recordings) // world)
        chosen = rng.permutation(len(self.recordings))[: max(2, count) * world][rank::world]
        windows = [self._window(int(n), step, place) for n in chosen for place in range(self.config.utterances)]
        lengths = torch.tensor([len(window) for window in windows])
        audio = torch.zeros(len(windows), self.model.config.window_samples)
        for row, window in zip(audio, windows, strict=True):
            row[: len(window)] = torch.from_numpy(window)
        return VoiceBatch(audio=audio, lengths=lengths, speakers=len(chosen))

    def _window(self, speaker: int, step: int, place: int) -> np.ndarray:
        """A stretch of one window of a speaker's recording; recordings come round in a shuffled order."""
        own = self.recordings[speaker]
        order = generator(self.seed, "recordings", step, speaker).permutation(len(own))
        samples = self.clips[own[order[place % len(own)]]]
        room = len(samples) - self.model.config.window_samples
        start = int(generator(self.seed, "window", step, speaker, place).integers(max(0, room) + 1))
        return samples[start : start + self.model.config.window_samples]

    def losses(self, batch: VoiceBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        mel = self.model.features(self.model.level(batch.audio, batch.lengths))
        vectors = self.model(mel[:, : self.model.config.window_frames]).unflatten(0, (batch.speakers, -1))
        scores = similarities(vectors, self.model.similarity_weight, self.model.similarity_bias)
        own = torch.arange(batch.speakers, device=scores.device).repeat_interleave(vectors.shape[1])
        right = (scores.argmax(1) == own).float().mean()
        yield "model", Loss(value=F.cross_entropy(scores, own), weight=float(len(own)), logs={"right": right})

    def _judged(self) -> tuple[np.ndarray, list[str]]:
        """Vectors and speakers of validation recordings, and of training ones where those make no pairs."""
        for manifests in ((self.valid_manifest,), (self.valid_manifest, self.train_manifest)):
            known = [u for manifest in manifests for u in manifest if u.speaker is not None]
            chosen = spread(known, self.config.evaluate_items)
            speakers = [u.speaker or "" for u in chosen]
            repeated = len(speakers) - len(set(speakers))
            if repeated and len(set(speakers)) > 1:
                break
        rate = self.model.sample_rate_hz
        return embed_all(self.model, [u.read(sample_rate_hz=rate, channels=1) for u in chosen]), speakers

    def evaluate(self) -> dict[str, float]:
        """The equal error rate over pairs of recordings, which is the `score`, and mean cosines."""
        found: Verification | None = verification(*self._judged())
        if found is None:
            return {"score": 1.0}
        rate = found.equal_error_rate
        return {"score": rate, "equal_error_rate": rate, "same": found.same, "different": found.different}

    def samples(self, folder: Path) -> None:
        """Cosines of the first recordings that are judged, all with all."""
        vectors, speakers = self._judged()
        cosines = vectors[:12] @ vectors[:12].T
        rows = ["\t".join(["", *speakers[:12]])]
        rows += ["\t".join([name, *(f"{c:.3f}" for c in row)]) for name, row in zip(speakers, cosines, strict=False)]
        (folder / "cosines.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")

    def describe(self, batch: VoiceBatch) -> str:
        """What is kept of the data and how much of a batch is sound."""
        kept = sum(map(len, self.recordings))
        each = len(batch.audio) // batch.speakers
        filled = float(batch.lengths.sum()) / batch.audio.numel()
        return (
            f"{batch.speakers} speakers with {each} windows of {self.model.config.window_frames} frames, "
            f"{filled:.0%} of them filled; kept are {len(self.recordings)} speakers with {kept} of "
            f"{len(self.train_manifest)} recordings"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}


def similarities(
    vectors: Float[Tensor, "speaker window channel"], weight: Tensor, bias: Tensor
) -> Float[Tensor, "score speaker"]:
    """Scaled cosines of every window with every speaker's mean, of its own speaker without itself."""
    speakers, windows, _ = vectors.shape
    total = vectors.sum(1)
    means = F.normalize(total, dim=1, eps=1e-8)
    others = F.normalize((total[:, None] - vectors) / (windows - 1), dim=2, eps=1e-8)
    cosines = torch.einsum("swc,kc->swk", vectors, means)
    own = (vectors * others).sum(2)
    itself = torch.eye(speakers, dtype=torch.bool, device=vectors.device)[:, None]
    scores = torch.where(itself, own[..., None], cosines)
    # a negative weight would turn nearness round (section 2.1)
    return (scores * weight.clamp(min=1e-6) + bias).flatten(0, 1)
