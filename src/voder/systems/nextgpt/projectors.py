"""NExT-GPT's output projectors (2309.05519, section 3): signal tokens to what conditions a generator.

Learned queries look, through a small encoder-decoder transformer, at the language model's last states and input
embeddings of the signal tokens. Both published code lines do the same under different names; the newer one begins with
queries that are zero.
"""

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import attend
from voder.shapes import Embeddings
from voder.systems.nextgpt.imagebind import split_heads

_NUM_LAYERS = 4
_NUM_HEADS = 4
_MLP_RATIO = 4


Memory = Float[Tensor, "batch memory channel"]


class QueryAttention(nn.Module):
    """Attention from one sequence to another, or to itself."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)

    def forward(self, x: Embeddings, memory: Memory) -> Embeddings:
        """Queries from `x`, keys and values from `memory`."""
        width = x.shape[-1]
        weight, bias = self.in_projection.weight, self.in_projection.bias
        query = F.linear(x, weight[:width], bias[:width])
        key, value = F.linear(memory, weight[width:], bias[width:]).chunk(2, dim=-1)
        query, key, value = (split_heads(part, _NUM_HEADS) for part in (query, key, value))
        attended: Tensor = self.out_projection(attend(query, key, value, None).transpose(1, 2).flatten(2))
        return attended


class ProjectorLayer(nn.Module):
    """Pre-norm attention, attention to a memory where there is one, feed-forward."""

    def __init__(self, width: int, *, crosses: bool) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width)
        self.attention = QueryAttention(width)
        self.cross_norm = nn.LayerNorm(width) if crosses else None
        self.cross = QueryAttention(width) if crosses else None
        self.ffn_norm = nn.LayerNorm(width)
        self.ffn_in = nn.Linear(width, _MLP_RATIO * width)
        self.ffn_out = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Embeddings, memory: Memory | None = None) -> Embeddings:
        """Run one layer."""
        normed = self.attention_norm(x)
        x = x + self.attention(normed, normed)
        if self.cross is not None and self.cross_norm is not None and memory is not None:
            x = x + self.cross(self.cross_norm(x), memory)
        y: Tensor = x + self.ffn_out(F.relu(self.ffn_in(self.ffn_norm(x))))
        return y


class OutputProjector(nn.Module):
    """Signal tokens to `num_vectors` vectors of `output_width` channels."""

    def __init__(
        self, width: int, hidden_width: int, num_vectors: int, output_width: int, *, zero_queries: bool = False
    ) -> None:
        """`width` is the language model's."""
        super().__init__()
        if hidden_width % _NUM_HEADS:
            raise ValueError(f"the projector's width {hidden_width} must be a multiple of {_NUM_HEADS}")
        self.in_linear = nn.Linear(width, hidden_width)
        self.queries = nn.Parameter(torch.randn(1, num_vectors, hidden_width) * (0.0 if zero_queries else 1.0))
        self.encoder = nn.ModuleList(ProjectorLayer(hidden_width, crosses=False) for _ in range(_NUM_LAYERS))
        self.encoder_norm = nn.LayerNorm(hidden_width)
        self.decoder = nn.ModuleList(ProjectorLayer(hidden_width, crosses=True) for _ in range(_NUM_LAYERS))
        self.decoder_norm = nn.LayerNorm(hidden_width)
        self.out_linear = nn.Linear(hidden_width, output_width)

    def forward(
        self, states: Float[Tensor, "batch signal channel"], embeddings: Float[Tensor, "batch signal channel"]
    ) -> Float[Tensor, "batch vector condition"]:
        """What the generator reads, from the last states at the signal tokens and their input embeddings."""
        memory = self.in_linear(states + embeddings)
        for layer in self.encoder:
            memory = layer(memory)
        memory = self.encoder_norm(memory)
        x = self.queries.expand(len(memory), -1, -1)
        for layer in self.decoder:
            x = layer(x, memory)
        projected: Tensor = self.out_linear(self.decoder_norm(x))
        return projected
