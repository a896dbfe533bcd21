"""The verb of a trained voice: say."""

from torch import nn

from voder.checkpoint import Checkpoint
from voder.config import from_dict
from voder.generate.voices import CodecSpeaker, codec_in
from voder.nn.codec_lm import CoarseSession
from voder.roles import Codec, Speaker
from voder.sequence.assemble import Stream
from voder.sequence.voices import Text
from voder.shapes import Codes
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.layout import Layout
from voder.systems.valle.model import Valle
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_speaker import OriginalSpeaker


class ValleSpeaker(CodecSpeaker):
    """A voice that reads characters."""

    model: Valle
    layout: Layout

    def __init__(self, model: Valle, codec: Codec) -> None:
        super().__init__(model, codec, Layout(model.config), together=64)

    def spell(self, text: str) -> Text:
        """Unicode NFKC, single spaces, small letters if configured."""
        return self.layout.spell(text)

    def session(self, text: Stream, audio: Stream, room: int) -> CoarseSession:
        """A batch of which codebook 1 goes on; at most `room` codes follow."""
        return CoarseSession(self.model.ar, text, audio, room)

    def fill(self, text: Stream, frames: Stream, codes: Codes) -> Codes:
        """Put in the other codebooks at target frames."""
        assert self.model.nar is not None
        return self.model.nar.fill(text, frames, codes)


def load_speaker(model: nn.Module, found: Checkpoint) -> Speaker:
    """Join a loaded model with the codec inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint holds no codec.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    config = from_dict(ValleConfig, found.config, where=str(found.folder))
    codec = codec_in(found, config.codec_identity)
    if isinstance(model, OriginalValle):
        return OriginalSpeaker(model, codec, symbols=config.symbols)
    assert isinstance(model, Valle)
    return ValleSpeaker(model, codec)
