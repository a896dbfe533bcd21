"""Settings and layers of the original VALL-E (lifeiteng/vall-e), beside `original.py`, which puts them together.

Sinusoidal positions weighted by a learned alpha, ReLU inside the blocks, norms before the branches or after them,
adaptive norms that multiply by what a linear layer makes of the stage (no 1 +).
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import Attention, AttentionMask, attend
from voder.nn.cache import StaticCache
from voder.nn.dropout import ByteDropout
from voder.shapes import Codes, Embeddings, Tokens

PrefixMode = Literal[0, 1, 2, 4]
Stage = Float[Tensor, "1 channel"]
TextEmbeddings = Float[Tensor, "batch text channel"]
TextMask = Bool[Tensor, "batch text"]
"""True where an id of the text is valid."""
MemoryMask = Bool[Tensor, "batch 1 text"]


@dataclass(frozen=True, kw_only=True)
class OriginalConfig:
    """Arguments of the original, under our names."""

    width: int = 1024
    """Channels of both halves."""
    num_layers: int = 12
    """Blocks of each half."""
    num_heads: int = 16
    """Attention heads."""
    dropout: float = 0.1
    """On embeddings and branches."""
    cross_attention: bool = False
    """VALL-F: text is read by cross-attention instead of standing in front."""
    norm_first: bool = True
    """Norms before the branches, and one at the end; else after each branch."""
    prenet: bool = False
    """Convolutions over the text and a bottleneck over the audio, after the embeddings."""
    share_embedding: bool = True
    """Output layer j of the parallel half is its code table j + 2."""
    prefix_mode: PrefixMode = 1
    """How prompts are made; see `original.py`."""
    prepend_bos: bool = False
    """The first half reads a begin token (id codebook_size + 1) and predicts the first code too."""
    num_codebooks: int = 8
    """Codes per frame."""
    codebook_size: int = 1024
    """Ids per codebook; the next one ends (and pads) the first codebook."""
    num_text_ids: int = 512
    """Ids of phonemes."""
    num_languages: int = 0
    """VALL-E-X: languages that are added to the text; 0 for none."""

    @property
    def end_id(self) -> int:
        """What ends, and pads, the first codebook."""
        return self.codebook_size


class PlainNorm(nn.LayerNorm):
    """Layer norm that lets a stage pass by."""

    def forward(self, x: Tensor, stage: Tensor | None = None) -> Tensor:
        """Normalise."""
        return super().forward(x)


class AdaptiveNorm(nn.Module):
    """Layer norm times and plus what a linear layer makes of the stage."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(width, 2 * width)

    def forward(self, x: Tensor, stage: Stage | None) -> Tensor:
        """Normalise under a stage."""
        if stage is None:
            raise ValueError("an adaptive norm needs a stage")
        scale, shift = self.projection(stage).chunk(2, dim=-1)
        return scale * self.norm(x) + shift


class SinePositions(nn.Module):
    """Adds sines (even channels) and cosines (odd), weighted."""

    def __init__(self, width: int, dropout: float = 0.0) -> None:
        super().__init__()
        self.width = width
        self.alpha = nn.Parameter(torch.ones(1))
        self.dropout = ByteDropout(dropout)

    def table(self, first: int, count: int) -> Float[Tensor, "position channel"]:
        """Rows of the table from position `first`."""
        device = self.alpha.device
        rates = torch.exp(torch.arange(0, self.width, 2, device=device) * (-math.log(10_000.0) / self.width))
        angles = torch.arange(first, first + count, device=device, dtype=torch.float32)[:, None] * rates
        return torch.stack((angles.sin(), angles.cos()), dim=-1).flatten(1)

    def forward(self, x: Embeddings, first: int = 0) -> Embeddings:
        """Add the positions from `first` on."""
        added: Tensor = self.dropout(x + self.alpha * self.table(first, x.shape[1]).to(x.dtype))
        return added


class Transpose(nn.Module):
    """Swap positions and channels."""

    def forward(self, x: Tensor) -> Tensor:
        """[batch, a, b] to [batch, b, a]."""
        return x.transpose(1, 2)


def text_prenet(width: int) -> nn.Sequential:
    """Three convolutions of five positions, after Tacotron 2."""
    convs: list[nn.Module] = []
    for _ in range(3):
        convs += [nn.Conv1d(width, width, 5, padding="same"), nn.BatchNorm1d(width), nn.ReLU(), nn.Dropout(0.5)]
    return nn.Sequential(Transpose(), *convs, Transpose(), nn.Linear(width, width))


def audio_prenet(width: int, narrow: int = 256) -> nn.Sequential:
    """A bottleneck, after Tacotron 2."""
    layers: list[nn.Module] = []
    for size in (width, narrow):
        layers += [nn.Linear(size, narrow), nn.ReLU(), nn.Dropout(0.25)]
    return nn.Sequential(*layers, nn.Linear(narrow, width))


