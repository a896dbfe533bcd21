"""Units to audio: HiFi-GAN's generator (2010.05646) behind an embedding of units and a predictor of durations.

The unit vocoder of Polyak et al. (2104.00355) with the durations of Lee et al. (2107.05604), and its variants with
speakers and languages (Seamless) or with mel frames in place of units (SpeechT5). What stands beside a sequence in a
batch changes nothing: every convolution sees zeros beyond an item's end, as it does alone.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from voder.errors import ConfigError, TokensError
from voder.roles import Generator
from voder.shapes import Audio, Embeddings, Lengths, Mask, Mel, Tokens
from voder.systems.unitvocoder.config import DurationConfig, HifiGanConfig, VocoderConfig

Signal = Float[Tensor, "batch channel frame"]


def _only(x: Signal, valid: Mask | None) -> Signal:
    return x if valid is None else x.masked_fill(~valid[:, None], 0.0)


class ResidualBlock(nn.Module):
    """Pairs of a dilated and a plain convolution, each added to what came in."""

    def __init__(self, channels: int, kernel: int, config: HifiGanConfig) -> None:
        super().__init__()
        self.slope = config.slope

        def conv(dilation: int) -> nn.Module:
            padding = dilation * (kernel - 1) // 2
            made = nn.Conv1d(channels, channels, kernel, dilation=dilation, padding=padding)
            return weight_norm(made) if config.weight_norm else made

        self.dilated = nn.ModuleList(conv(dilation) for dilation in config.block_dilations)
        self.plain = nn.ModuleList(conv(1) for _ in config.block_dilations)

    def forward(self, x: Signal, valid: Mask | None) -> Signal:
        for dilated, plain in zip(self.dilated, self.plain, strict=True):
            y = dilated(F.leaky_relu(_only(x, valid), self.slope))
            x = x + plain(F.leaky_relu(_only(y, valid), self.slope))
        return x


class HifiGan(nn.Module):
    """Frames to audio: one sample per frame and upsampling rate."""

    def __init__(self, input_dim: int, config: HifiGanConfig) -> None:
        super().__init__()
        self.config = config

        def normed(layer: nn.Module) -> nn.Module:
            return weight_norm(layer) if config.weight_norm else layer

        channels = config.initial_channels
        self.first = normed(nn.Conv1d(input_dim, channels, 7, padding=3))
        self.upsamplers, self.blocks = nn.ModuleList(), nn.ModuleList()
        for rate, kernel in zip(config.upsample_rates, config.upsample_kernels, strict=True):
            up = nn.ConvTranspose1d(channels, channels // 2, kernel, stride=rate, padding=(kernel - rate) // 2)
            channels //= 2
            self.upsamplers.append(normed(up))
            self.blocks.extend(ResidualBlock(channels, size, config) for size in config.block_kernels)
        self.last = normed(nn.Conv1d(channels, 1, 7, padding=3))

    def forward(self, frames: Signal, valid: Mask | None = None) -> Float[Tensor, "batch 1 sample"]:
        """Audio in [-1, 1]; beyond an item's valid frames it is rubbish."""
        x, count = self.first(_only(frames, valid)), len(self.config.block_kernels)
        for number, (up, rate) in enumerate(zip(self.upsamplers, self.config.upsample_rates, strict=True)):
            x = up(F.leaky_relu(_only(x, valid), self.config.slope))
            valid = None if valid is None else valid.repeat_interleave(rate, dim=1)
            made = [block(x, valid) for block in self.blocks[number * count : (number + 1) * count]]
            x = sum(made[1:], made[0]) / count
        # the original's last activation has torch's default slope
        return torch.tanh(self.last(F.leaky_relu(_only(x, valid), 0.01)))


