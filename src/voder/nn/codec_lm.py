"""The two halves of a codec language model (VALL-E, 2301.02111, section 4): codebook 1 token by token, the other
codebooks in parallel, one codebook at a time.

Both read a text stream and an audio stream (`voder.sequence.assemble.Stream`) that bring their own positions and
segments, so the layout of a system stays outside. The text sees itself in both directions and never the audio,
so one pass over it serves a whole utterance. Either stream may instead come as vectors that a language model made of
it (2401.00246).

Differences from the paper: rotary positions instead of sinusoids, the output layer of codebook 1 has weights of
its own, and segments tell a prompt from what follows it.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.attention import padding_mask, prefix_causal_mask
from voder.nn.cache import StaticCache
from voder.nn.dropout import ByteDropout
from voder.nn.transformer import Transformer, TransformerConfig
from voder.sequence.assemble import Stream
from voder.shapes import Codes, Embeddings, Tokens

NUM_SEGMENTS = 2
"""Target and prompt."""


def embedding(num_ids: int, width: int) -> nn.Embedding:
    """An embedding that starts small against the residual stream's branches."""
    table = nn.Embedding(num_ids, width)
    nn.init.normal_(table.weight, std=0.1)
    return table


class TextReader(nn.Module):
    """Embeds ids and their segments."""

    def __init__(self, num_ids: int, width: int) -> None:
        super().__init__()
        self.ids = embedding(num_ids, width)
        self.segments = embedding(NUM_SEGMENTS, width)

    def forward(self, stream: Stream) -> Embeddings:
        """Embed a stream."""
        return self.ids(stream.ids) + self.segments(stream.segments)


@dataclass(frozen=True)
class ReadStream(Stream):
    """A stream that another network has read."""

    vectors: Embeddings
    """What it made of every position."""

    @classmethod
    def of(cls, stream: Stream, vectors: Embeddings) -> "ReadStream":
        """Put the vectors beside their stream."""
        return cls(**vars(stream), vectors=vectors)


class VectorReader(nn.Module):
    """Projects the vectors of a stream that was read elsewhere, and adds embeddings of ids and segments.

    The ids are those of marks that the other network knows nothing of; 0 stands for none.
    """

    def __init__(self, num_ids: int, width: int, from_width: int) -> None:
        super().__init__()
        self.projection = nn.Linear(from_width, width)
        self.ids = embedding(num_ids, width)
        self.segments = embedding(NUM_SEGMENTS, width)

    def forward(self, stream: ReadStream) -> Embeddings:
        """Embed a stream."""
        return self.join(stream.vectors, stream.ids, stream.segments)

    def join(self, vectors: Float[Tensor, "batch position read"], ids: Tokens, segments: Tokens) -> Embeddings:
        """Embed new positions of a stream."""
        return self.projection(vectors) + self.ids(ids) + self.segments(segments)


def reader(num_ids: int, width: int, from_width: int | None) -> TextReader | VectorReader:
    """A reader of ids, or of vectors with `from_width` channels."""
    return TextReader(num_ids, width) if from_width is None else VectorReader(num_ids, width, from_width)


