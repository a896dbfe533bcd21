"""Q-Former (2301.12597): learned queries that look at each other and at a memory, with norms behind every branch.

As in BERT, a branch's output is added to its input and normed after. Layers without cross-attention only look at the
queries.
"""

from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import attend
from voder.nn.dropout import ByteDropout
from voder.shapes import Embeddings

Memory = Float[Tensor, "batch key memory_channel"]
EPSILON = 1e-12
"""Of BERT's norms."""


class BertAttention(nn.Module):
    """Attention, a residual and a norm after it."""

    def __init__(self, width: int, memory_width: int, num_heads: int, dropout: float) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(memory_width, width)
        self.value = nn.Linear(memory_width, width)
        self.out = nn.Linear(width, width)
        self.norm = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = ByteDropout(dropout)

    def forward(self, x: Embeddings, memory: Memory) -> Embeddings:
        """Queries from `x`, keys and values from `memory`."""
        parts = (self.query(x), self.key(memory), self.value(memory))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = attend(query, key, value, None).transpose(1, 2).flatten(2)
        y: Tensor = self.norm(x + self.dropout(self.out(attended)))
        return y


class QueryLayer(nn.Module):
    """Self-attention, cross-attention where there is a memory, feed-forward."""

    def __init__(
        self, width: int, num_heads: int, ffn_width: int, memory_width: int | None, *, dropout: float = 0.0
    ) -> None:
        """`dropout` is on what every branch adds, in training."""
        super().__init__()
        self.attention = BertAttention(width, width, num_heads, dropout)
        self.cross = None if memory_width is None else BertAttention(width, memory_width, num_heads, dropout)
        self.ffn_in = nn.Linear(width, ffn_width)
        self.ffn_out = nn.Linear(ffn_width, width)
        self.ffn_norm = nn.LayerNorm(width, eps=EPSILON)
        self.dropout = ByteDropout(dropout)

    def forward(self, x: Embeddings, memory: Memory) -> Embeddings:
        """Run one layer."""
        x = self.attention(x, x)
        if self.cross is not None:
            x = self.cross(x, memory)
        y: Tensor = self.ffn_norm(x + self.dropout(self.ffn_out(F.gelu(self.ffn_in(x)))))
        return y
