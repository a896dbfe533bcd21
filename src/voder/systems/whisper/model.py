"""Whisper (Radford et al., 2212.04356, section 2.2): a pre-norm transformer from log-mels to text.

Two convolutions halve the frame rate of the mels; the encoder adds fixed sinusoids, the decoder learned positions.
GELU throughout, keys have no bias, and the output layer is the embedding table. Unlike the original, which grows its
cache by hooks and concatenation, a decoding step writes one slot of a cache taken once (`nn/cache`), and the keys and
values that are computed from the audio are kept per recording, however many beams look at them.
"""

import math
from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import AttentionMask, attend
from voder.nn.cache import StaticCache
from voder.shapes import Embeddings, Mel, Tokens
from voder.systems.whisper.config import WhisperConfig
from voder.systems.whisper.features import LogMel

AudioStates = Float[Tensor, "batch audio channel"]
Stream = Float[Tensor, "row position width"]
Heads = Float[Tensor, "item head place channel"]


def sinusoids(length: int, width: int) -> Float[Tensor, "position channel"]:
    """Sines, then cosines, of positions at wavelengths from 2 pi to 10000 * 2 pi."""
    step = math.log(10_000.0) / (width // 2 - 1) if width > 2 else 0.0
    angles = torch.arange(length)[:, None] * torch.exp(-step * torch.arange(width // 2))[None]
    return torch.cat((angles.sin(), angles.cos()), dim=1)


class Attention(nn.Module):
    """Multi-head attention to oneself or to the audio."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width, bias=False)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)

    def split(self, x: Stream) -> Float[Tensor, "row head position channel"]:
        """[batch, position, width] -> [batch, head, position, channel]."""
        return x.view(*x.shape[:2], self.num_heads, -1).transpose(1, 2)

    def keys_and_values(self, x: Stream) -> tuple[Heads, Heads]:
        """What is looked at."""
        return self.split(self.key(x)), self.split(self.value(x))

    def forward(self, x: Stream, key: Heads, value: Heads, mask: AttentionMask | None = None) -> Stream:
        """Look from `x` at keys and values; each item of them is looked at by an equal number of rows of `x`."""
        query = self.split(self.query(x))
        rows, heads, length, channels = query.shape
        items = key.shape[0]
        if items != rows:  # beams of one recording become further positions of one row
            grouped = query.view(items, rows // items, heads, length, channels).transpose(1, 2).flatten(2, 3)
            seen = attend(grouped, key, value, None).view(items, heads, rows // items, length, channels)
            seen = seen.transpose(1, 2).flatten(0, 1)
        else:
            seen = attend(query, key, value, mask)
        return self.out(seen.transpose(1, 2).flatten(2))


class EncoderBlock(nn.Module):
    """Self-attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = Attention(width, num_heads)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 4 * width)
        self.ffn_out = nn.Linear(4 * width, width)

    def feed_forward(self, x: Stream) -> Stream:
        """The second half of a block."""
        return x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))

    def forward(self, x: Stream) -> Stream:
        """Every position looks at every other."""
        normed = self.attention_norm(x)
        return self.feed_forward(x + self.attention(normed, *self.attention.keys_and_values(normed)))


