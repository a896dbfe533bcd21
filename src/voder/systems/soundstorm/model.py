"""The network of SoundStorm (Borsos et al., 2305.09636, §3): a conformer over frames.

A frame is the sum of its levels' embeddings and its semantic code's; levels that are not known yet hold a mask code of
their own. One linear layer per level turns a frame's vector into logits. Padding frames are seen by nobody.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from voder.nn.attention import Rotation, attend, rotate, rotation
from voder.shapes import Embeddings, Mask, Tokens
from voder.systems.soundstorm.config import SoundStormConfig

Levels = Int[Tensor, "batch frame level"]
KnownLevels = Int[Tensor, "batch known level"]
"""Levels of the first frames alone."""
LevelLogits = Float[Tensor, "batch frame level code"]


class FeedForward(nn.Module):
    """Half a feed-forward part: what it says is added at half weight."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(config.width)
        self.inward = nn.Linear(config.width, config.width * config.ffn_expansion)
        self.outward = nn.Linear(config.width * config.ffn_expansion, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Embeddings) -> Embeddings:
        """What is added to `x`."""
        y: Tensor = self.dropout(self.outward(F.silu(self.inward(self.norm(x)))))
        return 0.5 * y


class ConformerAttention(nn.Module):
    """Self-attention with rotary positions, keys and values in one projection."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        inner = config.num_heads * config.head_width
        self.num_heads = config.num_heads
        self.norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, inner, bias=False)
        self.key_value = nn.Linear(config.width, 2 * inner, bias=False)
        self.out = nn.Linear(inner, config.width)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Embeddings, turned: Rotation, mask: Bool[Tensor, "batch query key"] | None) -> Embeddings:
        """What is added to `x`."""
        x = self.norm(x)
        parts = (self.query(x), *self.key_value(x).chunk(2, dim=-1))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        heads = attend(rotate(query, turned), rotate(key, turned), value, mask)
        y: Tensor = self.dropout(self.out(heads.transpose(1, 2).flatten(2)))
        return y


class ChannelNorm(nn.Module):
    """Normalise over channels, with a gain alone; the variance is never taken below 1e-6."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.gain = nn.Parameter(torch.ones(1, channels, 1))

    def forward(self, x: Float[Tensor, "batch channel frame"]) -> Float[Tensor, "batch channel frame"]:
        """Keep the shape."""
        centred = x - x.mean(dim=1, keepdim=True)
        variance = x.var(dim=1, unbiased=False, keepdim=True)
        return centred * variance.clamp(min=1e-6).rsqrt() * self.gain


class ConformerConv(nn.Module):
    """A gated depthwise convolution over frames."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        inner = config.width * config.conv_expansion
        self.norm = nn.LayerNorm(config.width)
        self.inward = nn.Conv1d(config.width, 2 * inner, 1)
        self.depthwise = nn.Conv1d(inner, inner, config.kernel, padding=config.kernel // 2, groups=inner)
        self.channel_norm = ChannelNorm(inner)
        self.outward = nn.Conv1d(inner, config.width, 1)
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, x: Embeddings, valid: Mask | None) -> Embeddings:
        """What is added to `x`; frames that are not valid are zeros to their neighbours, and to themselves after."""
        y = F.glu(self.inward(self.norm(x).transpose(1, 2)), dim=1)
        if valid is not None:
            y = y.masked_fill(~valid[:, None], 0.0)
        y = self.depthwise(y)
        if valid is not None:
            y = y.masked_fill(~valid[:, None], 0.0)
        y = self.outward(self.channel_norm(F.silu(y)))
        return self.dropout(y.transpose(1, 2))


class ConformerBlock(nn.Module):
    """Feed-forward, attention, convolution, feed-forward, norm."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        self.first = FeedForward(config)
        self.attention = ConformerAttention(config)
        self.conv = ConformerConv(config)
        self.second = FeedForward(config)
        self.norm = nn.LayerNorm(config.width)

    def forward(
        self, x: Embeddings, turned: Rotation, mask: Bool[Tensor, "batch query key"] | None, valid: Mask | None
    ) -> Embeddings:
        """Run one block."""
        x = x + self.first(x)
        x = x + self.attention(x, turned, mask)
        x = x + self.conv(x, valid)
        y: Tensor = self.norm(x + self.second(x))
        return y


class LevelHeads(nn.Module):
    """Logits of every level from a frame's vector: a projection per level, a shared norm, a matrix per level."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        levels, width, codes = config.num_levels, config.width, config.codebook_size
        self.num_levels = levels
        self.project = nn.Linear(width, levels * width)
        self.norm = nn.LayerNorm(width)
        self.weight = nn.Parameter(torch.empty(levels, width, codes).uniform_(-1, 1) / width**0.5)
        self.bias = nn.Parameter(torch.zeros(1, 1, levels, codes))

    def forward(self, x: Embeddings) -> LevelLogits:
        """Logits of all levels of all frames."""
        vectors = self.norm(self.project(x).unflatten(-1, (self.num_levels, -1)))
        return torch.einsum("bfld,ldc->bflc", vectors, self.weight) + self.bias


class SoundStorm(nn.Module):
    """Semantic codes and what is known of the other levels to logits of all levels."""

    def __init__(self, config: SoundStormConfig) -> None:
        super().__init__()
        self.config = config
        self.semantic = nn.Embedding(config.num_semantic, config.width)
        # one table for all levels; the last row of each level stands for its mask
        self.codes = nn.Embedding(config.num_levels * (config.codebook_size + 1), config.width)
        self.blocks = nn.ModuleList(ConformerBlock(config) for _ in range(config.num_layers))
        self.heads = LevelHeads(config)

    def forward(self, known: Levels, semantic: Tokens, valid: Mask | None = None) -> LevelLogits:
        """Logits of every level; unknown codes are `config.mask_id`."""
        return self.logits(known, self.semantic(semantic), valid)

    def logits(self, known: Levels, condition: Embeddings, valid: Mask | None = None) -> LevelLogits:
        """The same with the semantic part given as vectors."""
        config = self.config
        offsets = torch.arange(config.num_levels, device=known.device) * (config.codebook_size + 1)
        x = self.codes(known + offsets).sum(dim=2) + condition
        frames = torch.arange(x.shape[1], device=x.device)[None]
        turned = rotation(frames, config.head_width)
        mask = None if valid is None else valid[:, None, :].expand(-1, x.shape[1], -1)
        for block in self.blocks:
            x = block(x, turned, mask, valid)
        logits: Tensor = self.heads(x)
        return logits
