"""What a part can be: small abstract classes that systems implement and everything else relies on.

A part is an `nn.Module`, so a system may train it or freeze it. The batched members work on tensors and are
what a system writes; the single-item members are what a user calls, and are written once, here.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.audio.io import AudioClip, read_audio
from voder.errors import AudioError, ConfigError
from voder.shapes import Audio, Codes, Embeddings, Lengths, Mask, Tokens

Waveform = AudioClip | np.ndarray | Tensor
"""What a verb takes as a recording: a clip, or samples `[sample]` or `[channel, sample]` with their rate."""


def as_clip(audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> AudioClip:
    """Return `audio` as a clip.

    Raises:
        AudioError: an array without its sample rate, a rate that contradicts the clip's own, a wrong shape.
    """
    if isinstance(audio, str | Path):
        return read_audio(Path(audio))
    if isinstance(audio, AudioClip):
        if sample_rate_hz is not None and sample_rate_hz != audio.sample_rate_hz:
            raise AudioError(f"the clip says {audio.sample_rate_hz} Hz but sample_rate_hz={sample_rate_hz} was given")
        return audio
    if sample_rate_hz is None:
        raise AudioError("samples came without their rate: pass sample_rate_hz")
    samples = np.asarray(audio.detach().cpu() if isinstance(audio, Tensor) else audio, dtype=np.float32)
    if samples.ndim == 1:
        samples = samples[None]
    if samples.ndim != 2 or samples.size == 0:
        raise AudioError(f"samples have shape {samples.shape}; allowed are [sample] and [channel, sample], not empty")
    if not np.isfinite(samples).all():
        raise AudioError("samples contain NaN or infinite values")
    return AudioClip(samples, sample_rate_hz)


def fit_clip(clip: AudioClip, *, sample_rate_hz: int, channels: int) -> AudioClip:
    """Bring a clip to a part's sample rate and channel count (mono is the mean, stereo from mono a copy)."""
    return clip.with_channels(channels).at_rate(sample_rate_hz)


def collate_clips(clips: Sequence[AudioClip], device: torch.device) -> tuple[Audio, Lengths]:
    """Zero-pad clips of one rate and channel count into a batch."""
    lengths = [clip.num_samples for clip in clips]
    audio = torch.zeros(len(clips), clips[0].samples.shape[0], max(lengths))
    for row, clip in zip(audio, clips, strict=True):
        row[:, : clip.num_samples] = torch.from_numpy(np.ascontiguousarray(clip.samples))
    return audio.to(device), torch.tensor(lengths, device=device)


def device_of(module: nn.Module) -> torch.device:
    """The device that holds a part."""
    return next(module.parameters()).device


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
class Transcript:
    """What a transcriber heard."""

    text: str
    heard_s: float
    """Seconds of audio that were listened to."""
    truncated: bool = False
    """True when audio was left unheard or the text was cut."""
    stop_reason: str = "end"
    """`end`, or what stopped it."""