class DecoderBlock(EncoderBlock):
    """The same, with a look at the audio between the two."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__(width, num_heads)
        self.cross_norm = nn.LayerNorm(width)
        self.cross = Attention(width, num_heads)

    def step(
        self, x: Stream, audio: tuple[Heads, Heads], mask: AttentionMask | None, cache: StaticCache | None, layer: int
    ) -> Stream:
        """Look at the past (in the cache, if there is one) and oneself, then at the audio."""
        normed = self.attention_norm(x)
        key, value = self.attention.keys_and_values(normed)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        x = x + self.attention(normed, key, value, mask)
        return self.feed_forward(x + self.cross(self.cross_norm(x), *audio))


class AudioEncoder(nn.Module):
    """Log-mels to one state per 20 ms."""

    positions: Tensor

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.conv1 = nn.Conv1d(config.num_bands, config.width, 3, padding=1)
        self.conv2 = nn.Conv1d(config.width, config.width, 3, stride=2, padding=1)
        self.register_buffer("positions", sinusoids(config.num_audio_positions, config.width))
        self.blocks = nn.ModuleList(
            EncoderBlock(config.width, config.num_heads) for _ in range(config.num_encoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.width)

    def forward(self, mel: Mel, layer: int | None = None) -> AudioStates:
        """Encode windows; after `layer` blocks without the final norm, or after all of them with it."""
        x = F.gelu(self.conv2(F.gelu(self.conv1(mel)))).transpose(1, 2)
        x = x + self.positions[: x.shape[1]].to(x.dtype)
        for block in self.blocks[:layer]:
            x = block(x)
        return self.final_norm(x) if layer is None else x


@dataclass
class AudioMemory:
    """Keys and values of the audio for every decoder layer, one item per recording."""

    layers: list[tuple[Heads, Heads]]
    items: Int[Tensor, " row"]
    """Which item each decoded row looks at; rows of one item stand together, equally many of each."""

    def copy(self, rows: Int[Tensor, " row"] | None = None) -> "AudioMemory":
        """The same keys and values (of some rows), to select from without changing these."""
        copied = AudioMemory(list(self.layers), self.items)
        if rows is not None:
            copied.select(rows)
        return copied

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Keep these rows; an item is stored once if its rows stay together in equal numbers."""
        chosen = self.items[rows]
        kept, counts = torch.unique_consecutive(chosen, return_counts=True)
        together = len(set(kept.tolist())) == len(kept) and int(counts.min()) == int(counts.max())
        kept = kept if together else chosen
        if len(kept) != len(self.layers[0][0]) or not torch.equal(kept, torch.arange(len(kept), device=kept.device)):
            self.layers = [(key[kept], value[kept]) for key, value in self.layers]
        numbers = torch.arange(len(kept), device=kept.device)
        self.items = numbers.repeat_interleave(len(chosen) // len(kept))


class TextDecoder(nn.Module):
    """Ids and audio to logits of the next id."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.embedding = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Parameter(torch.zeros(config.num_text_positions, config.width))
        self.blocks = nn.ModuleList(
            DecoderBlock(config.width, config.num_heads) for _ in range(config.num_decoder_layers)
        )
        self.final_norm = nn.LayerNorm(config.width)
        nn.init.normal_(self.embedding.weight, std=0.02)
        nn.init.normal_(self.positions, std=0.01)

    def remember(self, states: AudioStates) -> AudioMemory:
        """Compute once per window what every step looks at."""
        layers = []
        for block in self.blocks:
            assert isinstance(block, DecoderBlock)
            layers.append(block.cross.keys_and_values(states))
        return AudioMemory(layers, torch.arange(len(states), device=states.device))

    def hidden(
        self,
        ids: Tokens,
        memory: AudioMemory,
        *,
        positions: Tokens | None = None,
        mask: AttentionMask | None = None,
        cache: StaticCache | None = None,
    ) -> Embeddings:
        """Final states of new ids. `mask` covers what the cache holds and the new ids."""
        start = 0 if cache is None else cache.length
        place = self.positions[start : start + ids.shape[1]] if positions is None else self.positions[positions]
        x = self.embedding(ids) + place
        for layer, block in enumerate(self.blocks):
            assert isinstance(block, DecoderBlock)
            x = block.step(x, memory.layers[layer], mask, cache, layer)
        if cache is not None:
            cache.advance(ids.shape[1])
        return self.final_norm(x)

    def logits(self, hidden: Embeddings) -> Float[Tensor, "batch position vocabulary"]:
        """The output layer is the embedding table."""
        return F.linear(hidden, self.embedding.weight).float()

    def forward(self, ids: Tokens, states: AudioStates) -> Float[Tensor, "batch position vocabulary"]:
        """Teacher-forced logits."""
        return self.logits(self.hidden(ids, self.remember(states), mask=causal(ids)))


def causal(ids: Tokens, valid: Bool[Tensor, "batch position"] | None = None) -> AttentionMask:
    """Every position sees itself and the valid ones before it."""
    length = ids.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=ids.device).tril()
    if valid is None:
        return past.expand(len(ids), -1, -1)
    return (past & valid[:, None, :]) | torch.eye(length, dtype=torch.bool, device=ids.device)


class WhisperModel(nn.Module):
    """The network with its mel front end."""

    def __init__(self, config: WhisperConfig) -> None:
        super().__init__()
        self.config = config
        self.log_mel = LogMel(config.num_bands)
        self.encoder = AudioEncoder(config)
        self.decoder = TextDecoder(config)

    def forward(self, mel: Mel, ids: Tokens) -> Float[Tensor, "batch position vocabulary"]:
        """Teacher-forced logits for windows of log-mels."""
        return self.decoder(ids, self.encoder(mel))

    def attention_to_audio(self, ids: Tokens, states: AudioStates) -> Float[Tensor, "layer head position audio"]:
        """Weights (before softmax) with which one row's ids look at its audio: what word times are read from."""
        memory = self.decoder.remember(states)
        x = self.decoder.embedding(ids) + self.decoder.positions[: ids.shape[1]]
        found, mask = [], causal(ids)
        for block, audio in zip(self.decoder.blocks, memory.layers, strict=True):
            assert isinstance(block, DecoderBlock)
            normed = block.attention_norm(x)
            x = x + block.attention(normed, *block.attention.keys_and_values(normed), mask)
            query = block.cross.split(block.cross.query(block.cross_norm(x)))
            found.append((query @ audio[0].transpose(2, 3) * query.shape[-1] ** -0.5)[0].float())
            x = block.feed_forward(x + block.cross(block.cross_norm(x), *audio))
        return torch.stack(found)
