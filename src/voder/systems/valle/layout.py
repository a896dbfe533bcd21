"""How a request or a training string becomes two streams: the one place that training and speaking share.

    text   [tag or no tag] ([prompt text ...] [separator]) [target text ...] [end of text]
    audio  ([begin prompt] [prompt codes ...]) [begin] [target codes ...] [end]

Text and its audio share a time line: the target's begin at 0, and a character advances by the mean length of a
character in frames, so text and codes that belong together lie at about the same position. A prompt's pair lies
on the same kind of line far to the left. So a prompted string is, for everything but the voice, the same problem
as one whose voice is named by a tag. Segments tell prompt and target apart as well.
"""

import unicodedata
from dataclasses import dataclass

import numpy as np

from voder.data.joins import UNKNOWN
from voder.errors import TextError
from voder.sequence.assemble import Piece
from voder.sequence.vocab import Vocabulary
from voder.systems.valle.config import ValleConfig
from voder.text.tokenizer import SymbolTokenizer

NO_SPEAKER, SEPARATOR, TEXT_END = 0, 1, 2
"""Numbers in the text vocabulary's range `special`."""
TARGET, PROMPT = 0, 1
"""Segments."""


@dataclass(frozen=True, kw_only=True)
class Voice:
    """Whose voice: a speaker's number, a prompt, both or neither."""

    speaker: int = UNKNOWN
    prompt_codes: np.ndarray | None = None
    """Int `[codebook, frame]`."""
    prompt_text: str | None = None


def text_vocabulary(num_symbols: int, num_speakers: int) -> Vocabulary:
    """Ids of the text stream."""
    return Vocabulary.stacked(special=3, symbol=num_symbols, speaker=num_speakers)


def audio_vocabulary(codebook_size: int) -> Vocabulary:
    """Ids of the audio stream; codes and end come first: they alone can be said."""
    return Vocabulary.stacked(code=codebook_size, end=1, begin=1, begin_prompt=1)


class Layout:
    """Lays out streams under one configuration."""

    def __init__(self, config: ValleConfig) -> None:
        self.config = config
        self.tokenizer = SymbolTokenizer(config.symbols, unit="characters")
        self.text_ids = text_vocabulary(len(config.symbols), len(config.speakers))
        self.audio_ids = audio_vocabulary(config.codebook_size)
        self.end = self.audio_ids["end"].start
        # one position more than the longest prompt reads keeps the two lines apart
        self.prompt_start = -float(config.max_prompt_frames + 2)

    def spell(self, text: str) -> str:
        """Text as it is spelled: Unicode NFKC, single spaces, small letters if configured."""
        return spell(text, lowercase=self.config.lowercase)

    def text(self, text: str, voice: Voice) -> list[Piece]:
        """The text stream of one row; `text` and the prompt's are spelled already.

        Raises:
            TextError: a character that nobody can say, an empty text or one that is too long.
        """
        stride = self.config.frames_per_symbol
        tag = NO_SPEAKER if voice.speaker == UNKNOWN else self.text_ids.ids("speaker", voice.speaker)
        pieces = [Piece(np.array([tag]), -stride, segment=TARGET)]
        if voice.prompt_codes is not None:
            prompt = self._symbols(voice.prompt_text) if voice.prompt_text else np.array([], np.int64)
            ids = np.append(prompt, SEPARATOR)
            pieces.append(Piece(ids, self.prompt_start, stride, segment=PROMPT))
        ids = np.append(self._symbols(text), TEXT_END)
        return [*pieces, Piece(ids, 0.0, stride, segment=TARGET)]

    def audio_prompt(self, voice: Voice, *, loss: bool = False) -> list[Piece]:
        """What the decoder reads of a prompt."""
        if voice.prompt_codes is None:
            return []
        begin = self.audio_ids["begin_prompt"].start
        codes = voice.prompt_codes[0]
        return [Piece.reading(codes, begin=begin, end=self.end, start=self.prompt_start, segment=PROMPT, loss=loss)]

    def audio_target(self, codes: np.ndarray) -> Piece:
        """What the decoder reads and predicts of the target's first codebook `[frame]` (empty: only the begin)."""
        return Piece.reading(codes, begin=self.audio_ids["begin"].start, end=self.end, segment=TARGET)

    def frames(self, num_frames: int, voice: Voice) -> list[Piece]:
        """Frames of prompt and target for the finer codebooks; ids are not read."""
        target = Piece(np.zeros(num_frames, np.int64), 1.0, segment=TARGET)
        if voice.prompt_codes is None:
            return [target]
        prompt = np.zeros(voice.prompt_codes.shape[1], np.int64)
        return [Piece(prompt, self.prompt_start + 1, segment=PROMPT), target]

    def _symbols(self, text: str) -> np.ndarray:
        if not text:
            raise TextError("the text is empty; give something to say")
        if len(text) > self.config.max_text:
            raise TextError(
                f"the text has {len(text)} characters; this model says at most {self.config.max_text} at once: split it"
            )
        return self.text_ids.ids("symbol", np.asarray(self.tokenizer.encode(text), dtype=np.int64))


def spell(text: str, *, lowercase: bool) -> str:
    """Unicode NFKC, single spaces, small letters if asked for."""
    spaced = " ".join(unicodedata.normalize("NFKC", text).split())
    return spaced.lower() if lowercase else spaced
