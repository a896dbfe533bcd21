"""Training of the vocoder: crops of recordings and their units, log-mel distance, HiFi-GAN's game, durations.

The units are the first codebook of a token store (`voder tokenize` with a hubert that has cluster centres, or with any
codec); the tokenizer's checkpoint travels with the vocoder, because its units mean nothing to another one.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from fractions import Fraction
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Int
from torch import Tensor, nn

from voder.audio.io import AudioClip, write_audio
from voder.data.cache import Kept
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.errors import ConfigError, FittedPartMismatch, TokensError
from voder.nn.losses import MelL1Loss
from voder.roles import Units
from voder.shapes import Audio, Lengths, Scalar, Tokens
from voder.systems.unitvocoder.config import VocoderConfig, VocoderTaskConfig
from voder.systems.unitvocoder.discriminators import (
    HifiGanDiscriminator,
    discriminator_squares,
    feature_distance,
    generator_squares,
)
from voder.systems.unitvocoder.model import UnitVocoder
from voder.train.task import Loss, Task, TensorBatch

_MERGED_UNITS = 256  # merged units of a recording that durations are learnt from, at most
_MEL_SAMPLES = 1024


@dataclass
class VocoderBatch(TensorBatch):
    """Crops and their units; and merged units of whole recordings with their durations."""

    audio: Audio
    units: Int[Tensor, "batch frame"]
    merged: Int[Tensor, "batch unit"]
    durations: Int[Tensor, "batch unit"]
    merged_lengths: Lengths


class SpokenUnits:
    """Recordings at the vocoder's rate with the first codebook of their tokens."""

    def __init__(self, split: TokenSplit, *, sample_rate_hz: int, hop: int, max_bytes: int) -> None:
        self.split, self.sample_rate_hz, self.hop = split, sample_rate_hz, hop
        self._kept = Kept[np.ndarray](max_bytes, lambda samples: samples.nbytes)

    def __getitem__(self, index: int) -> tuple[np.ndarray, np.ndarray]:
        """Units `[frame]` and samples `[frame * hop]`, padded with silence where the last frame ends later."""
        units = self.split.codes(index)[0]
        samples = self._kept.get(index, partial(self._samples, index))[: len(units) * self.hop]
        return units, np.pad(samples, (0, len(units) * self.hop - len(samples)))

    def _samples(self, index: int) -> np.ndarray:
        return self.split.utterance(index).read(sample_rate_hz=self.sample_rate_hz, channels=1).samples[0]