class CoarseDecoder(nn.Module):
    """Predicts codes of the first codebook from text and the codes so far."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        num_text_ids: int,
        num_audio_ids: int,
        num_outputs: int,
        text_width: int | None = None,
        audio_width: int | None = None,
    ) -> None:
        """With `text_width` or `audio_width`, that stream comes as a `ReadStream` of vectors this wide."""
        super().__init__()
        self.text = reader(num_text_ids, config.width, text_width)
        self.audio = reader(num_audio_ids, config.width, audio_width)
        self.dropout = ByteDropout(config.dropout)
        self.transformer = Transformer(config)
        self.head = nn.Linear(config.width, num_outputs)

    def forward(
        self, text: Stream, audio: Stream, cache: StaticCache | None = None
    ) -> Float[Tensor, "batch position output"]:
        """Logits of what follows each audio position; a cache given is filled with text and audio."""
        x = self.dropout(torch.cat((self.text(text), self.audio(audio)), dim=1))
        positions = torch.cat((text.positions, audio.positions), dim=1)
        mask = prefix_causal_mask(text.valid, audio.valid)
        hidden = self.transformer(x, positions=positions, mask=mask, cache=cache)
        return self.head(hidden[:, text.ids.shape[1] :])


class CoarseSession:
    """A batch being decoded: reads text and audio prompt once, then one id per row and step."""

    def __init__(self, decoder: CoarseDecoder, text: Stream, audio: Stream, room: int) -> None:
        """`room` is the number of steps that may follow; rows of `audio` may have different lengths."""
        self.decoder = decoder
        num_read = text.ids.shape[1] + audio.ids.shape[1]
        self.cache = StaticCache(decoder.transformer.config.num_layers, num_read + room)
        self._text, self._audio = text, audio
        self._valid = torch.cat((text.valid, audio.valid), dim=1)
        last = audio.valid.sum(dim=1, keepdim=True) - 1
        self._last = last
        self._position = audio.positions.gather(1, last)
        self._segment = audio.segments.gather(1, last)

    def start(self) -> Float[Tensor, "batch output"]:
        """Read text and prompt; logits of the first id."""
        logits = self.decoder(self._text, self._audio, self.cache)
        return logits.gather(1, self._last[:, :, None].expand(-1, -1, logits.shape[-1]))[:, 0]

    def step(self, ids: Tensor) -> Float[Tensor, "batch output"]:
        """Append one id per row; logits of the next."""
        self._position = self._position + 1
        self._valid = torch.cat((self._valid, torch.ones_like(ids[:, None], dtype=torch.bool)), dim=1)
        x = self.embed(ids[:, None], self._segment)
        hidden = self.decoder.transformer(x, positions=self._position, mask=self._valid[:, None, :], cache=self.cache)
        return self.decoder.head(hidden[:, 0])

    def embed(self, ids: Tokens, segments: Tokens) -> Embeddings:
        """What the decoder reads of new audio ids."""
        return self.decoder.audio.ids(ids) + self.decoder.audio.segments(segments)

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self.cache.select(rows)
        self._valid, self._position = self._valid[rows], self._position[rows]
        self._segment = self._segment[rows]


class FineDecoder(nn.Module):
    """Predicts the codes of one finer codebook for all frames at once."""

    def __init__(
        self,
        config: TransformerConfig,
        *,
        num_text_ids: int,
        num_codebooks: int,
        codebook_size: int,
        text_width: int | None = None,
    ) -> None:
        """With `text_width`, the text comes as a `ReadStream` of vectors this wide."""
        super().__init__()
        self.num_codebooks = num_codebooks
        self.text = reader(num_text_ids, config.width, text_width)
        self.codes = nn.ModuleList(embedding(codebook_size, config.width) for _ in range(num_codebooks))
        self.segments = embedding(NUM_SEGMENTS, config.width)
        self.stages = embedding(num_codebooks - 1, config.width)
        self.dropout = ByteDropout(config.dropout)
        self.transformer = Transformer(config, condition_width=config.width)
        self.heads = nn.ModuleList(nn.Linear(config.width, codebook_size) for _ in range(num_codebooks - 1))

    def forward(self, text: Stream, frames: Stream, codes: Codes, stage: int) -> Float[Tensor, "batch position output"]:
        """Logits of codebook `stage` (from 1) at every frame.

        `codes` holds all codebooks; of target frames (segment 0) only those below `stage` are read, of prompt
        frames all.
        """
        is_prompt = (frames.segments == 1)[:, :, None]
        summed = self.segments(frames.segments)
        for book, table in enumerate(self.codes):
            embedded = table(codes[:, book])
            summed = summed + (embedded if book < stage else embedded * is_prompt)
        x = self.dropout(torch.cat((self.text(text), summed), dim=1))
        mask = padding_mask(torch.cat((text.valid, frames.valid), dim=1))
        positions = torch.cat((text.positions, frames.positions), dim=1)
        condition = self.stages.weight[stage - 1][None]
        hidden = self.transformer(x, positions=positions, mask=mask, condition=condition)
        return self.heads[stage - 1](hidden[:, text.ids.shape[1] :])

    def fill(self, text: Stream, frames: Stream, codes: Codes) -> Codes:
        """Choose the most probable code of every finer codebook, stage by stage, at target frames."""
        is_target = frames.segments == 0
        for stage in range(1, self.num_codebooks):
            chosen = self(text, frames, codes, stage).argmax(dim=-1)
            codes = codes.clone()
            codes[:, stage] = torch.where(is_target, chosen, codes[:, stage])
        return codes
