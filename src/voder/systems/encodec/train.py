"""Training of EnCodec: a game against a multi-scale STFT discriminator, balanced by gradient shares.

2210.13438, §3.4 and §4. Per step the model reconstructs random crops with as many codebooks as a drawn bit
rate allows; the discriminator learns first, the codec second. Losses on the waveform pass through the
balancer; the quantizer's commitment stays beside it.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
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
from voder.nn.balancer import Balancer
from voder.nn.discriminators import MultiScaleSTFTDiscriminator
from voder.nn.losses import MultiScaleMelLoss, discriminator_hinge, feature_matching, generator_hinge
from voder.nn.mel_loss import MultiScaleMelDistance
from voder.nn.quantize import ResidualVectorQuantizer
from voder.shapes import Audio, Scalar
from voder.systems.encodec.config import EncodecTaskConfig
from voder.systems.encodec.model import EncodecCodec
from voder.train.task import Loss, Task, TensorBatch

_POOL_ITEMS = 16  # crops encoded at once while codebooks are fitted
_F_MIN_HZ = 64.0


@dataclass
class CropBatch(TensorBatch):
    """Crops of one length."""

    audio: Audio


class EncodecTask(Task):
    """Reconstruction, feature matching, adversary, commitment."""

    batch_setting = "task.batch_items"
    model: EncodecCodec
    config: EncodecTaskConfig

    def __init__(self, model: nn.Module, config: EncodecTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        codec = self.model.config
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.crops = RandomCrops(
            self.train_manifest,
            sample_rate_hz=codec.sample_rate_hz,
            channels=codec.seanet.channels,
            num_samples=max(1, round(config.crop_s * codec.sample_rate_hz / self.model.hop)) * self.model.hop,
            max_bytes=config.cache_mb * 2**20,
        )
        self.mel_distance = MultiScaleMelDistance(codec.sample_rate_hz)
        self.mel_energies = MultiScaleMelLoss(sample_rate_hz=codec.sample_rate_hz, f_min_hz=_F_MIN_HZ)
        self.balancer = Balancer(
            {
                "waveform": config.waveform_weight,
                "mel": config.mel_weight,
                "adversarial": config.adversarial_weight,
                "features": config.feature_weight,
            }
        )
        self.discriminator = MultiScaleSTFTDiscriminator(
            channels=codec.seanet.channels,
            filters=config.discriminator_filters,
            n_ffts=config.discriminator_windows,
        )

    @property
    def is_adversarial(self) -> bool:
        """Whether a discriminator takes part."""
        return self.config.adversarial_weight > 0 or self.config.feature_weight > 0

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The codec, and the discriminator where there is one."""
        rival = {"discriminator": self.discriminator} if self.is_adversarial else {}
        return {**rival, "generator": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        """What a resumed run needs beside the codec."""
        rival: dict[str, nn.Module] = {"discriminator": self.discriminator} if self.is_adversarial else {}
        return {**rival, "balancer": self.balancer}

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        crops = []
        for item in range(rank, self.config.batch_items, world):
            rng = generator(self.seed, "crop", step, item)
            crops.append(self.crops.crop(rng) * np.float32(rng.uniform(*self.config.gain)))
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The discriminator's loss, then the codec's."""
        audio, quantizer = batch.audio, self.model.quantizer
        if isinstance(quantizer, ResidualVectorQuantizer) and quantizer.needs_initialising:
            self.fit_codebooks(audio.device)
        made = self.model(audio, self.draw_codebooks(step))
        weight = float(len(audio))
        begins = self.config.discriminator_start
        if self.is_adversarial and step >= begins:
            real = self.discriminator(audio).logits
            fake = self.discriminator(made.audio.detach()).logits
            yield "discriminator", Loss(value=discriminator_hinge(real, fake), weight=weight)
        terms = self._reconstruction(made.audio, audio)
        if self.is_adversarial and step >= begins + self.config.discriminator_lead:
            terms |= self._rivalry(made.audio, audio)
        balanced = self.balancer(terms, made.audio)
        # The balanced gradient is a sum over items, commitment a mean: both per item of the whole batch, so
        # that neither their proportion nor the step depends on how many workers share the batch.
        commitment = self.config.commitment_weight * made.quantized.commitment
        pull = balanced / len(audio) + commitment / self.config.batch_items
        # Balanced, the value says nothing (weak gradients are scaled up): what is shown is the plain weighted
        # sum.
        shown = sum(self.balancer.weights[name] * term.detach() for name, term in terms.items())
        value = pull - pull.detach() + shown + commitment.detach()
        logs: dict[str, Tensor | float] = {name: term.detach() for name, term in terms.items()}
        logs["commitment"] = made.quantized.commitment.detach()
        logs["perplexity"] = made.quantized.perplexity.mean()
        yield "generator", Loss(value=value, weight=weight, logs=logs)

    def draw_codebooks(self, step: int) -> int | None:
        """As many codebooks as a bit rate drawn for the step allows; the same on every rank."""
        rates = self.model.config.bandwidths_kbps
        if not rates:
            return None
        drawn = generator(self.seed, "bandwidth", step).integers(len(rates))
        return self.model.config.codebooks_at(rates[int(drawn)])

    def _reconstruction(self, made: Audio, audio: Audio) -> dict[str, Scalar]:
        waveform = (made.float() - audio).abs().mean()
        if self.config.mel == "energies":
            return {"waveform": waveform, "mel": self.mel_energies.to(audio.device)(made, audio)}
        distance = self.mel_distance.to(audio.device)(made.flatten(0, 1).float(), audio.flatten(0, 1))
        return {"waveform": waveform, "mel": distance[0]}

    def _rivalry(self, made: Audio, audio: Audio) -> dict[str, Scalar]:
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
        """k-means of the encoder's output over crops of a stream of their own, the same on every rank."""
        quantizer = self.model.quantizer
        assert isinstance(quantizer, ResidualVectorQuantizer)
        pool: list[Tensor] = []
        while sum(map(len, pool)) < quantizer.config.kmeans_frames:
            rng = generator(self.seed, "codebooks", len(pool))
            audio = torch.from_numpy(np.stack([self.crops.crop(rng) for _ in range(_POOL_ITEMS)]))
            pool.append(self.model.latents(audio.to(device)).float().transpose(1, 2).flatten(0, 1))
        quantizer.initialise(torch.cat(pool)[: quantizer.config.kmeans_frames])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log-mel distance, signal-to-noise ratio and codebook use on validation recordings."""
        distances, ratios, used = [], [], []
        distance = self.mel_distance.to(next(self.model.parameters()).device)
        for utterance in self._valid_utterances():
            audio = self._read(utterance)
            encoded = self.model.encode_batch(audio)
            restored = self.model.decode_batch(encoded).float()
            used.append(encoded.codes[0].cpu().numpy())
            distances.append(float(distance(restored.flatten(0, 1), audio.flatten(0, 1))[1]))
            noise = (restored - audio).square().sum().clamp(min=1e-10)
            ratios.append(float(10 * torch.log10(audio.square().sum().clamp(min=1e-10) / noise)))
        codes, size = np.concatenate(used, axis=1), self.model.codebook_size
        figures = {"score": float(np.mean(distances)), "mel_distance": float(np.mean(distances))}
        figures["snr_db"] = float(np.mean(ratios))
        for book, (spread, share) in enumerate(zip(perplexity(codes, size), usage(codes, size), strict=True), 1):
            figures[f"perplexity_{book}"], figures[f"used_{book}"] = float(spread), float(share)
        return figures

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings, and what comes back at every bit rate."""
        rates = self.model.config.bandwidths_kbps
        counts: dict[str, int | None] = {f"{r:g}kbps": self.model.config.codebooks_at(r) for r in rates}
        counts = counts or {"restored": None}
        for number, utterance in enumerate(self._valid_utterances()[:3], 1):
            audio = self._read(utterance)
            write = partial(self._write, folder)
            write(f"{number}_original.wav", audio)
            for label, count in counts.items():
                encoded = self.model.encode_batch(audio, num_codebooks=count)
                write(f"{number}_{label}.wav", self.model.decode_batch(encoded))

    def _write(self, folder: Path, name: str, audio: Audio) -> None:
        write_audio(folder / name, AudioClip(audio[0].float().cpu().numpy(), self.model.sample_rate_hz))

    def _read(self, utterance: Utterance) -> Audio:
        clip = utterance.read(sample_rate_hz=self.model.sample_rate_hz, channels=self.model.channels)
        return torch.from_numpy(clip.samples)[None].to(next(self.model.parameters()).device)

    def _valid_utterances(self) -> list[Utterance]:
        """Validation recordings, spread over the manifest; training ones where there is no validation
        split."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        count = min(len(manifest), self.config.evaluate_items)
        return [manifest[index * len(manifest) // count] for index in range(count)]

    def describe(self, batch: CropBatch) -> str:
        """What a crop is."""
        items, channels, samples = batch.audio.shape
        rate = self.model.sample_rate_hz
        return (
            f"{items} crops of {samples / rate:.2f} s ({samples // self.model.hop} codec frames), {channels} channels "
            f"at {rate} Hz out of {len(self.train_manifest)} recordings, "
            f"{float(self.train_manifest.durations_s.sum()) / 60:.1f} min; "
            f"rms {float(batch.audio.square().mean().sqrt()):.3f}; every sample carries loss"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}

    def warnings(self) -> list[str]:
        """Codebooks that have collapsed."""
        quantizer = self.model.quantizer
        if not isinstance(quantizer, ResidualVectorQuantizer) or quantizer.is_warming_up:
            return []
        limit = max(1.5, 0.05 * self.model.codebook_size)
        return [
            f"codebook {book} has collapsed: it uses about {value:.0f} of {self.model.codebook_size} codes; lower "
            "loop.optimizer.learning_rate or raise model.rvq.warmup_steps"
            for book, value in enumerate(quantizer.perplexity().tolist(), 1)
            if value < limit
        ]
