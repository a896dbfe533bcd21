"""Fine-tuning BEATs to classify sounds (section 4.2): binary cross-entropy over classes, SpecAugment on the bands.

A recording's classes are its `text` in the manifest, several parted by `;`. Self-supervised pre-training is not here:
start from a converted checkpoint with `--from`.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.data.batching import BucketedBatches, spread
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.roles import Features, device_of
from voder.shapes import Lengths
from voder.systems.beats.config import BeatsConfig, BeatsTaskConfig
from voder.systems.beats.infer import classify
from voder.systems.beats.model import Beats
from voder.train.task import Loss, Task, TensorBatch


@dataclass
class SoundBatch(TensorBatch):
    """Recordings and the classes they belong to."""

    audio: Float[Tensor, "batch sample"]
    lengths: Lengths
    targets: Float[Tensor, "batch class"]


def classes_of(text: str | None, separator: str) -> list[str]:
    """The classes that a manifest's text names."""
    return [name.strip() for name in (text or "").split(separator) if name.strip()]


class BeatsTask(Task):
    """Binary cross-entropy of every class, averaged over recordings and classes."""

    batch_setting = "task.batch_seconds"
    model: Beats
    config: BeatsTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: BeatsConfig, task_config: BeatsTaskConfig, data: Path, start: BeatsConfig | None = None
    ) -> BeatsConfig:
        """Take the classes from the training texts, in alphabetical order; a checkpoint's own classes stay, if equal.

        Raises:
            ManifestError: no recording of the training split has a text.
        """
        base = model_config if start is None else start
        named = {c for u in Manifest.open(data / "train.jsonl") for c in classes_of(u.text, task_config.separator)}
        if not named:
            raise ManifestError(f"{data / 'train.jsonl'} names no classes (text); there is nothing to learn")
        if set(base.classes) >= named:
            return base
        return replace(base, classes=tuple(sorted(named)), num_classes=len(named))

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: BeatsConfig, config: BeatsConfig) -> dict[str, Tensor]:
        """Other classes need another predictor: it starts anew, at chance."""
        if start.classes == config.classes:
            return state
        kept = {name: value for name, value in state.items() if not name.startswith("predictor.")}
        kept["predictor.weight"] = torch.zeros(config.num_classes, config.width)
        kept["predictor.bias"] = torch.zeros(config.num_classes)
        return kept

    def __init__(self, model: nn.Module, config: BeatsTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.clips = AudioCache(
            self.train_manifest, sample_rate_hz=self.model.sample_rate_hz, max_bytes=config.cache_mb * 2**20
        )
        self.known = {name: i for i, name in enumerate(self.model.config.classes)}
        labelled = [i for i, u in enumerate(self.train_manifest) if classes_of(u.text, config.separator)]
        self.numbers = np.array(labelled, dtype=np.int64)
        self.batches = BucketedBatches(
            np.minimum(self.train_manifest.durations_s[self.numbers], config.max_s),
            max_total=config.batch_seconds,
            max_batch=config.batch_items,
            seed=seed,
        )
        if not config.train_encoder:
            self.model.requires_grad_(False)
            assert self.model.predictor is not None
            self.model.predictor.requires_grad_(True)

    def batch(self, step: int, rank: int, world: int) -> SoundBatch:
        """This rank's share of the step's recordings, long ones cut to a random stretch."""
        mine = self.numbers[self.batches.indices(step, rank=rank, world=world)]
        longest = int(self.config.max_s * self.model.sample_rate_hz)
        pieces = []
        for number in mine.tolist():
            samples = self.clips[number]
            slack = max(0, len(samples) - longest)
            first = int(generator(self.seed, "stretch", step, number).integers(slack + 1))
            pieces.append(samples[first : first + longest])
        audio = torch.zeros(len(pieces), max(len(p) for p in pieces))
        for row, piece in zip(audio, pieces, strict=True):
            row[: len(piece)] = torch.from_numpy(piece)
        return SoundBatch(
            audio=audio,
            lengths=torch.tensor([len(p) for p in pieces]),
            targets=torch.stack([self._target(self.train_manifest[n].text) for n in mine.tolist()]),
        )

    def _target(self, text: str | None) -> Float[Tensor, " class"]:
        target = torch.zeros(len(self.known))
        for name in classes_of(text, self.config.separator):
            if name in self.known:  # validation may name a class that nobody taught
                target[self.known[name]] = 1.0
        return target

    def losses(self, batch: SoundBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        least = self.model.config.min_samples
        audio = F.pad(batch.audio, (0, max(0, least - batch.audio.shape[1])))
        bands = self._augmented(self.model.spectrogram(audio))
        valid = self.model.valid_patches(batch.lengths, audio.shape[1])
        features = Features(values=self.model.encode_spectrogram(bands, valid), valid=valid)
        value = F.binary_cross_entropy_with_logits(self.model.classify(features).float(), batch.targets)
        yield "model", Loss(value=value, weight=float(len(batch.lengths)))

    def _augmented(self, bands: Tensor) -> Tensor:
        """One mask over frames and one over bands per recording, filled with the mean (0)."""
        count, frames, height = bands.shape
        widest = min(self.config.frame_mask, frames // 5), min(self.config.band_mask, height)
        for axis, (size, limit) in enumerate(zip((frames, height), widest, strict=True)):
            width = torch.randint(limit + 1, (count, 1), device=bands.device)
            first = (torch.rand(count, 1, device=bands.device) * (size - width)).long()
            place = torch.arange(size, device=bands.device)
            hidden = (place >= first) & (place < first + width)
            bands = bands.masked_fill(hidden[:, :, None] if axis == 0 else hidden[:, None, :], 0.0)
        return bands

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """The share of validation recordings whose most probable class is none of theirs, and the loss."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        labelled = [u for u in manifest if classes_of(u.text, self.config.separator)]
        chosen = spread(labelled, self.config.evaluate_items)
        wrong, losses = 0, []
        for utterance in chosen:
            clip = utterance.read(sample_rate_hz=self.model.sample_rate_hz, channels=1)
            audio = torch.from_numpy(clip.samples)[None].to(device_of(self.model))
            logits = self.model.classify(self.model.encode_batch(audio))[0].float().cpu()
            target = self._target(utterance.text)
            losses.append(float(F.binary_cross_entropy_with_logits(logits, target)))
            wrong += int(target[logits.argmax()] == 0)
        error = wrong / len(chosen) if chosen else 1.0
        return {"score": error, "error": error, "loss": float(np.mean(losses)) if losses else float("inf")}

    def samples(self, folder: Path) -> None:
        """What is there and what was heard."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        shown = [manifest[i] for i in range(min(10, len(manifest)))]
        heard = classify(self.model, [utterance.read() for utterance in shown], top=3) if shown else []
        lines = [
            f"{u.id}\t{u.text or ''}\t" + ", ".join(f"{h.name} {h.probability:.2f}" for h in found)
            for u, found in zip(shown, heard, strict=True)
        ]
        (folder / "heard.tsv").write_text("\n".join(("id\tis\theard", *lines)) + "\n", encoding="utf-8")

    def describe(self, batch: SoundBatch) -> str:
        """The first recording and its classes."""
        names = [self.model.config.classes[i] for i in batch.targets[0].nonzero()[:, 0].tolist()]
        seconds = batch.lengths / self.model.sample_rate_hz
        return (
            f"{len(batch.lengths)} recordings, {float(seconds.sum()):.1f} s, {len(self.known)} classes; "
            f"the first, {float(seconds[0]):.2f} s: {', '.join(names)}"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}
