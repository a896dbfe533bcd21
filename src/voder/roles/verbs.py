"""What whole systems do: transcribe, translate, say, answer, go on, converse."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal, final

import numpy as np
from torch import nn

from voder.audio.io import AudioClip
from voder.roles.clips import Waveform, as_clip


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
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({})
    """What `reply` takes beside the ways of sampling, with the values that each may have."""

    @abstractmethod
    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        """The assistant's next turn; `want` asks for one of `gives`. Text that looks like a special token stays text.

        Raises:
            InputError: a turn holds what the model does not take, or the history is longer than its context.
        """
