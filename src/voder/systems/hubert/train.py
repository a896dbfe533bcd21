"""Pre-training: predict the labels of masked frames.

With a head of best_rq (2202.01855) the labels are those of a frozen projection, the cheapest there are: nothing is
clustered, quantised or contrasted. Networks on waveforms get the mask embedding in place of masked frames, as in
HuBERT; w2v-BERT gets noise in place of masked mel frames, as in the paper. With a head of hubert (2106.07447) they are
clusters, which `labels.py` makes and `clusters.py` reads. With a head of wav2vec2 (2006.11477) frames are not labelled
but told from one another: `contrast.py`.
"""

from collections.abc import Iterator
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
from voder.shapes import Audio, Mask, Tokens
from voder.systems.hubert import clusters, contrast
from voder.systems.hubert.config import HubertTaskConfig
from voder.systems.hubert.heads import BestRqHead, ClusterHead, ContrastHead
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.objective import CropBatch, Prediction, cross_entropy, mean_square
from voder.systems.hubert.targets import draw_spans, normalize_bands, stack_frames
from voder.train.task import Loss, Task

_NOISE = 0.1
_VALID_SEED = 20_220_203  # masks of the validation crops never change


class HubertTask(Task):
    """Cross-entropy of masked frames' labels."""

    batch_setting = "task.batch_items"
    model: SpeechEncoder
    config: HubertTaskConfig

    def __init__(self, model: nn.Module, config: HubertTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        if self.model.head is None:
            raise ConfigError(
                "this encoder has no head to train it with; set model.head.objective to best_rq or another"
            )
        if isinstance(self.model.head, ContrastHead) and self.model.config.family == "w2v_bert":
            raise ConfigError("model.head.objective=wav2vec2 needs convolutions, which w2v_bert has not; use best_rq")
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.labelled: clusters.LabelledCrops | None = None
        if isinstance(self.model.head, ClusterHead):
            self.labelled = clusters.LabelledCrops(self.train_manifest, self.model, config)
        else:
            self._refuse_labels(config)
            self.crops = self._crops(self.train_manifest)

    @staticmethod
    def _refuse_labels(config: HubertTaskConfig) -> None:
        default = HubertTaskConfig()
        for name in ("labels", "label_rate_hz"):
            if getattr(config, name) != getattr(default, name):
                raise ConfigError(f"task.{name} acts only with model.head.objective=hubert; leave it out")

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
        draws = [generator(self.seed, "crop", step, item) for item in items]
        if self.labelled is not None:
            return self.labelled.batch(draws)
        crops = [self.crops.crop(draw) for draw in draws]
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        made = self.predict(batch, step)
        value = cross_entropy(made) + made.added + self.config.feature_penalty * made.features
        hit = (made.logits.argmax(dim=-1) == made.labels).float().mean()
        logs = {"accuracy": hit, "features": made.features.detach()}
        yield "model", Loss(value=value, weight=float(len(batch.audio)), logs=logs)

    def predict(self, batch: CropBatch, step: int | None = None) -> Prediction:
        """Mask spans of crops and predict what they hold; `step` is given while training."""
        if isinstance(self.model.head, ContrastHead):
            start, span = self.config.mask_start, self.config.mask_span
            return contrast.predict(self.model, batch.audio, start=start, span=span, step=step)
        if isinstance(batch, clusters.LabelledBatch):
            return clusters.predict(self.model, batch, start=self.config.mask_start, span=self.config.mask_span)
        return self._predict_projected(batch.audio)

    def _predict_projected(self, audio: Audio) -> Prediction:
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
            front = model.front_of_mel(noisy, frames)
            masking: Mask | None = None
        else:
            front = model.front(audio[:, 0], None)
            # the waveform's frames and the mel's differ by one at the end, at most
            wanted = front.features.shape[1]
            masking = F.pad(masked, (0, max(0, wanted - masked.shape[1])))[:, :wanted]
        hidden = model.output(model.last_state(front, masked=masking))
        count = min(hidden.shape[1], labels.shape[1])
        chosen = masked[:, :count]
        features = mean_square(front.features, front.valid)
        return Prediction(head(hidden[:, :count][chosen]), labels[:, :count][chosen], features)

    def labels(self, mel: Tensor) -> Tokens:
        """Labels of every stacked mel frame of crops."""
        head = self.model.head
        assert isinstance(head, BestRqHead)
        full = torch.full((len(mel),), mel.shape[1], device=mel.device)
        return head.labels(stack_frames(normalize_bands(mel, full, epsilon=1e-5), head.stack))

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Cross-entropy and accuracy of masked frames, and how many labels are used, on crops that stay the same."""
        device = next(self.model.parameters()).device
        losses, hits, labels, used = [], [], [], []
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_VALID_SEED)
            for batch in self._valid_batches(self.config.evaluate_items):
                made = self.predict(batch.to(device))
                losses.append(float(cross_entropy(made)))
                hits.append(float((made.logits.argmax(dim=-1) == made.labels).float().mean()))
                labels.append(made.labels.cpu().numpy())
                used += [] if made.used is None else [float(made.used)]
        figures = {"score": float(np.mean(losses)), "accuracy": float(np.mean(hits))}
        if used:
            return figures | {"code_perplexity": float(np.mean(used))}
        occurring = perplexity(np.concatenate(labels)[None], made.logits.shape[1])
        return figures | {"label_perplexity": float(occurring[0])}

    def _valid_batches(self, count: int) -> Iterator[CropBatch]:
        """The same crops every time."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        if self.labelled is not None:
            crops = clusters.LabelledCrops(manifest, self.model, self.config)
            yield from (crops.whole(item) for item in range(min(count, len(crops.usable))))
            return
        drawn = self._crops(manifest)
        for item in range(count):
            crop = drawn.crop(generator(_VALID_SEED, "crop", item))
            yield CropBatch(audio=torch.from_numpy(crop)[None])

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Labels of validation crops and what was predicted for the masked ones among them."""
        device = next(self.model.parameters()).device
        lines = ["labels\tpredicted"]
        with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []):
            torch.manual_seed(_VALID_SEED)
            made = self.predict(next(self._valid_batches(1)).to(device))
        pairs = (made.labels, made.logits.argmax(dim=-1))
        lines.append("\t".join(" ".join(map(str, ids.tolist())) for ids in pairs))
        write_text(folder / "labels.tsv", "\n".join(lines) + "\n")

    def describe(self, batch: CropBatch) -> str:
        """What a crop is and how much of it is predicted."""
        torch_state = torch.get_rng_state()
        with torch.no_grad():
            made = self.predict(batch.to(next(self.model.parameters()).device))
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
