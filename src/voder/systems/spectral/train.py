"""Training of the spectral codec: crops of an endless stream of clips, mel distances, no discriminator.

A crop is a pure function of (seed, step, item): it starts anywhere in a clip drawn in proportion to its
length and runs on through further random clips with short silences between, so that no batch is mostly padding.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.io import AudioClip, write_audio
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest, Utterance
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.nn.mel_loss import MultiScaleMelDistance
from voder.shapes import Codes
from voder.systems.spectral.config import SpectralTaskConfig
from voder.systems.spectral.model import SpectralCodec
from voder.train.task import Loss, Task, TensorBatch


@dataclass
class CropBatch(TensorBatch):
    """Crops of whole codec frames."""

    audio: Float[Tensor, "batch sample"]


class CropStream:
    """All clips of a manifest as one stream in random order, with gaps."""

    def __init__(self, clips: AudioCache, config: SpectralTaskConfig, num_samples: int) -> None:
        self.clips, self.config, self.num_samples = clips, config, num_samples
        durations = clips.manifest.durations_s + float(np.mean(config.gap_s))
        self.ends = np.cumsum(durations / durations.sum())

    def crop(self, rng: np.random.Generator) -> np.ndarray:
        """One crop at a random gain."""
        first = self._draw(rng, by_length=True)
        pieces = [first[int(rng.integers(len(first))) :]]
        while (missing := self.num_samples - sum(map(len, pieces))) > 0:
            gap = int(rng.uniform(*self.config.gap_s) * self.clips.sample_rate_hz)
            pieces += [np.zeros(min(gap, missing), np.float32), self._draw(rng, by_length=False)]
        gain = np.float32(rng.uniform(*self.config.gain))
        return np.concatenate(pieces)[: self.num_samples] * gain

    def _draw(self, rng: np.random.Generator, *, by_length: bool) -> np.ndarray:
        if by_length:
            index = min(int(np.searchsorted(self.ends, rng.random())), len(self.ends) - 1)
        else:
            index = int(rng.integers(len(self.ends)))
        return self.clips[index]


class SpectralTask(Task):
    """Mel distances and the quantizer's commitment."""

    batch_setting = "task.batch_items"
    model: SpectralCodec
    config: SpectralTaskConfig

    def __init__(self, model: nn.Module, config: SpectralTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        codec = self.model.config
        self.distance = MultiScaleMelDistance(codec.sample_rate_hz, linear_weight=config.linear_weight)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        if not len(self.train_manifest):
            raise ManifestError(f"{data / 'train.jsonl'} lists no recordings; there is nothing to train on")
        peak = codec.normalize_peak
        clips = AudioCache(
            self.train_manifest,
            sample_rate_hz=codec.sample_rate_hz,
            max_bytes=config.cache_mb * 2**20,
            prepare=lambda samples: normalize_clip(samples, peak) if peak > 0 else samples,
        )
        frames = max(1, int(config.crop_s * codec.sample_rate_hz) // self.model.hop)
        self.stream = CropStream(clips, config, frames * self.model.hop)

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        crops = [
            self.stream.crop(generator(self.seed, "crop", step, item))
            for item in range(rank, self.config.batch_items, world)
        ]
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase; the codebooks are fitted on a pool of batches when the unquantized steps are over."""
        if self.model.quantizer.needs_initialising:
            self.fit_codebooks(batch.audio.device)
        made = self.model(batch.audio)
        self.distance.to(batch.audio.device)
        loss, distance = self.distance(made.audio, batch.audio)
        commitment = made.quantized.commitment
        logs: dict[str, Tensor | float] = {
            "mel_distance": distance.detach(),
            "commitment": commitment.detach(),
            "perplexity": made.quantized.perplexity.mean(),
        }
        yield "model", Loss(value=loss + commitment, weight=float(batch.audio.shape[0]), logs=logs)

    @torch.no_grad()
    def fit_codebooks(self, device: torch.device) -> None:
        """k-means of the encoder's output over enough crops of a stream of their own."""
        pool: list[Tensor] = []
        wanted = self.model.config.kmeans_frames
        while sum(map(len, pool)) < wanted:
            rng = generator(self.seed, "codebooks", len(pool))
            audio = torch.from_numpy(np.stack([self.stream.crop(rng) for _ in range(64)])).to(device)
            frames = torch.full((64,), audio.shape[1] // self.model.hop, device=device)
            pool.append(self.model.encoder(audio, frames).float().transpose(1, 2).flatten(0, 1))
        self.model.quantizer.initialise(torch.cat(pool)[:wanted])

    def evaluate(self) -> dict[str, float]:
        """Mel distance and codebook use on validation recordings, each coded alone."""
        distances, used = [], []
        for utterance in self._valid_utterances():
            original, restored, codes = self.round_trip(utterance)
            distances.append(float(self.distance(restored, original)[1]))
            used.append(codes)
        counts = _count(torch.cat(used, dim=2), self.model.codebook_size)
        share = counts / counts.sum(1, keepdim=True)
        perplexity = torch.special.entr(share).sum(1).exp()
        distance = float(np.mean(distances))
        figures = {"score": distance, "mel_distance": distance}
        for book, value in enumerate(perplexity.tolist(), 1):
            figures[f"perplexity_{book}"] = value
            figures[f"used_{book}"] = float((counts[book - 1] > 0).sum())
        return figures

    @torch.no_grad()
    def round_trip(self, utterance: Utterance) -> tuple[Tensor, Tensor, Codes]:
        """One recording, what comes back of it (both `[1, sample]`, at the codec's peak), and its codes."""
        rate, device = self.model.sample_rate_hz, next(self.model.parameters()).device
        samples = utterance.read(sample_rate_hz=rate, channels=1).samples[0]
        peak = self.model.config.normalize_peak
        samples = normalize_clip(samples, peak) if peak > 0 else samples
        audio = torch.from_numpy(samples)[None].to(device)
        encoded = self.model.encode_batch(audio[:, None])
        return audio, self.model.decode_batch(encoded)[:, 0].float(), encoded.codes

    def samples(self, folder: Path) -> None:
        """Three validation recordings, before and after."""
        for number, utterance in enumerate(self._valid_utterances()[:3], 1):
            original, restored, _ = self.round_trip(utterance)
            for name, audio in (("original", original), ("restored", restored)):
                clip = AudioClip(audio.cpu().numpy(), self.model.sample_rate_hz)
                write_audio(folder / f"{number}_{name}.wav", clip)

    def describe(self, batch: CropBatch) -> str:
        """What a crop is."""
        seconds = batch.audio.shape[1] / self.model.sample_rate_hz
        level = float(batch.audio.square().mean().sqrt())
        return (
            f"{len(batch.audio)} crops of {seconds:.2f} s ({batch.audio.shape[1] // self.model.hop} codec frames) at "
            f"{self.model.sample_rate_hz} Hz out of {len(self.train_manifest)} recordings, "
            f"{float(self.train_manifest.durations_s.sum()) / 60:.1f} min; rms {level:.3f}; every sample carries loss"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}

    def warnings(self) -> list[str]:
        """Codebooks that have collapsed."""
        if self.model.quantizer.is_warming_up or self.model.quantizer.needs_initialising:
            return []
        limit = max(1.5, 0.05 * self.model.codebook_size)
        return [
            f"codebook {book} has collapsed: it uses about {value:.0f} of {self.model.codebook_size} codes; lower "
            "loop.optimizer.learning_rate or raise model.unquantized_steps"
            for book, value in enumerate(self.model.quantizer.perplexity().tolist(), 1)
            if value < limit
        ]

    def _valid_utterances(self) -> list[Utterance]:
        """Validation recordings, spread over the manifest; training ones where there is no validation split."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        count = min(len(manifest), self.config.evaluate_items)
        return [manifest[index * len(manifest) // count] for index in range(count)]


def normalize_clip(samples: np.ndarray, peak: float) -> np.ndarray:
    """Remove the mean and bring the loudest sample to `peak`, as the codec does before it encodes."""
    centred = samples - samples.mean()
    return (centred * (peak / max(float(np.abs(centred).max()), 0.01))).astype(np.float32)


def _count(codes: Codes, codebook_size: int) -> Tensor:
    """How often each code occurs, `[codebook, code]`."""
    books = codes.transpose(0, 1).flatten(1)
    return torch.stack([torch.bincount(book, minlength=codebook_size) for book in books]).float()
