"""A voice of codes: its settings, and how a request or a training string becomes two streams (VALL-E, 2301.02111).

    text   [tag or no tag] ([prompt text ...] [separator]) [target text ...] [end of text]
    audio  ([begin prompt] [prompt codes ...]) [begin] [target codes ...] [end]

Text and its audio share a time line: the target's begin at 0, and an item of text (a character, a token) advances by
its mean length in frames, so text and codes that belong together lie at about the same position. A prompt's pair lies
on the same kind of line far to the left. So a prompted string is, for everything but the voice, the same problem as one
whose voice is named by a tag. Segments tell prompt and target apart as well.

Training and speaking both lay out by what is here, and so agree.
"""

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace

import numpy as np

from voder.errors import TextError, TokensError
from voder.sequence.assemble import Piece
from voder.sequence.vocab import Vocabulary

UNKNOWN = -1
"""Speaker of clips whose speaker is not known."""
NO_SPEAKER, SEPARATOR, TEXT_END = 0, 1, 2
"""Numbers in the range `mark`."""
NUM_MARKS = 3
TARGET, PROMPT = 0, 1
"""Segments."""
Text = str | tuple[int, ...]
"""What is read: characters, or tokens of a language model."""


@dataclass(frozen=True, kw_only=True)
class VoiceConfig:
    """What a voice was fitted on, and how long a thing it says."""

    speakers: tuple[str, ...] = ()
    """Voices that can be asked for by tag, in the order of their ids; taken from the training data."""
    codec_identity: str = ""
    """Which codec made the tokens (`voder.checkpoint.identity`); taken from the training data."""
    num_codebooks: int = 4
    """Codes per frame; taken from the training data."""
    codebook_size: int = 256
    """Ids per codebook; taken from the training data."""
    frame_rate_hz: float = 25.0
    """Frames per second; taken from the training data."""
    max_text: int = 64
    """Longest text, in characters or tokens."""
    max_frames: int = 160
    """Longest speech, in frames."""
    max_prompt_frames: int = 80
    """Longest prompt, in frames."""
    min_prompt_frames: int = 8
    """Shortest prompt, in frames."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Whose voice: a speaker's number, a prompt, both or neither."""

    speaker: int = UNKNOWN
    prompt_codes: np.ndarray | None = None
    """Int `[codebook, frame]`."""
    prompt_text: Text = ""
    """What is said in it; empty where that is not given."""


@dataclass(frozen=True, kw_only=True)
class VoiceRow:
    """A text, its codes and whose voice: one row of a batch."""

    text: Text
    codes: np.ndarray
    """Int `[codebook, frame]`."""
    voice: Voice

    @property
    def all_codes(self) -> np.ndarray:
        """Codes of the prompt and those that are said, `[codebook, frame]`."""
        prompt = self.voice.prompt_codes
        return self.codes if prompt is None else np.concatenate((prompt, self.codes), axis=1)


class VoiceLayout(ABC):
    """Lays out the streams of one voice."""

    counted: str
    """What a text consists of, in words."""

    def __init__(
        self, config: VoiceConfig, *, text_ids: Vocabulary, audio_ids: Vocabulary, stride: float, longest: float
    ) -> None:
        """Both vocabularies may be one.

        Args:
            config: sizes and limits.
            text_ids: has the ranges `mark` and `speaker`.
            audio_ids: has the ranges `code` and `end`, which come first and can be said, `begin` and `begin_prompt`.
            stride: mean frames of one item of text.
            longest: frames of one item of text at which speech is cut.
        """
        self.config, self.text_ids, self.audio_ids = config, text_ids, audio_ids
        self.stride, self.longest = stride, longest
        self.first_said = audio_ids["code"].start
        self.end = audio_ids["end"].start - self.first_said
        """The end of speech, counted from the first code, as output layers count."""
        # one position more than the longest prompt reads keeps the two lines apart
        self.prompt_start = -float(config.max_prompt_frames + 2)

    @abstractmethod
    def spelled(self, text: Text) -> np.ndarray:
        """Ids of a text that is neither empty nor too long."""

    def text(self, text: Text, voice: Voice) -> list[Piece]:
        """The text stream of one row.

        Raises:
            TextError: a character that nobody can say, an empty text or one that is too long.
        """
        tag = self._mark(NO_SPEAKER) if voice.speaker == UNKNOWN else self.text_ids.ids("speaker", voice.speaker)
        pieces = [Piece(np.array([tag]), -self.stride, segment=TARGET)]
        if voice.prompt_codes is not None:
            prompt = self._checked(voice.prompt_text) if voice.prompt_text else np.array([], np.int64)
            ids = np.append(prompt, self._mark(SEPARATOR))
            pieces.append(Piece(ids, self.prompt_start, self.stride, segment=PROMPT))
        ids = np.append(self._checked(text), self._mark(TEXT_END))
        return [*pieces, Piece(ids, 0.0, self.stride, segment=TARGET)]

    def audio_prompt(self, voice: Voice, *, loss: bool = False) -> list[Piece]:
        """What is read of a prompt: its first codebook."""
        if voice.prompt_codes is None:
            return []
        return [self._reading(voice.prompt_codes[0], "begin_prompt", start=self.prompt_start, loss=loss)]

    def audio_target(self, codes: np.ndarray) -> Piece:
        """What is read and predicted of the target's first codebook `[frame]` (empty: only the begin).

        Targets are counted from the first code.
        """
        return self._reading(codes, "begin", start=0.0, loss=True)

    def frames(self, num_frames: int, voice: Voice) -> list[Piece]:
        """Frames of prompt and target for the finer codebooks; ids are not read."""
        target = Piece(np.zeros(num_frames, np.int64), 1.0, segment=TARGET)
        if voice.prompt_codes is None:
            return [target]
        prompt = np.zeros(voice.prompt_codes.shape[1], np.int64)
        return [Piece(prompt, self.prompt_start + 1, segment=PROMPT), target]

    def most_frames(self, text: Text) -> int:
        """Frames at which the speech of a text is cut."""
        spare = self.config.frame_rate_hz / 2
        return min(self.config.max_frames, math.ceil(len(text) * self.longest + spare))

    def _mark(self, number: int) -> int:
        return self.text_ids.ids("mark", number)

    def _checked(self, text: Text) -> np.ndarray:
        if not text:
            raise TextError("the text is empty; give something to say")
        if len(text) > self.config.max_text:
            raise TextError(
                f"the text has {len(text)} {self.counted}; this model says at most {self.config.max_text} at once: "
                "split it"
            )
        return self.spelled(text)

    def _reading(self, codes: np.ndarray, begin: str, *, start: float, loss: bool) -> Piece:
        ids, segment = self.audio_ids, TARGET if begin == "begin" else PROMPT
        piece = Piece.reading(
            self._codes(codes), begin=ids[begin].start, end=ids["end"].start, start=start, segment=segment, loss=loss
        )
        return piece if piece.targets is None else replace(piece, targets=piece.targets - self.first_said)

    def _codes(self, codes: np.ndarray) -> np.ndarray:
        """Ids of codes.

        Raises:
            TokensError: a code of another codec.
        """
        try:
            return self.audio_ids.ids("code", codes.astype(np.int64))
        except ValueError as error:
            raise TokensError(
                f"codes reach {codes.min()} to {codes.max()}, but this model knows 0 to "
                f"{self.config.codebook_size - 1}: they are of another codec"
            ) from error