class Transcriber(nn.Module, ABC):
    """Speech to text."""

    @abstractmethod
    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcribe clips of any rate and channel count; each as if it were alone."""

    @final
    def transcribe(self, audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> Transcript:
        """Transcribe one recording."""
        return self.transcribe_batch([as_clip(audio, sample_rate_hz)])[0]


class Translator(nn.Module, ABC):
    """Speech of any language to English text."""

    @abstractmethod
    def translate_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Translate clips of any rate and channel count; each as if it were alone."""

    @final
    def translate(self, audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> Transcript:
        """Translate one recording."""
        return self.translate_batch([as_clip(audio, sample_rate_hz)])[0]


@dataclass(frozen=True, kw_only=True)
class SayRequest:
    """One thing to say, and whose voice says it: a speaker the model was trained on, a recording, or neither."""

    text: str
    speaker: str | None = None
    """A speaker tag of the training data."""
    prompt: AudioClip | None = None
    """1 to 3 seconds of the voice to imitate."""
    prompt_text: str | None = None
    """What is said in the prompt; needed by models that read it."""


@dataclass(frozen=True, kw_only=True)
class Speech:
    """What a speaker said."""

    clip: AudioClip
    codes: np.ndarray
    """Codes `[codebook, frame]` behind the clip."""
    stop_reason: Literal["end", "limit"]
    truncated: bool
    """True when the length limit cut the speech."""


class Speaker(nn.Module, ABC):
    """Text to speech."""

    @abstractmethod
    def say_batch(self, requests: Sequence[SayRequest], *, seed: int = 0, **sampling: Any) -> list[Speech]:
        """Say several things, each as if it were alone; the same seed gives the same speech."""

    @final
    def say(
        self,
        text: str,
        voice: Waveform | str | Path | None = None,
        *,
        sample_rate_hz: int | None = None,
        voice_text: str | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Speech:
        """Say `text`. `voice` is a speaker tag, a path or a recording of 1 to 3 seconds, or nothing."""
        if isinstance(voice, str) and voice in self.speakers:
            request = SayRequest(text=text, speaker=voice)
        else:
            prompt = None if voice is None else as_clip(voice, sample_rate_hz)
            request = SayRequest(text=text, prompt=prompt, prompt_text=voice_text)
        return self.say_batch([request], seed=seed, **sampling)[0]

    @property
    @abstractmethod
    def speakers(self) -> tuple[str, ...]:
        """Speaker tags that the model was trained on."""

    @property
    def languages(self) -> tuple[str, ...]:
        """Languages that the model is told (`language`, `voice_language`); none if it is told no language."""
        return ()


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


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What a listener says about a recording."""

    text: str
    heard_s: float
    """Seconds of audio that were listened to."""
    truncated: bool = False
    """True when audio was left unheard or the text was cut."""
    stop_reason: str = "end"
    """`end`, or what stopped it."""


class Listener(nn.Module, ABC):
    """A recording and a question to an answer."""

    @abstractmethod
    def answer_batch(
        self, clips: Sequence[AudioClip], questions: Sequence[str], *, seed: int = 0, **sampling: Any
    ) -> list[Answer]:
        """Answer a question about each clip (any rate and channel count), each as if it were alone."""

    @final
    def answer(
        self,
        audio: Waveform | str | Path,
        question: str,
        *,
        sample_rate_hz: int | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Answer:
        """Answer one question about one recording."""
        return self.answer_batch([as_clip(audio, sample_rate_hz)], [question], seed=seed, **sampling)[0]


class Continuer(nn.Module, ABC):
    """The beginning of a recording to its continuation."""

    @abstractmethod
    def continue_batch(
        self, clips: Sequence[AudioClip], *, duration_s: float, seed: int = 0, **sampling: Any
    ) -> list[Speech]:
        """What follows each clip, at most `duration_s` of it and without the clip, each as if it were alone."""

    @final
    def continue_clip(
        self,
        audio: Waveform | str | Path,
        *,
        duration_s: float,
        sample_rate_hz: int | None = None,
        seed: int = 0,
        **sampling: Any,
    ) -> Speech:
        """What follows one recording."""
        clips = [as_clip(audio, sample_rate_hz)]
        return self.continue_batch(clips, duration_s=duration_s, seed=seed, **sampling)[0]


@dataclass(frozen=True, kw_only=True)
class Turn:
    """One turn of a conversation: text, audio and images in the order in which they were given."""

    role: Literal["system", "user", "assistant"]
    parts: tuple["str | AudioClip | np.ndarray", ...]
    """Text, clips, and images `[row, column, colour]` of bytes."""
    stop_reason: str = "end"
    """Of an assistant's turn: `end`, or what stopped it."""
    truncated: bool = False
    """True when a length limit cut the turn."""
    missing: tuple[str, ...] = ()
    """What could not be made, each with what is needed for it; the text was answered all the same."""

    @property
    def text(self) -> str:
        """The text parts, joined by spaces."""
        return " ".join(part for part in self.parts if isinstance(part, str))


class Chatter(nn.Module, ABC):
    """A conversation to its next turn."""

    takes: tuple[Literal["text", "audio", "image"], ...]
    """What a user's turn may hold."""
    gives: tuple[Literal["text", "audio", "image"], ...]
    """What an assistant's turn may hold."""

    @abstractmethod
    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        """The assistant's next turn; `want` asks for one of `gives`. Text that looks like a special token stays text.

        Raises:
            InputError: a turn holds what the model does not take, or the history is longer than its context.
        """


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
