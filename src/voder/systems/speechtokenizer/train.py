"""Training of SpeechTokenizer: a codec's losses, and a teacher for the first codebook (2308.16692, §3.2).

The distillation compares time courses: for every channel, the cosine between the first codebook's vectors (read by
a linear layer) and the teacher's over the whole crop, through a log-sigmoid. Losses have fixed weights, as in the
authors' trainer. The discriminator is EnCodec's over complex spectrograms; the paper adds two over waveforms.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.audio.features import LogMel, MelConfig
from voder.audio.io import AudioClip, write_audio
from voder.data.crops import RandomCrops
from voder.data.manifest import Manifest, Utterance
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ConfigError
from voder.metrics.codes import perplexity, usage
from voder.nn.discriminators import MultiScaleSTFTDiscriminator
from voder.nn.losses import discriminator_hinge, feature_matching, generator_hinge
from voder.nn.mel_loss import MultiScaleMelDistance
from voder.roles import Encoder
from voder.shapes import Audio, Scalar
from voder.systems.speechtokenizer.config import (
    MEL_BANDS,
    MEL_TEACHER,
    SpeechTokenizerConfig,
    SpeechTokenizerTaskConfig,
)
from voder.systems.speechtokenizer.model import Semantic, SpeechTokenizerCodec
from voder.train.task import Loss, Task, TensorBatch

_POOL_ITEMS = 16  # crops encoded at once while codebooks are fitted


@dataclass
class CropBatch(TensorBatch):
    """Crops of one length."""

    audio: Audio


class Teacher(nn.Module):
    """What the first codebook learns from: an Encoder, or a log-mel spectrogram."""

    def __init__(self, name: str, sample_rate_hz: int) -> None:
        """Load it.

        Raises:
            CheckpointError: nothing trained of that name, or it is no Encoder.
            ConfigError: it hears another sample rate, or the layer is not a number.
        """
        super().__init__()
        place, at, layer = name.rpartition("@") if "@" in name else (name, "", "")
        if at and not layer.isdecimal():
            raise ConfigError(f"task.teacher is {name!r}; behind @ a layer's number is wanted")
        self.layer = int(layer) if at else None
        self.encoder: Encoder | None = None
        self.mel: LogMel | None = None
        if name == MEL_TEACHER:
            window = sample_rate_hz // 40
            self.mel = LogMel(
                MelConfig(sample_rate_hz=sample_rate_hz, n_fft=2 * window, hop=window // 2, num_bands=MEL_BANDS)
            )
            self.width = MEL_BANDS
            return
        self.encoder = hub.load_role(place, "Encoder")
        self.width = self.encoder.width
        if self.encoder.sample_rate_hz != sample_rate_hz:
            raise ConfigError(
                f"the teacher {place} hears {self.encoder.sample_rate_hz} Hz but model.sample_rate_hz is "
                f"{sample_rate_hz}; make them equal"
            )

    @torch.no_grad()
    def forward(self, audio: Audio, num_frames: int) -> Semantic:
        """The teacher's vectors, brought to the codec's frames."""
        with torch.autocast(audio.device.type, enabled=False):
            if self.mel is not None:
                values = self.mel(audio[:, 0].float())
            else:
                assert self.encoder is not None
                values = self.encoder.encode_batch(audio.float(), layer=self.layer).values.float().transpose(1, 2)
            return F.interpolate(values, size=num_frames, mode="linear").transpose(1, 2)


class SpeechTokenizerTask(Task):
    """Reconstruction, distillation, commitment, adversary."""

    batch_setting = "task.batch_items"
    model: SpeechTokenizerCodec
    config: SpeechTokenizerTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: SpeechTokenizerConfig,
        task_config: SpeechTokenizerTaskConfig,
        data: Path,
        start: Any | None = None,
    ) -> Any:
        """Take the teacher's width."""
        if start is not None:
            return start
        teacher = Teacher(task_config.teacher, model_config.sample_rate_hz)
        return replace(model_config, semantic_width=teacher.width)

    def __init__(self, model: nn.Module, config: SpeechTokenizerTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        rate = self.model.sample_rate_hz
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.crops = RandomCrops(
            self.train_manifest,
            sample_rate_hz=rate,
            channels=1,
            num_samples=max(1, round(config.crop_s * rate / self.model.hop)) * self.model.hop,
            max_bytes=config.cache_mb * 2**20,
        )
        self.teacher = Teacher(config.teacher, rate)
        if self.teacher.width != self.model.config.semantic_width:
            raise ConfigError(
                f"the teacher {config.teacher} has {self.teacher.width} channels but model.semantic_width is "
                f"{self.model.config.semantic_width}; begin from a checkpoint of the same teacher"
            )
        self.mel_distance = MultiScaleMelDistance(rate)
        self.discriminator = MultiScaleSTFTDiscriminator(
            filters=config.discriminator_filters, n_ffts=config.discriminator_windows
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
        return {"discriminator": self.discriminator} if self.is_adversarial else {}

    def batch(self, step: int, rank: int, world: int) -> CropBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        items = range(rank, self.config.batch_items, world)
        crops = [self.crops.crop(generator(self.seed, "crop", step, item)) for item in items]
        return CropBatch(audio=torch.from_numpy(np.stack(crops)))

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The discriminator's loss, then the codec's."""
        audio, config = batch.audio, self.config
        if self.model.quantizer.needs_initialising:
            self.fit_codebooks(audio.device)
        made = self.model(audio)
        weight = float(len(audio))
        rivalry = self.is_adversarial and step >= config.discriminator_start
        if rivalry:
            real = self.discriminator(audio).logits
            fake = self.discriminator(made.audio.detach()).logits
            yield "discriminator", Loss(value=discriminator_hinge(real, fake), weight=weight)
        distance = self.mel_distance.to(audio.device)(made.audio.flatten(0, 1), audio.flatten(0, 1))
        taught = self.teacher.to(audio.device)(audio, made.semantic.shape[1])
        terms: dict[str, tuple[float, Scalar]] = {
            "waveform": (config.waveform_weight, (made.audio - audio).abs().mean()),
            "mel": (config.mel_weight, distance[0]),
            "distillation": (config.distillation_weight, distillation(made.semantic, taught)),
            "commitment": (config.commitment_weight, made.quantized.commitment),
        }
        if rivalry:
            terms |= self._rivalry(made.audio, audio)
        value = torch.stack([share * term for share, term in terms.values()]).sum()
        logs: dict[str, Tensor | float] = {name: term.detach() for name, (_, term) in terms.items()}
        logs["perplexity"] = made.quantized.perplexity.mean()
        yield "generator", Loss(value=value, weight=weight, logs=logs)

    def _rivalry(self, made: Audio, audio: Audio) -> dict[str, tuple[float, Scalar]]:
        with torch.no_grad():
            real = self.discriminator(audio)
        fake = self.discriminator(made)
        return {
            "adversarial": (self.config.adversarial_weight, generator_hinge(fake.logits)),
            "features": (self.config.feature_weight, feature_matching(real.features, fake.features)),
        }

    @torch.no_grad()
    def fit_codebooks(self, device: torch.device) -> None:
        """k-means of the encoder's output over crops of a stream of their own, the same on every rank."""
        quantizer = self.model.quantizer
        pool: list[Tensor] = []
        while sum(map(len, pool)) < quantizer.config.kmeans_frames:
            rng = generator(self.seed, "codebooks", len(pool))
            audio = torch.from_numpy(np.stack([self.crops.crop(rng) for _ in range(_POOL_ITEMS)]))
            pool.append(self.model.encoder(audio.to(device)).float().transpose(1, 2).flatten(0, 1))
        quantizer.initialise(torch.cat(pool)[: quantizer.config.kmeans_frames])

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log-mel distance of all codebooks and of the first alone, likeness to the teacher, use of the codes."""
        distances: list[float] = []
        first: list[float] = []
        alike, used = [], []
        device = next(self.model.parameters()).device
        distance, teacher = self.mel_distance.to(device), self.teacher.to(device)
        for utterance in self._valid_utterances():
            audio = self._read(utterance)
            codes = self.model.encode_levels(audio)
            for found, kept in ((distances, codes), (first, codes[:, :1])):
                restored = self.model.decode_levels(kept)[..., : audio.shape[-1]].float()
                found.append(float(distance(restored.flatten(0, 1), audio.flatten(0, 1))[1]))
            semantic = self.model.semantic_of(codes)
            alike.append(float(F.cosine_similarity(semantic, teacher(audio, semantic.shape[1]), dim=1).mean()))
            used.append(codes[0].cpu().numpy())
        codes_used, size = np.concatenate(used, axis=1), self.model.codebook_size
        figures = {"score": float(np.mean(distances)), "mel_distance": float(np.mean(distances))}
        figures |= {"mel_distance_of_first": float(np.mean(first)), "teacher_cosine": float(np.mean(alike))}
        for book, (spread, share) in enumerate(
            zip(perplexity(codes_used, size), usage(codes_used, size), strict=True), 1
        ):
            figures[f"perplexity_{book}"], figures[f"used_{book}"] = float(spread), float(share)
        return figures

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings, all codebooks of them, and the first alone."""
        for number, utterance in enumerate(self._valid_utterances()[:3], 1):
            audio = self._read(utterance)
            codes = self.model.encode_levels(audio)
            sounds = {"original": audio, "restored": self.model.decode_levels(codes)}
            sounds["first"] = self.model.decode_levels(codes[:, :1])
            for label, sound in sounds.items():
                clip = AudioClip(sound[0].float().cpu().numpy(), self.model.sample_rate_hz)
                write_audio(folder / f"{number}_{label}.wav", clip)

    def _read(self, utterance: Utterance) -> Audio:
        clip = utterance.read(sample_rate_hz=self.model.sample_rate_hz, channels=1)
        return torch.from_numpy(clip.samples)[None].to(next(self.model.parameters()).device)

    def _valid_utterances(self) -> list[Utterance]:
        """Validation recordings, spread over the manifest; training ones where there is no validation split."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        count = min(len(manifest), self.config.evaluate_items)
        return [manifest[index * len(manifest) // count] for index in range(count)]

    def describe(self, batch: CropBatch) -> str:
        """What a crop is, and who teaches."""
        items, _, samples = batch.audio.shape
        rate = self.model.sample_rate_hz
        return (
            f"{items} crops of {samples / rate:.2f} s ({samples // self.model.hop} codec frames) at {rate} Hz out of "
            f"{len(self.train_manifest)} recordings; teacher {self.config.teacher} ({self.teacher.width} channels); "
            "every sample carries loss"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on, and the teacher."""
        teacher = self.config.teacher
        known = (
            teacher
            if teacher == MEL_TEACHER
            else checkpoint.identity(hub.locate(teacher.rpartition("@")[0] or teacher))
        )
        return {
            "data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)},
            "teacher": {"name": teacher, "identity": known},
        }

    def warnings(self) -> list[str]:
        """Codebooks that have collapsed."""
        if self.model.quantizer.is_warming_up:
            return []
        limit = max(1.5, 0.05 * self.model.codebook_size)
        return [
            f"codebook {book} has collapsed: it uses about {value:.0f} of {self.model.codebook_size} codes; lower "
            "loop.optimizer.learning_rate or raise model.rvq.warmup_steps"
            for book, value in enumerate(self.model.quantizer.perplexity().tolist(), 1)
            if value < limit
        ]


def distillation(semantic: Semantic, taught: Semantic) -> Scalar:
    """-log sigmoid of each channel's cosine over time, averaged (the paper's D-axis loss)."""
    return -F.logsigmoid(F.cosine_similarity(semantic.float(), taught, dim=1)).mean()
