"""Parts that systems are made of: audio to codes, vectors or units, and back."""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.io import AudioClip
from voder.errors import ConfigError
from voder.roles.clips import Waveform, as_clip, collate_clips, device_of, fit_clip
from voder.shapes import Audio, Codes, Embeddings, Lengths, Mask, Tokens


@dataclass(frozen=True, kw_only=True)
class Encoded:
    """What a codec makes of a batch of audio."""

    codes: Codes
    """One id per codebook and frame."""
    lengths: Lengths
    """Valid frames of each item."""
    num_samples: Lengths
    """Samples that each item had."""
    scale: Tensor | None = None
    """Loudness taken out before encoding, where the codec does so."""


class Stream(ABC):
    """One signal, taken and given piece by piece; what leaves in all is what the whole signal gives."""

    @abstractmethod
    def push(self, piece: Tensor | None = None, *, last: bool = False) -> Tensor:
        """Take a piece `[batch, …, time]` of any length, or none; return what is certain by now, in time order."""


class Codec(nn.Module, ABC):
    """Audio to codes and back."""

    sample_rate_hz: int
    channels: int
    hop: int
    """Samples per frame."""
    num_codebooks: int
    codebook_size: int

    @property
    def frame_rate_hz(self) -> float:
        """Frames per second."""
        return float(Fraction(self.sample_rate_hz, self.hop))

    @property
    def bitrate_bps(self) -> float:
        """Bits per second of the codes, without entropy coding."""
        return self.frame_rate_hz * self.num_codebooks * math.log2(self.codebook_size)

    @property
    def is_causal(self) -> bool:
        """True when nothing looks ahead, so that recordings may come and go piece by piece."""
        return False

    def encoding_stream(self, num_codebooks: int | None = None) -> Stream:
        """Encode live: push samples, get codes.

        Raises:
            ConfigError: the codec is not causal.
        """
        raise ConfigError(f"this {type(self).__name__} is not causal: it works on whole recordings, not piece by piece")

    def decoding_stream(self) -> Stream:
        """Decode live: push codes, get samples.

        Raises:
            ConfigError: the codec is not causal.
        """
        raise ConfigError(f"this {type(self).__name__} is not causal: it works on whole recordings, not piece by piece")

    @abstractmethod
    def encode_batch(
        self, audio: Audio, lengths: Lengths | None = None, *, num_codebooks: int | None = None
    ) -> Encoded:
        """Encode a zero-padded batch at the codec's own rate; padding changes no code."""

    @abstractmethod
    def decode_batch(self, encoded: Encoded) -> Audio:
        """Decode a batch; samples beyond an item's `num_samples` are zero."""

    @final
    @torch.no_grad()
    def encode(self, audio: Waveform, sample_rate_hz: int | None = None) -> np.ndarray:
        """Encode one recording of any rate and channel count into codes `[codebook, frame]`."""
        clip = fit_clip(as_clip(audio, sample_rate_hz), sample_rate_hz=self.sample_rate_hz, channels=self.channels)
        encoded = self.encode_batch(*collate_clips([clip], device_of(self)))
        return encoded.codes[0].cpu().numpy()

    @final
    @torch.no_grad()
    def decode(self, codes: np.ndarray | Tensor) -> AudioClip:
        """Decode codes `[codebook, frame]` of one recording."""
        batch = torch.as_tensor(codes, device=device_of(self))[None].long()
        frames = torch.tensor([batch.shape[-1]], device=batch.device)
        audio = self.decode_batch(Encoded(codes=batch, lengths=frames, num_samples=frames * self.hop))
        return AudioClip(audio[0].float().cpu().numpy(), self.sample_rate_hz)


@dataclass(frozen=True, kw_only=True)
class Features:
    """What an encoder makes of a batch of audio."""

    values: Embeddings
    """One vector per position."""
    valid: Mask
    """Which positions belong to each item."""