class VocoderTask(Task):
    """Log-mels, adversaries, features, durations."""

    batch_setting = "task.batch_items"
    model: UnitVocoder
    config: VocoderTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: VocoderConfig, task_config: VocoderTaskConfig, data: Path, start: VocoderConfig | None = None
    ) -> VocoderConfig:
        """Take number, length and meaning of the units from the tokens.

        Raises:
            ConfigError: a vocoder of mel frames, or one whose frames cannot be as long as those of the tokens.
            FittedPartMismatch: the vocoder to go on from reads units of another tokenizer.
        """
        info, base = TokenStore.open(data).tokenizer, model_config if start is None else start
        rate = Fraction(info.sample_rate_hz * math.prod(base.generator.upsample_rates), info.hop)
        if base.source != "units" or rate.denominator != 1:
            raise ConfigError(
                f"the tokens of {data} last {1000 * info.hop / info.sample_rate_hz:g} ms each; a vocoder of units "
                f"with upsample_rates {base.generator.upsample_rates} has no whole sample rate for that: change them"
            )
        if start is not None and start.tokenizer not in (None, info.identity):
            raise FittedPartMismatch(
                f"this vocoder was trained on units of {start.tokenizer} but those of {data} are of {info.identity}"
            )
        return replace(base, num_units=info.codebook_size, tokenizer=info.identity, sample_rate_hz=int(rate))

    def __init__(self, model: nn.Module, config: VocoderTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        if self.model.config.tokenizer is not None:
            self.store.require(self.model.config.tokenizer)
        train = self.store.split("train")
        self.spoken = self._spoken(train)
        self.eligible = np.flatnonzero(train.lengths >= config.crop_frames)
        if not len(self.eligible):
            raise TokensError(
                f"no recording of {data} is as long as a crop of {config.crop_frames} frames; lower task.crop_frames"
            )
        self._shares = train.lengths[self.eligible] / train.lengths[self.eligible].sum()
        self.mel = MelL1Loss(sample_rate_hz=self.model.sample_rate_hz)
        self.discriminator = HifiGanDiscriminator(
            channels=config.discriminator_channels, periods=config.periods, scales=config.scales
        )

    def _spoken(self, split: TokenSplit) -> SpokenUnits:
        rate, hop = self.model.sample_rate_hz, self.model.hop
        return SpokenUnits(split, sample_rate_hz=rate, hop=hop, max_bytes=self.config.cache_mb * 2**20)

    @property
    def is_adversarial(self) -> bool:
        """Whether discriminators take part at all."""
        return self.config.discriminator_start >= 0

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The discriminators, if any, and the vocoder."""
        rival = {"discriminator": self.discriminator} if self.is_adversarial else {}
        return {**rival, "generator": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        """What a resumed run needs beside the vocoder."""
        return {"discriminator": self.discriminator} if self.is_adversarial else {}

    def batch(self, step: int, rank: int, world: int) -> VocoderBatch:
        """This rank's share of the step's crops; they do not depend on how many ranks there are."""
        audio, units, merged = [], [], []
        for item in range(rank, self.config.batch_items, world):
            rng = generator(self.seed, "crop", step, item)
            ids, samples = self.spoken[int(rng.choice(self.eligible, p=self._shares))]
            first = int(rng.integers(len(ids) - self.config.crop_frames + 1))
            last, hop = first + self.config.crop_frames, self.model.hop
            audio.append(samples[None, first * hop : last * hop])
            units.append(ids[first:last])
            merged.append(Units(units=ids, durations=np.ones_like(ids)).deduplicated())
        most = min(_MERGED_UNITS, max(len(row.units) for row in merged))
        return VocoderBatch(
            audio=torch.from_numpy(np.stack(audio)),
            units=torch.from_numpy(np.stack(units)),
            merged=_padded([row.units for row in merged], most),
            durations=_padded([row.durations for row in merged], most),
            merged_lengths=torch.tensor([min(most, len(row.units)) for row in merged]),
        )

    def losses(self, batch: VocoderBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The discriminators' loss, then the vocoder's."""
        weight, config = float(len(batch.audio)), self.config
        made = self.model.synthesise(self.model.units(batch.units))
        fights = self.is_adversarial and step >= config.discriminator_start
        if fights:
            real, fake = self.discriminator(batch.audio).logits, self.discriminator(made.detach()).logits
            yield "discriminator", Loss(value=discriminator_squares(real, fake), weight=weight)
        terms = {"mel": config.mel_weight * self.mel.to(made.device)(made, batch.audio)}
        if self.model.durations is not None:
            terms["duration"] = config.duration_weight * self._duration_error(batch)
        if fights:
            with torch.no_grad():
                wanted = self.discriminator(batch.audio)
            judged = self.discriminator(made)
            terms["adversarial"] = generator_squares(judged.logits)
            terms["features"] = config.feature_weight * feature_distance(wanted.features, judged.features)
        value = torch.stack(list(terms.values())).sum()
        yield "generator", Loss(value=value, weight=weight, logs={name: t.detach() for name, t in terms.items()})

    def _duration_error(self, batch: VocoderBatch) -> Scalar:
        positions = torch.arange(batch.merged.shape[1], device=batch.merged.device)
        valid = positions[None] < batch.merged_lengths[:, None]
        predicted = self.model.log_durations(batch.merged, valid)
        return F.mse_loss(predicted[valid].float(), batch.durations[valid].float().log1p())

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Log-mel distance of validation recordings made from their own units; error of predicted durations."""
        distances, errors = [], []
        device = next(self.model.parameters()).device
        for units, samples in self._valid():
            audio = torch.from_numpy(samples)[None, None].to(device)
            made, _ = self.model.generate_batch(torch.from_numpy(units)[None].to(device))
            distances.append(float(self.mel.to(device)(made, audio)))
            if self.model.durations is not None:
                merged = Units(units=units, durations=np.ones_like(units)).deduplicated()
                guessed = self.model.predict(torch.from_numpy(merged.units)[None].to(device))[0].cpu().numpy()
                errors.append(float(np.abs(guessed - merged.durations).mean()))
        figures = {"score": float(np.mean(distances)), "mel_distance": float(np.mean(distances))}
        return figures | ({"duration_error_frames": float(np.mean(errors))} if errors else {})

    def _valid(self) -> list[tuple[np.ndarray, np.ndarray]]:
        splits = self.store.splits
        split = self.store.split("valid" if "valid" in splits and len(self.store.split("valid")) else "train")
        # the mel of a shorter recording cannot be padded by reflection
        long = np.flatnonzero(split.lengths * self.model.hop >= _MEL_SAMPLES)
        count = min(len(long), self.config.evaluate_items)
        if not count:
            raise TokensError(f"no recording of {self.data} is long enough to be judged")
        spoken = self._spoken(split)
        return [spoken[int(long[index * len(long) // count])] for index in range(count)]

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings, and what their units sound like."""
        for number, (units, samples) in enumerate(self._valid()[:3], 1):
            write_audio(folder / f"{number}_original.wav", AudioClip(samples[None], self.model.sample_rate_hz))
            write_audio(folder / f"{number}_units.wav", self.model.generate(units), synthetic=True)

    def parts(self) -> dict[str, Path]:
        """The tokenizer whose units this vocoder reads."""
        return {"tokenizer": self.store.tokenizer_folder}

    def describe(self, batch: VocoderBatch) -> str:
        """What a crop is."""
        items, _, samples = batch.audio.shape
        return (
            f"{items} crops of {samples / self.model.sample_rate_hz:.2f} s ({batch.units.shape[1]} units) out of "
            f"{len(self.eligible)} recordings that are long enough, of {len(self.spoken.split)}; the first has units "
            f"{batch.units[0, :12].tolist()}; every sample carries loss, and "
            f"{int(batch.merged_lengths.sum())} durations"
        )

    def provenance(self) -> dict[str, Any]:
        """The tokenizer and how much there was to learn from."""
        return {"tokenizer": self.model.config.tokenizer, "data": {"recordings": len(self.spoken.split)}}


def _padded(rows: list[np.ndarray], width: int) -> Tokens:
    padded = torch.zeros(len(rows), width, dtype=torch.int64)
    for row, values in zip(padded, rows, strict=True):
        row[: len(values)] = torch.from_numpy(values)[:width]
    return padded
