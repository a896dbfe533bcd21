"""The verb of a language model that learned to speak: say."""

from typing import Any

from torch import nn

from voder.checkpoint import Checkpoint
from voder.generate.decode import Session
from voder.generate.voices import CodecSpeaker, codec_in
from voder.roles import Codec
from voder.sequence.assemble import Stream
from voder.sequence.voices import Text
from voder.shapes import Codes
from voder.systems.llmtts.layout import Layout, spell
from voder.systems.llmtts.model import LlmTts
from voder.train.base_lm import tokenizer_of


class LlmTtsSpeaker(CodecSpeaker):
    """A voice that reads tokens of a language model."""

    model: LlmTts
    layout: Layout

    def __init__(self, model: LlmTts, codec: Codec, tokenizer: Any) -> None:
        super().__init__(model, codec, model.layout, together=32)
        self.tokenizer = tokenizer

    def spell(self, text: str) -> Text:
        """Tokens, single spaces between the words."""
        return spell(self.tokenizer, text)

    def session(self, text: Stream, audio: Stream, room: int) -> Session:
        """A batch of which codebook 1 goes on; at most `room` codes follow."""
        return self.model.session(text, audio, room)

    def fill(self, text: Stream, frames: Stream, codes: Codes) -> Codes:
        """Put in the other codebooks at target frames."""
        assert self.model.nar is not None
        return self.model.nar.fill(self.model.read_text(text), frames, codes)


def load_speaker(model: nn.Module, found: Checkpoint) -> LlmTtsSpeaker:
    """Join a loaded model with the codec and the tokenizer inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint lacks one of them.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    assert isinstance(model, LlmTts)
    codec = codec_in(found, model.config.codec_identity)
    return LlmTtsSpeaker(model, codec, tokenizer_of(model.config.tokenizer, found.parts, found.folder))
