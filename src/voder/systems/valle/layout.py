"""Text is read as characters, under ids of its own; see `voder.sequence.voices` for the streams."""

import unicodedata

import numpy as np

from voder.sequence.vocab import Vocabulary
from voder.sequence.voices import NUM_MARKS, Text, VoiceLayout
from voder.systems.valle.config import ValleConfig
from voder.text.tokenizer import SymbolTokenizer


def text_vocabulary(num_symbols: int, num_speakers: int) -> Vocabulary:
    """Ids of the text stream."""
    return Vocabulary.stacked(mark=NUM_MARKS, symbol=num_symbols, speaker=num_speakers)


def audio_vocabulary(codebook_size: int) -> Vocabulary:
    """Ids of the audio stream; codes and end come first: they alone can be said."""
    return Vocabulary.stacked(code=codebook_size, end=1, begin=1, begin_prompt=1)


class Layout(VoiceLayout):
    """Lays out streams under one configuration."""

    counted = "characters"

    def __init__(self, config: ValleConfig) -> None:
        super().__init__(
            config,
            text_ids=text_vocabulary(len(config.symbols), len(config.speakers)),
            audio_ids=audio_vocabulary(config.codebook_size),
            stride=config.frames_per_symbol,
            longest=config.max_frames_per_symbol,
        )
        self.tokenizer = SymbolTokenizer(config.symbols, unit="characters")
        self.lowercase = config.lowercase

    def spell(self, text: str) -> str:
        """Text as it is spelled: Unicode NFKC, single spaces, small letters if configured."""
        return spell(text, lowercase=self.lowercase)

    def spelled(self, text: Text) -> np.ndarray:
        """Ids of characters; TextError names those that nobody can say."""
        assert isinstance(text, str)
        return self.text_ids.ids("symbol", np.asarray(self.tokenizer.encode(text), dtype=np.int64))


def spell(text: str, *, lowercase: bool) -> str:
    """Unicode NFKC, single spaces, small letters if asked for."""
    spaced = " ".join(unicodedata.normalize("NFKC", text).split())
    return spaced.lower() if lowercase else spaced
