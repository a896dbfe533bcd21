"""What training a codec on crops against a discriminator is, whatever its losses weigh.

Crops are functions of (seed, step, item). Codebooks that learn are fitted to the encoder's output by k-means once the
quantizer wants them (`needs_initialising`), the same on every rank.
"""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder.audio.io import AudioClip, write_audio
from voder.data.crops import RandomCrops
from voder.data.manifest import Manifest, Utterance
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.metrics.codes import perplexity, usage
from voder.nn.discriminators import MultiScaleSTFTDiscriminator
from voder.nn.losses import discriminator_hinge, feature_matching, generator_hinge
from voder.nn.mel_loss import MultiScaleMelDistance
from voder.nn.quantize import ResidualVectorQuantizer
from voder.roles import Codec
from voder.shapes import Audio, Latents, Scalar
from voder.train.task import Loss, Task, TensorBatch, spread

_POOL_ITEMS = 16  # crops encoded at once while codebooks are fitted


@dataclass(frozen=True, kw_only=True)
class CodecTaskConfig:
    """Data and discriminator."""

    batch_items: int = 8
    """Crops in a batch; halve it when memory runs out."""
    crop_s: float = 1.0
    """Seconds of a crop."""
    gain: tuple[float, float] = (1.0, 1.0)
    """Random loudness of a crop."""
    adversarial_weight: float = 1.0
    """Of the generator's hinge loss; 0 leaves it out, and without feature_weight the discriminator too."""
    feature_weight: float = 1.0
    """Of feature matching; 0 leaves it out."""
    discriminator_start: int = 0
    """Step at which the discriminator begins to learn."""
    discriminator_filters: int = 32
    """Channels of the discriminator."""
    discriminator_windows: tuple[int, ...] = (2048, 1024, 512, 256, 128)
    """STFT sizes of the discriminator, in samples; the hop is a quarter."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 32
    """Validation recordings scored at each evaluation, at most."""


@dataclass
class CropBatch(TensorBatch):
    """Crops of one length."""

    audio: Audio


class CodecTask(Task):
    """Crops, a discriminator, codebooks, and recordings to judge by; a system adds its losses."""

    batch_setting = "task.batch_items"
    config: Any

    def __init__(self, model: Codec, config: CodecTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.codec, self.rate = model, model.sample_rate_hz
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.crops = RandomCrops(
            self.train_manifest,
            sample_rate_hz=self.rate,
            channels=model.channels,
            num_samples=max(1, round(config.crop_s * self.rate / model.hop)) * model.hop,
            max_bytes=config.cache_mb * 2**20,
        )
        self.mel_distance = MultiScaleMelDistance(self.rate)
        self.discriminator = MultiScaleSTFTDiscriminator(
            channels=model.channels, filters=config.discriminator_filters, n_ffts=config.discriminator_windows
        )

    @abstractmethod
    def latents(self, audio: Audio) -> Latents:
        """What the quantizer reads of crops."""

    @property
    @abstractmethod
    def learned_codebooks(self) -> ResidualVectorQuantizer | None:
        """The quantizer, if its codebooks learn."""

    @property
    def is_adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return bool(self.config.adversarial_weight > 0 or self.config.feature_weight > 0)

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The codec, and the discriminator where there is one."""
        rival = {"discriminator": self.discriminator} if self.is_adversarial else {}
        return {**rival, "generator": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        """What a resumed run needs beside the codec."""
        return {"discriminator": self.discriminator} if self.is_adversarial else {}

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        crops = []
        for item in range(rank, self.config.batch_items, world):
            rng = generator(self.seed, "crop", step, item)
            crops.append(self.crops.crop(rng) * np.float32(rng.uniform(*self.config.gain)))
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def told_apart(self, audio: Audio, made: Audio) -> Loss:
        """The discriminator's loss."""
        real, fake = self.discriminator(audio).logits, self.discriminator(made.detach()).logits
        return Loss(value=discriminator_hinge(real, fake), weight=float(len(audio)))

    def rivalry(self, made: Audio, audio: Audio) -> dict[str, Scalar]:
        """What the discriminator says of crops that were made, as far as it has a weight."""
        with torch.no_grad():
            real = self.discriminator(audio)
        fake = self.discriminator(made)
        terms = {}
        if self.config.adversarial_weight > 0:
            terms["adversarial"] = generator_hinge(fake.logits)
        if self.config.feature_weight > 0:
            terms["features"] = feature_matching(real.features, fake.features)
        return terms

    @torch.no_grad()
    def fit_codebooks(self, device: torch.device) -> None:
        """k-means of the encoder's output over crops of a stream of their own, if the codebooks want it now."""
        quantizer = self.learned_codebooks
        if quantizer is None or not quantizer.needs_initialising:
            return
        pool: list[Tensor] = []
        while sum(map(len, pool)) < quantizer.config.kmeans_frames:
            rng = generator(self.seed, "codebooks", len(pool))
            audio = torch.from_numpy(np.stack([self.crops.crop(rng) for _ in range(_POOL_ITEMS)]))
            pool.append(self.latents(audio.to(device)).float().transpose(1, 2).flatten(0, 1))
        quantizer.initialise(torch.cat(pool)[: quantizer.config.kmeans_frames])

    def distance(self, restored: Audio, audio: Audio) -> float:
        """Log-mel distance of a recording that was restored."""
        judge = self.mel_distance.to(audio.device)
        return float(judge(restored.float().flatten(0, 1), audio.flatten(0, 1))[1])

    def figures_of_codes(self, used: Sequence[np.ndarray]) -> dict[str, float]:
        """Perplexity and share of use of every codebook, of codes `[codebook, frame]` of recordings."""
        codes, size = np.concatenate(used, axis=1), self.codec.codebook_size
        figures = {}
        for book, (even, share) in enumerate(zip(perplexity(codes, size), usage(codes, size), strict=True), 1):
            figures[f"perplexity_{book}"], figures[f"used_{book}"] = float(even), float(share)
        return figures

    def valid_utterances(self) -> list[Utterance]:
        """Validation recordings, spread over the manifest; training ones where there is no validation split."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        return [manifest[index] for index in spread(range(len(manifest)), self.config.evaluate_items)]

    def read(self, utterance: Utterance) -> Audio:
        """A recording as the codec hears it."""
        clip = utterance.read(sample_rate_hz=self.rate, channels=self.codec.channels)
        return torch.from_numpy(clip.samples)[None].to(next(self.model.parameters()).device)

    def write(self, file: Path, audio: Audio) -> None:
        """Write the first recording of a batch."""
        write_audio(file, AudioClip(audio[0].float().cpu().numpy(), self.rate))

    def describe(self, batch: CropBatch) -> str:
        """What a crop is."""
        items, channels, samples = batch.audio.shape
        return (
            f"{items} crops of {samples / self.rate:.2f} s ({samples // self.codec.hop} codec frames), {channels} "
            f"channels at {self.rate} Hz out of {len(self.train_manifest)} recordings, "
            f"{float(self.train_manifest.durations_s.sum()) / 60:.1f} min; "
            f"rms {float(batch.audio.square().mean().sqrt()):.3f}; every sample carries loss"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}

    def warnings(self) -> list[str]:
        """Codebooks that have collapsed."""
        quantizer = self.learned_codebooks
        if quantizer is None or quantizer.is_warming_up:
            return []
        size = self.codec.codebook_size
        return [
            f"codebook {book} has collapsed: it uses about {value:.0f} of {size} codes; lower "
            "loop.optimizer.learning_rate or raise model.rvq.warmup_steps"
            for book, value in enumerate(quantizer.perplexity().tolist(), 1)
            if value < max(1.5, 0.05 * size)
        ]
