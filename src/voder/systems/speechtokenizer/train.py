"""Training of SpeechTokenizer: a codec's losses, and a teacher for the first codebook (2308.16692, §3.2).

The distillation compares time courses: for every channel, the cosine between the first codebook's vectors (read by
a linear layer) and the teacher's over the whole crop, through a log-sigmoid. Losses have fixed weights, as in the
authors' trainer. The discriminator is EnCodec's over complex spectrograms; the paper adds two over waveforms.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.audio.features import LogMel, MelConfig
from voder.errors import ConfigError
from voder.nn.quantize import ResidualVectorQuantizer
from voder.roles import Encoder
from voder.shapes import Audio, Latents, Scalar
from voder.systems.speechtokenizer.config import (
    MEL_BANDS,
    MEL_TEACHER,
    SpeechTokenizerConfig,
    SpeechTokenizerTaskConfig,
)
from voder.systems.speechtokenizer.model import Semantic, SpeechTokenizerCodec
from voder.train.codec import CodecTask, CropBatch
from voder.train.task import Loss


class Teacher(nn.Module):
    """What the first codebook learns from: an Encoder, or a log-mel spectrogram."""

    def __init__(self, name: str, sample_rate_hz: int) -> None:
        """Load it.

        Raises:
            CheckpointError: nothing trained of that name, or it is no Encoder.
            ConfigError: it hears another sample rate, or the layer is not a number.
        """
        super().__init__()
        place, self.layer = _place(name)
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


class SpeechTokenizerTask(CodecTask):
    """Reconstruction, distillation, commitment, adversary."""

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

    def __init__(
        self, model: SpeechTokenizerCodec, config: SpeechTokenizerTaskConfig, data: Path, *, seed: int
    ) -> None:
        super().__init__(model, config, data, seed=seed)
        self.teacher = Teacher(config.teacher, self.rate)
        if self.teacher.width != self.model.config.semantic_width:
            raise ConfigError(
                f"the teacher {config.teacher} has {self.teacher.width} channels but model.semantic_width is "
                f"{self.model.config.semantic_width}; begin from a checkpoint of the same teacher"
            )

    def latents(self, audio: Audio) -> Latents:
        """What the quantizer reads of crops."""
        latents: Tensor = self.model.encoder(audio)
        return latents

    @property
    def learned_codebooks(self) -> ResidualVectorQuantizer:
        """The quantizer."""
        return self.model.quantizer

    def losses(self, batch: CropBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The discriminator's loss, then the codec's."""
        audio, config = batch.audio, self.config
        self.fit_codebooks(audio.device)
        made = self.model(audio)
        rivalry = self.is_adversarial and step >= config.discriminator_start
        if rivalry:
            yield "discriminator", self.told_apart(audio, made.audio)
        distance = self.mel_distance.to(audio.device)(made.audio.flatten(0, 1), audio.flatten(0, 1))
        taught = self.teacher.to(audio.device)(audio, made.semantic.shape[1])
        terms: dict[str, tuple[float, Scalar]] = {
            "waveform": (config.waveform_weight, (made.audio - audio).abs().mean()),
            "mel": (config.mel_weight, distance[0]),
            "distillation": (config.distillation_weight, distillation(made.semantic, taught)),
            "commitment": (config.commitment_weight, made.quantized.commitment),
        }
        if rivalry:
            weights = {"adversarial": config.adversarial_weight, "features": config.feature_weight}
            terms |= {name: (weights[name], term) for name, term in self.rivalry(made.audio, audio).items()}
        value = torch.stack([share * term for share, term in terms.values()]).sum()
        logs: dict[str, Tensor | float] = {name: term.detach() for name, (_, term) in terms.items()}
        logs["perplexity"] = made.quantized.perplexity.mean()
        yield "generator", Loss(value=value, weight=float(len(audio)), logs=logs)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log-mel distance of all codebooks and of the first alone, likeness to the teacher, use of the codes."""
        distances: list[float] = []
        first: list[float] = []
        alike, used = [], []
        device = next(self.model.parameters()).device
        teacher = self.teacher.to(device)
        for utterance in self.valid_utterances():
            audio = self.read(utterance)
            codes = self.model.encode_levels(audio)
            for found, kept in ((distances, codes), (first, codes[:, :1])):
                found.append(self.distance(self.model.decode_levels(kept)[..., : audio.shape[-1]], audio))
            semantic = self.model.semantic_of(codes)
            alike.append(float(F.cosine_similarity(semantic, teacher(audio, semantic.shape[1]), dim=1).mean()))
            used.append(codes[0].cpu().numpy())
        figures = {"score": float(np.mean(distances)), "mel_distance": float(np.mean(distances))}
        figures |= {"mel_distance_of_first": float(np.mean(first)), "teacher_cosine": float(np.mean(alike))}
        return figures | self.figures_of_codes(used)

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings, all codebooks of them, and the first alone."""
        for number, utterance in enumerate(self.valid_utterances()[:3], 1):
            audio = self.read(utterance)
            codes = self.model.encode_levels(audio)
            sounds = {"original": audio, "restored": self.model.decode_levels(codes)}
            sounds["first"] = self.model.decode_levels(codes[:, :1])
            for label, sound in sounds.items():
                self.write(folder / f"{number}_{label}.wav", sound)

    def describe(self, batch: CropBatch) -> str:
        """What a crop is, and who teaches."""
        return f"{super().describe(batch)}; teacher {self.config.teacher} ({self.teacher.width} channels)"

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on, and the teacher."""
        teacher, place = self.config.teacher, _place(self.config.teacher)[0]
        known = teacher if teacher == MEL_TEACHER else checkpoint.identity(hub.locate(place))
        return super().provenance() | {"teacher": {"name": teacher, "identity": known}}


def distillation(semantic: Semantic, taught: Semantic) -> Scalar:
    """-log sigmoid of each channel's cosine over time, averaged (the paper's D-axis loss)."""
    return -F.logsigmoid(F.cosine_similarity(semantic.float(), taught, dim=1)).mean()


def _place(teacher: str) -> tuple[str, int | None]:
    """The checkpoint of a teacher and its layer, if one is named behind `@`."""
    place, at, layer = teacher.rpartition("@")
    if not at:
        return teacher, None
    if not layer.isdecimal():
        raise ConfigError(f"task.teacher is {teacher!r}; behind @ a layer's number is wanted")
    return place, int(layer)