class Encoder(nn.Module, ABC):
    """Audio to a sequence of vectors."""

    sample_rate_hz: int
    width: int
    """Channels of a vector."""

    @abstractmethod
    def encode_batch(self, audio: Audio, lengths: Lengths | None = None, *, layer: int | None = None) -> Features:
        """Encode a zero-padded batch at the encoder's own rate; the valid positions of an item are those it has alone.

        `layer` counts the blocks that are run (1 is the first one's output); all of them and the final norm if not
        given.
        """

    @final
    @torch.no_grad()
    def features(self, audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> np.ndarray:
        """Encode one recording of any rate and channel count into vectors `[position, channel]`."""
        clip = fit_clip(as_clip(audio, sample_rate_hz), sample_rate_hz=self.sample_rate_hz, channels=1)
        encoded = self.encode_batch(*collate_clips([clip], device_of(self)))
        return encoded.values[0, encoded.valid[0]].float().cpu().numpy()


@dataclass(frozen=True, kw_only=True)
class Units:
    """Discrete units of one recording, each with how many positions it lasts."""

    units: np.ndarray
    """Ids `[unit]`."""
    durations: np.ndarray
    """Positions `[unit]` that each unit lasts: ones where repeats were kept."""

    def deduplicated(self) -> "Units":
        """Merge what repeats; durations add up."""
        if not len(self.units):
            return self
        starts = np.flatnonzero(np.concatenate([[True], self.units[1:] != self.units[:-1]]))
        return Units(units=self.units[starts], durations=np.add.reduceat(self.durations, starts))

    def expanded(self) -> np.ndarray:
        """One id per position."""
        return np.repeat(self.units, self.durations)


class UnitTokenizer(nn.Module, ABC):
    """Audio to discrete units, one per position; they say what is said more than who says it."""

    sample_rate_hz: int
    hop: int
    """Samples per position."""
    num_units: int

    @property
    @abstractmethod
    def identity(self) -> str:
        """A name for exactly this tokenizer: encoder, layer, normalisation and centres."""

    @abstractmethod
    def units_batch(self, audio: Audio, lengths: Lengths | None = None) -> tuple[Tokens, Lengths]:
        """Units of a zero-padded batch at the tokenizer's own rate, and how many of each row are valid."""

    @final
    @torch.no_grad()
    def encode(self, audio: Waveform, sample_rate_hz: int | None = None, *, dedup: bool = False) -> Units:
        """Units of one recording of any rate and channel count."""
        clip = fit_clip(as_clip(audio, sample_rate_hz), sample_rate_hz=self.sample_rate_hz, channels=1)
        units, lengths = self.units_batch(*collate_clips([clip], device_of(self)))
        row = units[0, : int(lengths[0])].cpu().numpy()
        found = Units(units=row, durations=np.ones_like(row))
        return found.deduplicated() if dedup else found


class Generator(nn.Module, ABC):
    """Discrete units to audio."""

    sample_rate_hz: int
    hop: int
    """Samples per position."""
    num_units: int

    @abstractmethod
    def generate_batch(
        self, units: Tokens, lengths: Lengths | None = None, *, predict_durations: bool = False
    ) -> tuple[Audio, Lengths]:
        """Audio of a padded batch of units, and the valid samples of each row; padding changes none of them."""

    @final
    @torch.no_grad()
    def generate(self, units: np.ndarray | Tensor | Units, *, predict_durations: bool = False) -> AudioClip:
        """Audio of one sequence of units `[position]`; durations are predicted for merged units, or their own kept."""
        if isinstance(units, Units):
            units = units.units if predict_durations else units.expanded()
        row = torch.as_tensor(units, device=device_of(self)).long()[None]
        audio, lengths = self.generate_batch(row, predict_durations=predict_durations)
        return AudioClip(audio[0, :, : int(lengths[0])].float().cpu().numpy(), self.sample_rate_hz)


class SpeakerEncoder(nn.Module, ABC):
    """Audio to one unit vector that says whose voice it is."""

    sample_rate_hz: int
    width: int
    """Channels of the vector."""

    @abstractmethod
    def embed_batch(self, audio: Audio, lengths: Lengths | None = None) -> Float[Tensor, "batch channel"]:
        """Vectors of length one of a zero-padded batch at the encoder's own rate; padding changes none of them."""

    @final
    @torch.no_grad()
    def embed(self, audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> np.ndarray:
        """The vector `[channel]` of one recording of any rate and channel count; cosines compare voices."""
        clip = fit_clip(as_clip(audio, sample_rate_hz), sample_rate_hz=self.sample_rate_hz, channels=1)
        return self.embed_batch(*collate_clips([clip], device_of(self)))[0].float().cpu().numpy()


class ImageTokenizer(nn.Module, ABC):
    """Images to codes and back."""

    num_tokens: int
    """Codes of an image."""
    codebook_size: int

    @abstractmethod
    def encode_images(self, images: Float[Tensor, "batch 3 row column"]) -> Tokens:
        """Codes of images with values from 0 to 1."""

    @abstractmethod
    def decode_images(self, codes: Tokens) -> Float[Tensor, "batch ..."]:
        """What an image generator is conditioned on."""
