"""How a request or a training string becomes two streams: the one place that training and speaking share.

    text   [tag or no tag] ([prompt text ...] [separator]) [target text ...] [end of text]
    audio  ([begin prompt] [prompt codes ...]) [begin] [target codes ...] [end]

Text ids are the language model's own; marks and codes are new ids behind them, so none can be confused with text.
Text and its audio share a time line (a token of text advances by the mean length of one), and a prompt's pair lies far
to the left, as in valle. The language model itself counts positions as it always does.
"""

from dataclasses import dataclass, replace

import numpy as np
from torch import Tensor

from voder.data.joins import UNKNOWN
from voder.errors import TextError, TokensError
from voder.sequence.assemble import Piece, Stream
from voder.sequence.vocab import Vocabulary
from voder.systems.llmtts.config import LlmTtsConfig
from voder.text.subwords import encode

NO_SPEAKER, SEPARATOR, TEXT_END = 0, 1, 2
"""Numbers in the range `mark`."""
TARGET, PROMPT = 0, 1
"""Segments."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Whose voice: a speaker's number, a prompt, both or neither."""

    speaker: int = UNKNOWN
    prompt_codes: np.ndarray | None = None
    """Int `[codebook, frame]`."""
    prompt_text: tuple[int, ...] = ()
    """Its text, in tokens."""


def vocabulary(config: LlmTtsConfig) -> Vocabulary:
    """The language model's ids, then codes and their end (these alone can be said), then marks and speakers."""
    return Vocabulary.stacked(
        text=config.lm.vocabulary_size,
        code=config.codebook_size,
        end=1,
        begin=1,
        begin_prompt=1,
        mark=3,
        speaker=len(config.speakers),
    )


class Layout:
    """Lays out streams under one configuration."""

    def __init__(self, config: LlmTtsConfig) -> None:
        self.config = config
        self.ids = vocabulary(config)
        self.first_new = self.ids["code"].start
        self.end = self.ids["end"].start - self.first_new
        """The end of speech, counted from the first new id, as the output layers count."""
        # one position more than the longest prompt reads keeps the two lines apart
        self.prompt_start = -float(config.max_prompt_frames + 2)

    def text(self, tokens: tuple[int, ...], voice: Voice) -> list[Piece]:
        """The text stream of one row.

        Raises:
            TextError: a text that is empty or too long.
        """
        stride = self.config.frames_per_token
        tag = self._mark(NO_SPEAKER) if voice.speaker == UNKNOWN else self.ids.ids("speaker", voice.speaker)
        pieces = [Piece(np.array([tag]), -stride, segment=TARGET)]
        if voice.prompt_codes is not None:
            prompt = self._tokens(voice.prompt_text) if voice.prompt_text else np.array([], np.int64)
            ids = np.append(prompt, self._mark(SEPARATOR))
            pieces.append(Piece(ids, self.prompt_start, stride, segment=PROMPT))
        ids = np.append(self._tokens(tokens), self._mark(TEXT_END))
        return [*pieces, Piece(ids, 0.0, stride, segment=TARGET)]

    def audio_prompt(self, voice: Voice) -> list[Piece]:
        """What is read of a prompt: its first codebook; nothing of it is learned."""
        if voice.prompt_codes is None:
            return []
        begin = self.ids["begin_prompt"].start
        codes = self._codes(voice.prompt_codes[0])
        return [Piece.reading(codes, begin=begin, end=0, start=self.prompt_start, segment=PROMPT, loss=False)]

    def audio_target(self, codes: np.ndarray) -> Piece:
        """What is read and predicted of the target's first codebook `[frame]` (empty: only the begin).

        Targets are counted from the first new id.
        """
        reading = Piece.reading(self._codes(codes), begin=self.ids["begin"].start, end=self.ids["end"].start)
        assert reading.targets is not None
        return replace(reading, targets=reading.targets - self.first_new)

    def frames(self, num_frames: int, voice: Voice) -> list[Piece]:
        """Frames of prompt and target for the other codebooks; ids are not read."""
        target = Piece(np.zeros(num_frames, np.int64), 1.0, segment=TARGET)
        if voice.prompt_codes is None:
            return [target]
        prompt = np.zeros(voice.prompt_codes.shape[1], np.int64)
        return [Piece(prompt, self.prompt_start + 1, segment=PROMPT), target]

    def is_text(self, ids: Tensor) -> Tensor:
        """Where ids are the language model's own."""
        return ids < self.first_new

    def marks(self, text: Stream) -> Stream:
        """The same stream with numbers of its marks and speakers from 1, and 0 for text."""
        start = self.ids["mark"].start
        return replace(text, ids=(text.ids - start + 1).clamp(min=0))

    @property
    def num_marks(self) -> int:
        """Numbers that `marks` gives."""
        return 1 + self.ids["mark"].size + self.ids["speaker"].size

    def _mark(self, number: int) -> int:
        return self.ids.ids("mark", number)

    def _codes(self, codes: np.ndarray) -> np.ndarray:
        """Ids of codes.

        Raises:
            TokensError: a code of another codec.
        """
        try:
            return self.ids.ids("code", codes.astype(np.int64))
        except ValueError as error:
            raise TokensError(
                f"codes reach {codes.min()} to {codes.max()}, but this model knows 0 to "
                f"{self.config.codebook_size - 1}: they are of another codec"
            ) from error

    def _tokens(self, tokens: tuple[int, ...]) -> np.ndarray:
        if not tokens:
            raise TextError("the text is empty; give something to say")
        if len(tokens) > self.config.max_text:
            raise TextError(
                f"the text has {len(tokens)} tokens; this model says at most {self.config.max_text} at once: split it"
            )
        return self.ids.ids("text", np.asarray(tokens, np.int64))


def spell(tokenizer: object, text: str) -> tuple[int, ...]:
    """Tokens of a text, single spaces between its words; what looks like a special token stays text."""
    return tuple(encode(tokenizer, " ".join(text.split())))
