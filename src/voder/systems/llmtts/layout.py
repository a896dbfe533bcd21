"""Text is read as the language model's own tokens; codes and marks are new ids behind them, so none can be confused
with text. See `voder.sequence.voices` for the streams.

The streams' positions are VALL-E's; the language model itself counts positions as it always does.
"""

from dataclasses import replace

import numpy as np
from torch import Tensor

from voder.sequence.assemble import Stream
from voder.sequence.vocab import Vocabulary
from voder.sequence.voices import NUM_MARKS, Text, VoiceLayout
from voder.systems.llmtts.config import LlmTtsConfig
from voder.text.subwords import encode


def vocabulary(config: LlmTtsConfig) -> Vocabulary:
    """The language model's ids, then codes and their end (these alone can be said), then marks and speakers."""
    return Vocabulary.stacked(
        text=config.lm.vocabulary_size,
        code=config.codebook_size,
        end=1,
        begin=1,
        begin_prompt=1,
        mark=NUM_MARKS,
        speaker=len(config.speakers),
    )


class Layout(VoiceLayout):
    """Lays out streams under one configuration."""

    counted = "tokens"

    def __init__(self, config: LlmTtsConfig) -> None:
        self.ids = vocabulary(config)
        super().__init__(
            config,
            text_ids=self.ids,
            audio_ids=self.ids,
            stride=config.frames_per_token,
            longest=config.max_frames_per_token,
        )

    def spelled(self, text: Text) -> np.ndarray:
        """Ids of tokens."""
        return self.ids.ids("text", np.asarray(text, np.int64))

    def is_text(self, ids: Tensor) -> Tensor:
        """Where ids are the language model's own."""
        return ids < self.first_said

    def marks(self, text: Stream) -> Stream:
        """The same stream with numbers of its marks and speakers from 1, and 0 for text."""
        start = self.ids["mark"].start
        return replace(text, ids=(text.ids - start + 1).clamp(min=0))

    @property
    def num_marks(self) -> int:
        """Numbers that `marks` gives."""
        return 1 + self.ids["mark"].size + self.ids["speaker"].size


def spell(tokenizer: object, text: str) -> tuple[int, ...]:
    """Tokens of a text, single spaces between its words; what looks like a special token stays text."""
    return tuple(encode(tokenizer, " ".join(text.split())))
