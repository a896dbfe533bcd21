"""Pre-training with BEST-RQ (2202.01855): predict the labels of masked frames, labels of a frozen projection.

The cheapest objective there is: nothing is clustered, quantised or contrasted. Networks on waveforms get the mask
embedding in place of masked frames, as in HuBERT; w2v-BERT gets noise in place of masked mel frames, as in the paper.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voder.audio.fbank import kaldi_fbank
from voder.data.crops import RandomCrops
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ConfigError
from voder.files import write_text
from voder.metrics.codes import perplexity
from voder.shapes import Audio, Mask, Scalar, Tokens
from voder.systems.hubert.config import HubertTaskConfig
from voder.systems.hubert.heads import BestRqHead
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.targets import draw_spans, normalize_bands, stack_frames
from voder.train.task import Loss, Task, TensorBatch

_NOISE = 0.1
_VALID_SEED = 20_220_203  # masks of the validation crops never change


@dataclass
class CropBatch(TensorBatch):
    """Crops of one length."""

    audio: Audio


@dataclass(frozen=True)
class Prediction:
    """Logits and labels of the masked frames."""

    logits: Tensor
    labels: Tensor


class HubertTask(Task):
    """Cross-entropy of masked frames' labels."""

    batch_setting = "task.batch_items"
    model: SpeechEncoder
    config: HubertTaskConfig

    def __init__(self, model: nn.Module, config: HubertTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        if not isinstance(self.model.head, BestRqHead):
            raise ConfigError("this encoder has no best_rq head; set model.head.objective=best_rq to pre-train it")
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.crops = self._crops(self.train_manifest)

    def _crops(self, manifest: Manifest) -> RandomCrops:
        rate = self.model.sample_rate_hz
        return RandomCrops(
            manifest,
            sample_rate_hz=rate,
            channels=1,
            num_samples=max(self.model.receptive_field, round(self.config.crop_s * rate)),
            max_bytes=self.config.cache_mb * 2**20,
        )

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        items = range(rank, self.config.batch_items, world)
        crops = [self.crops.crop(generator(self.seed, "crop", step, item)) for item in items]
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        made = self.predict(batch.audio)
        value = cross_entropy(made)
        hit = (made.logits.argmax(dim=-1) == made.labels).float().mean()
        yield "model", Loss(value=value, weight=float(len(batch.audio)), logs={"accuracy": hit})

    def predict(self, audio: Audio) -> Prediction:
        """Mask spans of crops and predict what they hold."""
        head, model = self.model.head, self.model
        assert isinstance(head, BestRqHead)
        mel = kaldi_fbank(audio[:, 0], model.mel)
        spans = draw_spans(
            *mel.shape[:2], start=self.config.mask_start, span=self.config.mask_span, device=audio.device
        )
        labels = self.labels(mel)
        masked = stack_frames(spans[..., None].float(), head.stack).any(dim=-1)
        if model.config.family == "w2v_bert":
            heard, frames = model.mel_frames(audio[:, 0], None)
            noisy = torch.where(spans[..., None], torch.randn_like(heard) * _NOISE, heard)
            hidden = self._run(model.front_of_mel(noisy, frames), None)
        else:
            front = model.front(audio[:, 0], None)
            # the waveform's frames and the mel's differ by one at the end, at most
            hidden = self._run(front, F.pad(masked, (0, max(0, front.features.shape[1] - masked.shape[1]))))
        count = min(hidden.shape[1], labels.shape[1])
        chosen = masked[:, :count]
        return Prediction(head(hidden[:, :count][chosen]), labels[:, :count][chosen])

    def labels(self, mel: Tensor) -> Tokens:
        """Labels of every stacked mel frame of crops."""
        head = self.model.head
        assert isinstance(head, BestRqHead)
        full = torch.full((len(mel),), mel.shape[1], device=mel.device)
        return head.labels(stack_frames(normalize_bands(mel, full, epsilon=1e-5), head.stack))

    def _run(self, front: Any, masked: Mask | None) -> Tensor:
        if masked is not None:
            masked = masked[:, : front.features.shape[1]]
        last = front.normed
        for state in self.model.hidden_states(front, masked=masked):
            last = state
        return self.model.output(last)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Cross-entropy and accuracy of masked frames, and how many labels are used, on crops that stay the same."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        crops, device = self._crops(manifest), next(self.model.parameters()).device
        losses, hits, labels = [], [], []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_VALID_SEED)
            for item in range(self.config.evaluate_items):
                audio = torch.from_numpy(crops.crop(generator(_VALID_SEED, "crop", item)))[None].to(device)
                made = self.predict(audio)
                losses.append(float(cross_entropy(made)))
                hits.append(float((made.logits.argmax(dim=-1) == made.labels).float().mean()))
                labels.append(made.labels.cpu().numpy())
        used = perplexity(np.concatenate(labels)[None], made.logits.shape[1])
        return {"score": float(np.mean(losses)), "accuracy": float(np.mean(hits)), "label_perplexity": float(used[0])}

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Labels of validation crops and what was predicted for the masked ones among them."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        crops, device = self._crops(manifest), next(self.model.parameters()).device
        lines = ["labels\tpredicted"]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_VALID_SEED)
            audio = torch.from_numpy(crops.crop(generator(_VALID_SEED, "crop", 0)))[None].to(device)
            made = self.predict(audio)
        pairs = (made.labels, made.logits.argmax(dim=-1))
        lines.append("\t".join(" ".join(map(str, ids.tolist())) for ids in pairs))
        write_text(folder / "labels.tsv", "\n".join(lines) + "\n")

    def describe(self, batch: CropBatch) -> str:
        """What a crop is and how much of it is predicted."""
        torch_state = torch.get_rng_state()
        with torch.no_grad():
            made = self.predict(batch.audio.to(next(self.model.parameters()).device))
        torch.set_rng_state(torch_state)
        items, _, samples = batch.audio.shape
        return (
            f"{items} crops of {samples / self.model.sample_rate_hz:.2f} s out of {len(self.train_manifest)} "
            f"recordings; {len(made.labels)} masked frames of {made.logits.shape[1]} labels carry loss, the first are "
            f"{made.labels[:8].tolist()}"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}


def cross_entropy(made: Prediction) -> Scalar:
    """In fp32."""
    with torch.autocast(made.logits.device.type, enabled=False):
        return F.cross_entropy(made.logits.float(), made.labels)
