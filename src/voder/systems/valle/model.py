"""VALL-E (2301.02111): the network. One decoder for the first codebook, one for the others.

The paper's sinusoidal positions are rotary here, text and audio share a time line (`voder.sequence.voices`),
and a prompt is marked as such instead of being any prefix.
"""

from torch import nn

from voder.nn.codec_lm import CoarseDecoder, FineDecoder
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.layout import audio_vocabulary, text_vocabulary
from voder.systems.valle.original import OriginalValle


class Valle(nn.Module):
    """`ar` reads text and codes of the first codebook; `nar` (None for a codec of one codebook) fills in the others."""

    def __init__(self, config: ValleConfig) -> None:
        super().__init__()
        self.config = config
        num_text_ids = text_vocabulary(len(config.symbols), len(config.speakers)).size
        audio_ids = audio_vocabulary(config.codebook_size)
        self.ar = CoarseDecoder(
            config.ar,
            num_text_ids=num_text_ids,
            num_audio_ids=audio_ids.size,
            num_outputs=audio_ids["end"].end,
        )
        self.nar = (
            FineDecoder(
                config.nar,
                num_text_ids=num_text_ids,
                num_codebooks=config.num_codebooks,
                codebook_size=config.codebook_size,
            )
            if config.num_codebooks > 1
            else None
        )


def build(config: ValleConfig) -> Valle | OriginalValle:
    """Our network, or the original's where the configuration has one."""
    return Valle(config) if config.original is None else OriginalValle(config.original)