class TextInput(nn.Module):
    """Phonemes to embeddings."""

    def __init__(self, config: OriginalConfig) -> None:
        super().__init__()
        self.ids = nn.Embedding(config.num_text_ids, config.width)
        self.languages = nn.Embedding(config.num_languages, config.width) if config.num_languages else None
        self.prenet = text_prenet(config.width) if config.prenet else nn.Identity()
        self.position = SinePositions(config.width, config.dropout)

    def forward(self, ids: Tokens, languages: Tokens | None = None) -> Embeddings:
        """Embed; `languages` names one per position, where the model knows any."""
        if (languages is None) != (self.languages is None):
            raise ValueError("languages must be given exactly when num_languages is not 0")
        x = self.ids(ids) if self.languages is None else self.ids(ids) + self.languages(languages)
        y: Tensor = self.position(self.prenet(x))
        return y


class AudioInput(nn.Module):
    """Code tables, a prenet and positions."""

    def __init__(self, config: OriginalConfig, sizes: tuple[int, ...]) -> None:
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(size, config.width) for size in sizes)
        self.prenet = audio_prenet(config.width) if config.prenet else nn.Identity()
        self.position = SinePositions(config.width, config.dropout)

    def embed(self, codes: Codes, num_books: int) -> Embeddings:
        """The sum over the first books."""
        embedded = [table(codes[:, book]) for book, table in enumerate(self.tables) if book < num_books]
        return torch.stack(embedded).sum(0)

    def forward(self, x: Embeddings, first: int = 0) -> Embeddings:
        """What the stack reads of embedded codes."""
        y: Tensor = self.position(self.prenet(x), first)
        return y


class CrossAttention(nn.Module):
    """Attention to another sequence; one fused projection as in self-attention."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)

    def forward(self, x: Embeddings, memory: TextEmbeddings, mask: MemoryMask) -> Embeddings:
        """Queries from `x`, keys and values from `memory`."""
        width = x.shape[-1]
        weight, bias = self.in_projection.weight, self.in_projection.bias
        query = F.linear(x, weight[:width], bias[:width])
        key, value = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=-1)
        heads = [part.reshape(*part.shape[:2], self.num_heads, -1).transpose(1, 2) for part in (query, key, value)]
        attended = attend(heads[0], heads[1], heads[2], mask.expand(-1, x.shape[1], -1))
        return self.out_projection(attended.transpose(1, 2).flatten(2))


class OriginalBlock(nn.Module):
    """Attention, cross-attention in VALL-F, feed-forward."""

    def __init__(self, config: OriginalConfig, *, adaptive: bool) -> None:
        super().__init__()
        width = config.width
        norm = AdaptiveNorm if adaptive else PlainNorm
        self.norm_first = config.norm_first
        self.attention = Attention(width, config.num_heads)
        self.cross = CrossAttention(width, config.num_heads) if config.cross_attention else None
        self.ffn_in, self.ffn_out = nn.Linear(width, 4 * width), nn.Linear(4 * width, width)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.norm3 = norm(width) if config.cross_attention else None
        self.dropout = ByteDropout(config.dropout)

    def forward(
        self,
        x: Embeddings,
        *,
        mask: AttentionMask,
        stage: Stage | None,
        memory: TextEmbeddings | None,
        memory_mask: MemoryMask | None,
        cache: StaticCache | None,
        layer: int,
    ) -> Embeddings:
        """Run one block."""

        def look(y: Tensor) -> Tensor:
            return self.attention(y, mask=mask, cache=cache, layer=layer)

        def read(y: Tensor) -> Tensor:
            assert self.cross is not None
            assert memory is not None
            assert memory_mask is not None
            read: Tensor = self.cross(y, memory, memory_mask)
            return read

        def think(y: Tensor) -> Tensor:
            return self.ffn_out(self.dropout(F.relu(self.ffn_in(y))))

        branches = [look, think] if self.cross is None else [look, read, think]
        for branch, norm in zip(branches, (self.norm1, self.norm2, self.norm3), strict=False):
            assert norm is not None
            if self.norm_first:
                x = x + self.dropout(branch(norm(x, stage)))
            else:
                x = norm(x + self.dropout(branch(x)), stage)
        return x


class OriginalStack(nn.Module):
    """The blocks of one half."""

    def __init__(self, config: OriginalConfig, *, adaptive: bool) -> None:
        super().__init__()
        self.layers = nn.ModuleList(OriginalBlock(config, adaptive=adaptive) for _ in range(config.num_layers))
        norm = AdaptiveNorm if adaptive else PlainNorm
        self.norm = norm(config.width) if config.norm_first else None

    def forward(
        self,
        x: Embeddings,
        *,
        mask: AttentionMask,
        stage: Stage | None = None,
        memory: TextEmbeddings | None = None,
        memory_mask: MemoryMask | None = None,
        cache: StaticCache | None = None,
    ) -> Embeddings:
        """Run the stack; with a cache `x` is what is new."""
        for number, layer in enumerate(self.layers):
            x = layer(x, mask=mask, stage=stage, memory=memory, memory_mask=memory_mask, cache=cache, layer=number)
        if cache is not None:
            cache.advance(x.shape[1])
        return x if self.norm is None else self.norm(x, stage)