class DurationPredictor(nn.Module):
    """Two convolutions, each with ReLU and LayerNorm: the logarithm of a unit's duration plus one."""

    def __init__(self, dim: int, config: DurationConfig) -> None:
        super().__init__()
        hidden, kernel = config.hidden_dim, config.kernel
        self.conv1 = nn.Conv1d(dim, hidden, kernel, padding=(kernel - 1) // 2)
        self.norm1 = nn.LayerNorm(hidden)
        self.conv2 = nn.Conv1d(hidden, hidden, kernel, padding=(kernel - 1) // 2)
        self.norm2 = nn.LayerNorm(hidden)
        self.dropout = nn.Dropout(config.dropout)
        self.project = nn.Linear(hidden, 1)

    def forward(self, embedded: Embeddings, valid: Mask | None = None) -> Float[Tensor, "batch position"]:
        x = embedded.transpose(1, 2)
        x = self.dropout(self.norm1(F.relu(self.conv1(_only(x, valid))).transpose(1, 2))).transpose(1, 2)
        x = self.dropout(self.norm2(F.relu(self.conv2(_only(x, valid))).transpose(1, 2)))
        return self.project(x)[..., 0]


@dataclass(frozen=True)
class Rows:
    """Sequences of units without what is invalid in them, padded."""

    units: Tokens
    valid: Mask

    @property
    def lengths(self) -> Lengths:
        """Units of each row."""
        return self.valid.sum(dim=1)


class UnitVocoder(Generator):
    """Units, or mel frames, to audio."""

    mean: Tensor
    scale: Tensor

    def __init__(self, config: VocoderConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = config.sample_rate_hz
        self.num_units = config.num_units
        self.hop = math.prod(config.generator.upsample_rates)
        self.generator = HifiGan(config.input_dim, config.generator)
        if config.source == "mel":
            self.register_buffer("mean", torch.zeros(config.mel_bands))
            self.register_buffer("scale", torch.ones(config.mel_bands))
            return
        self.units = nn.Embedding(config.num_units, config.unit_dim)
        self.speakers = nn.Embedding(config.num_speakers, config.speaker_dim) if config.num_speakers else None
        self.languages = nn.Embedding(config.num_languages, config.language_dim) if config.num_languages else None
        self.durations = DurationPredictor(config.unit_dim, config.durations) if config.durations else None

    def generate_batch(
        self,
        units: Tokens,
        lengths: Lengths | None = None,
        *,
        predict_durations: bool = False,
        speaker: int = 0,
        language: int = 0,
    ) -> tuple[Audio, Lengths]:
        """Say units; negative ones are left out, as fairseq does.

        Raises:
            TokensError: a row without units, or with ids that are too high.
            ConfigError: durations, a speaker or a language asked of a model that has none.
        """
        rows = self._rows(units, lengths)
        frames = self.units(rows.units)
        counts = rows.lengths
        valid = rows.valid
        if predict_durations:
            repeats = self.predict(rows.units, valid).masked_fill(~valid, 0)
            frames, counts = self.stretch(frames, repeats), repeats.sum(dim=1)
            valid = torch.arange(frames.shape[1], device=frames.device)[None] < counts[:, None]
        audio = self.synthesise(frames, valid, speaker=speaker, language=language)
        samples = counts * self.hop
        inside = torch.arange(audio.shape[-1], device=audio.device)[None] < samples[:, None]
        return audio.masked_fill(~inside[:, None], 0.0), samples

    def predict(self, units: Tokens, valid: Mask | None = None) -> Int[Tensor, "batch position"]:
        """Frames that each unit lasts, at least one; halves are rounded to even.

        Raises:
            ConfigError: there is no predictor.
        """
        return torch.expm1(self.log_durations(units, valid)).round().long().clamp(min=1)

    def log_durations(self, units: Tokens, valid: Mask | None = None) -> Float[Tensor, "batch position"]:
        """Logarithms of durations plus one, before rounding.

        Raises:
            ConfigError: there is no predictor.
        """
        if self.config.source != "units" or self.durations is None:
            raise ConfigError("this vocoder predicts no durations: give it one unit per frame, repeats included")
        return self.durations(self.units(units), valid)

    def stretch(
        self, frames: Embeddings, repeats: Int[Tensor, "batch position"]
    ) -> Float[Tensor, "batch frame channel"]:
        """Repeat every position as often as is said, row by row, and pad with zeros."""
        rows = [row.repeat_interleave(count, dim=0) for row, count in zip(frames, repeats, strict=True)]
        return nn.utils.rnn.pad_sequence(rows, batch_first=True)

    def synthesise(
        self, frames: Embeddings, valid: Mask | None = None, *, speaker: int = 0, language: int = 0
    ) -> Float[Tensor, "batch 1 sample"]:
        """Audio of embedded units, one per frame.

        Raises:
            ConfigError: a speaker or language that the model does not have.
        """
        parts = [frames]
        for table, number, name in ((self.languages, language, "language"), (self.speakers, speaker, "speaker")):
            count = 0 if table is None else table.num_embeddings
            if not 0 <= number < max(count, 1):
                raise ConfigError(f"{name} {number} is unknown to this vocoder; allowed are 0 to {max(count, 1) - 1}")
            if table is not None:
                extra = table.weight[number].expand(*frames.shape[:2], -1)
                parts = [extra, *parts] if name == "language" else [*parts, extra]
        return self.generator(torch.cat(parts, dim=-1).transpose(1, 2), valid)

    def vocode(self, mel: Mel, valid: Mask | None = None) -> Audio:
        """Audio of log-mel frames.

        Raises:
            ConfigError: this vocoder reads units.
        """
        if self.config.source != "mel":
            raise ConfigError("this vocoder reads units, not mel frames")
        if self.config.normalize_mel:
            mel = (mel - self.mean[:, None]) / self.scale[:, None]
        return self.generator(mel, valid)

    def _rows(self, units: Tokens, lengths: Lengths | None) -> Rows:
        if self.config.source != "units":
            raise ConfigError("this vocoder reads mel frames, not units")
        if lengths is None:
            lengths = torch.full((len(units),), units.shape[1], device=units.device)
        kept = [row[: int(count)] for row, count in zip(units, lengths, strict=True)]
        kept = [row[row >= 0] for row in kept]
        for number, row in enumerate(kept):
            if not len(row):
                raise TokensError(f"sequence {number} has no unit to say; give at least one that is not negative")
            if int(row.max()) >= self.num_units:
                raise TokensError(
                    f"sequence {number} has unit {int(row.max())}; this vocoder knows 0 to {self.num_units - 1}"
                )
        padded = nn.utils.rnn.pad_sequence(kept, batch_first=True)
        counts = torch.tensor([len(row) for row in kept], device=units.device)
        return Rows(padded, torch.arange(padded.shape[1], device=units.device)[None] < counts[:, None])
