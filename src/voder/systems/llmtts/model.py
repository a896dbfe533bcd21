"""Speech from a language model of text, in the three ways of "Boosting Large Language Model for Speech Synthesis"
(2401.00246): A, codes in its vocabulary; B, VALL-E upon its hidden states of text and codes; C, VALL-E upon those of
the text.

VALL-E's halves are those of `voder.nn.codec_lm`. The other codebooks are VALL-E's affair in all three; their network
reads the language model's hidden states of the text and teaches it nothing.
"""

from dataclasses import replace

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.codec_lm import CoarseDecoder, CoarseSession, FineDecoder, ReadStream, VectorReader
from voder.sequence.assemble import Stream
from voder.shapes import Codes, Embeddings, Tokens
from voder.systems.llmtts.config import LlmTtsConfig
from voder.systems.llmtts.layout import Layout
from voder.systems.llmtts.reader import Reader, Steps, TextMemory

Logits = Float[Tensor, "batch position output"]


class LlmTts(nn.Module):
    """`reader` reads, `ar` (None when the language model speaks itself) says codebook 1, `nar` fills in the others."""

    def __init__(self, config: LlmTtsConfig) -> None:
        super().__init__()
        self.config = config
        self.layout = Layout(config)
        num_outputs, width = config.codebook_size + 1, config.lm.width
        reads_codes, speaks = config.method != "coupled", config.method == "vocabulary"
        self.reader = Reader(
            config,
            num_new=self.layout.ids.size - config.lm.vocabulary_size if reads_codes else 0,
            num_said=num_outputs if speaks else 0,
        )
        marks = self.layout.num_marks
        self.ar = (
            None
            if speaks
            else CoarseDecoder(
                config.ar,
                num_text_ids=marks,
                num_audio_ids=1 if reads_codes else num_outputs + 2,
                num_outputs=num_outputs,
                text_width=width,
                audio_width=width if reads_codes else None,
            )
        )
        self.nar = (
            FineDecoder(
                config.nar,
                num_text_ids=marks,
                num_codebooks=config.num_codebooks,
                codebook_size=config.codebook_size,
                text_width=width,
            )
            if config.num_codebooks > 1
            else None
        )

    def read_text(self, text: Stream, memory: TextMemory | None = None) -> ReadStream:
        """The text as the language model reads it, before any code.

        Coupled, it reads each text by itself, so that what it makes of one can be kept; otherwise the whole stream.
        """
        marks = self.layout.marks(text)
        if self.config.method != "coupled":
            return ReadStream.of(marks, self.reader.hidden(self.reader.embed(text.ids), text.valid))
        places = _runs(text.valid & self.layout.is_text(text.ids))
        texts = [tuple(text.ids[row, start:stop].tolist()) for row, start, stop in places]
        hidden = self.reader.read_texts(texts, memory)
        vectors = torch.zeros(*text.ids.shape, self.config.lm.width, device=text.ids.device, dtype=hidden[0].dtype)
        for (row, start, stop), found in zip(places, hidden, strict=True):
            vectors[row, start:stop] = found
        return ReadStream.of(marks, vectors)

    def read_both(self, text: Stream, audio: Stream, steps: Steps | None = None) -> tuple[ReadStream, ReadStream]:
        """Text and codes as the language model reads them in one row; `steps` given remember it."""
        embeddings = torch.cat((self.reader.embed(text.ids), self.reader.embed(audio.ids)), dim=1)
        valid = torch.cat((text.valid, audio.valid), dim=1)
        hidden = (steps.start if steps else self.reader.hidden)(embeddings, valid)
        first = text.ids.shape[1]
        unmarked = replace(audio, ids=torch.zeros_like(audio.ids))
        return ReadStream.of(self.layout.marks(text), hidden[:, :first]), ReadStream.of(unmarked, hidden[:, first:])

    def local(self, audio: Stream) -> Stream:
        """The audio stream with ids counted from the first new one, as `ar` embeds them when coupled."""
        return replace(audio, ids=(audio.ids - self.layout.first_said).clamp(min=0))

    def coarse(self, text: Stream, audio: Stream, memory: TextMemory | None = None) -> Logits:
        """Logits of code or end behind each audio position."""
        if self.config.method == "coupled":
            assert self.ar is not None
            return self.ar(self.read_text(text, memory), self.local(audio))
        read, heard = self.read_both(text, audio)
        return self.reader.said_logits(heard.vectors) if self.ar is None else self.ar(read, heard)

    def fine(self, text: Stream, frames: Stream, codes: Codes, stage: int, memory: TextMemory | None = None) -> Logits:
        """Logits of codebook `stage` (from 1) at every frame."""
        assert self.nar is not None
        with torch.no_grad():
            read = self.read_text(text, memory)
        return self.nar(read, frames, codes, stage)

    def session(self, text: Stream, audio: Stream, room: int) -> "CoarseSession | VocabularySession":
        """A batch that goes on speaking."""
        if self.config.method == "vocabulary":
            return VocabularySession(self, text, audio)
        if self.config.method == "superposed":
            return SuperposedSession(self, text, audio, room)
        assert self.ar is not None
        return CoarseSession(self.ar, self.read_text(text), self.local(audio), room)


class VocabularySession:
    """Method A: the language model says codes itself."""

    def __init__(self, model: LlmTts, text: Stream, audio: Stream) -> None:
        self.model, self._text, self._audio = model, text, audio
        self._steps = Steps(model.reader)

    def start(self) -> Float[Tensor, "batch output"]:
        """Read text and prompt; logits of the first code."""
        _, heard = self.model.read_both(self._text, self._audio, self._steps)
        last = self._audio.valid.sum(dim=1)[:, None, None] - 1
        hidden = heard.vectors.gather(1, last.expand(-1, -1, heard.vectors.shape[-1]))
        return self.model.reader.said_logits(hidden)[:, 0]

    def step(self, ids: Tensor) -> Float[Tensor, "batch output"]:
        """Append one code per row; logits of the next."""
        reader = self.model.reader
        return reader.said_logits(self._steps.step(reader.embed(ids[:, None] + self.model.layout.first_said)))[:, 0]

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self._steps.select(rows)


class SuperposedSession(CoarseSession):
    """Method B: two caches, the language model's and VALL-E's."""

    def __init__(self, model: LlmTts, text: Stream, audio: Stream, room: int) -> None:
        assert model.ar is not None
        self.model, self._steps = model, Steps(model.reader)
        super().__init__(model.ar, *model.read_both(text, audio, self._steps), room)

    def embed(self, ids: Tokens, segments: Tokens) -> Embeddings:
        """What VALL-E reads of new codes: the language model's hidden states of them."""
        reader, join = self.model.reader, self.decoder.audio
        assert isinstance(join, VectorReader)
        hidden = self._steps.step(reader.embed(ids + self.model.layout.first_said))
        return join.join(hidden, torch.zeros_like(ids), segments)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        super().select(rows)
        self._steps.select(rows)


def _runs(mask: Tensor) -> list[tuple[int, int, int]]:
    """Row, start and stop of every stretch of True."""
    found = []
    for row, flags in enumerate(mask.tolist()):
        start = None
        for place, flag in enumerate([*flags, False]):
            if flag and start is None:
                start = place
            elif not flag and start is not None:
                found.append((row, start, place))
                start = None
    return found
