"""CLIP's text encoder (2103.00020, section 2.4): a causal transformer read at the end of the text."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn

from voder.nn.attention import attend, causal_mask
from voder.shapes import Embeddings, Mask, Tokens
from voder.systems.pengi.config import TextTowerConfig


class TowerBlock(nn.Module):
    """Attention and feed-forward, pre-norm, with the sigmoid approximation of GELU."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.attention_norm = nn.LayerNorm(config.width)
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(config.width, config.width)
        self.value = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)

    def forward(self, x: Embeddings, mask: Bool[Tensor, "batch query key"]) -> Embeddings:
        """Run one block."""
        normed = self.attention_norm(x)
        parts = (self.query(normed), self.key(normed), self.value(normed))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        x = x + self.out(attend(query, key, value, mask).transpose(1, 2).flatten(2))
        hidden = self.ffn_in(self.ffn_norm(x))
        y: Tensor = x + self.ffn_out(hidden * torch.sigmoid(1.702 * hidden))
        return y


class TextTower(nn.Module):
    """Ids of a text to one vector."""

    def __init__(self, config: TextTowerConfig) -> None:
        super().__init__()
        self.config = config
        self.tokens = nn.Embedding(config.vocabulary_size, config.width)
        self.positions = nn.Embedding(config.max_positions, config.width)
        self.blocks = nn.ModuleList(TowerBlock(config) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(config.width)
        self.projection = nn.Linear(config.width, config.output_width, bias=False)

    def pooled(self, ids: Tokens, valid: Mask | None = None) -> Float[Tensor, "batch channel"]:
        """What stands at the first end of each text (the highest id)."""
        valid = torch.ones_like(ids, dtype=torch.bool) if valid is None else valid
        mask = causal_mask(valid)
        place = torch.arange(ids.shape[1], device=ids.device)
        x = self.tokens(ids) + self.positions(place)
        for block in self.blocks:
            x = block(x, mask)
        normed = self.norm(x)
        return normed[torch.arange(len(ids), device=ids.device), ids.argmax(dim=1)]

    def forward(self, ids: Tokens, valid: Mask | None = None) -> Float[Tensor, "batch channel"]:
        """The text's vector; what lies behind its end changes nothing."""
        projected: Tensor = self.projection(self.pooled(ids, valid))
        return projected
