"""Pengi's networks between encoders and language model (2305.11834, section 3): projections, and prefix mappers.

A mapper is a transformer that reads an input spread over some vectors, followed by learned constants; what stands at
the constants in the end is what the language model reads (the mapping network of ClipCap, 2111.09734).
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import attend
from voder.shapes import Embeddings
from voder.systems.pengi.config import MapperConfig

Vectors = Float[Tensor, "batch channel"]
Projected = Float[Tensor, "batch projected"]


class Projection(nn.Module):
    """A linear layer, and what a second one adds to it."""

    def __init__(self, input_width: int, width: int) -> None:
        super().__init__()
        self.first = nn.Linear(input_width, width, bias=False)
        self.second = nn.Linear(width, width, bias=False)
        self.norm = nn.LayerNorm(width)

    def forward(self, x: Vectors) -> Projected:
        """Project."""
        first = self.first(x)
        y: Tensor = self.norm(first + self.second(F.gelu(first)))
        return y


class MapperBlock(nn.Module):
    """Attention and feed-forward, pre-norm; queries, keys and values without biases."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width)
        self.query = nn.Linear(width, width, bias=False)
        self.key_value = nn.Linear(width, 2 * width, bias=False)
        self.out = nn.Linear(width, width)
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, 2 * width)
        self.ffn_out = nn.Linear(2 * width, width)

    def forward(self, x: Embeddings) -> Embeddings:
        """Run one block."""
        normed = self.attention_norm(x)
        query = self.query(normed).unflatten(-1, (self.num_heads, -1)).transpose(1, 2)
        key, value = self.key_value(normed).unflatten(-1, (2, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        x = x + self.out(attend(query, key, value, None).transpose(1, 2).flatten(2))
        y: Tensor = x + self.ffn_out(F.relu(self.ffn_in(self.ffn_norm(x))))
        return y


class PrefixMapper(nn.Module):
    """One vector, or a prompt's token embeddings, to the vectors of a prefix."""

    def __init__(self, config: MapperConfig, width: int, *, spreads: bool) -> None:
        """`width` is the language model's; with `spreads` the input is one vector of `config.width`."""
        super().__init__()
        if config.num_heads < 1 or width % config.num_heads:
            raise ValueError(f"the language model's width {width} must be a multiple of num_heads {config.num_heads}")
        self.clip = config.clip
        self.spread = nn.Linear(config.width, config.clip * width) if spreads else None
        self.constants = nn.Parameter(torch.randn(config.prefix, width))
        self.blocks = nn.ModuleList(MapperBlock(width, config.num_heads) for _ in range(config.num_layers))

    def forward(self, x: Float[Tensor, "batch ..."]) -> Embeddings:
        """The prefix of `[batch, channel]` where the mapper spreads, else of `[batch, clip, channel]`."""
        read = x if self.spread is None else self.spread(x).unflatten(-1, (self.clip, -1))
        y = torch.cat((read, self.constants.expand(len(read), -1, -1)), dim=1)
        for block in self.blocks:
            y = block(y)
        return y[:, read.shape[1] :]
