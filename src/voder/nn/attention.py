"""Multi-head attention with rotary positions (Su et al., 2104.09864), an optional cache, and the masks it takes.

A mask is True where a query may look at a key, `[batch, query, key]`. Every query may look at something: a
padding position looks at itself, so that no softmax runs over nothing and no NaN appears in rows that are
ignored anyway.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Num
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.cache import StaticCache
from voder.shapes import Embeddings, Mask

AttentionMask = Bool[Tensor, "#batch query key"]
"""A batch of one stands for all rows."""
Queries = Float[Tensor, "batch head query channel"]
Keys = Float[Tensor, "batch head key channel"]


@dataclass(frozen=True)
class Rotation:
    """Cosine and sine by which queries and keys are turned; computed once for all layers."""

    cos: Float[Tensor, "batch 1 position half"]
    sin: Float[Tensor, "batch 1 position half"]


def rotation(positions: Num[Tensor, "batch position"], head_width: int, base: float = 10_000.0) -> Rotation:
    """Angles of (possibly fractional or negative) positions: what counts is the difference of two positions."""
    half = head_width // 2
    frequencies = base ** (-torch.arange(half, device=positions.device, dtype=torch.float32) / half)
    angles = positions.float()[:, None, :, None] * frequencies
    return Rotation(angles.cos(), angles.sin())


def rotate(x: Tensor, by: Rotation) -> Tensor:
    """Turn channel pairs (i, i + half) of `[batch, head, position, channel]`."""
    first, second = x.chunk(2, dim=-1)
    cos, sin = by.cos.to(x.dtype), by.sin.to(x.dtype)
    return torch.cat((first * cos - second * sin, second * cos + first * sin), dim=-1)


def padding_mask(valid: Mask) -> AttentionMask:
    """Look at every valid position, in both directions."""
    length = valid.shape[1]
    return valid[:, None, :] | torch.eye(length, dtype=torch.bool, device=valid.device)


def causal_mask(valid: Mask) -> AttentionMask:
    """Look at valid positions up to oneself."""
    length = valid.shape[1]
    past = torch.ones(length, length, dtype=torch.bool, device=valid.device).tril()
    return (valid[:, None, :] & past) | torch.eye(length, dtype=torch.bool, device=valid.device)


def prefix_causal_mask(prefix: Bool[Tensor, "batch prefix"], rest: Bool[Tensor, "batch rest"]) -> AttentionMask:
    """Let the prefix see itself in both directions and the rest see the prefix and its own past.

    The prefix never sees the rest, so its keys and values can be cached before the rest exists.
    """
    num_prefix, num_rest = prefix.shape[1], rest.shape[1]
    mask = causal_mask(torch.cat((prefix, rest), dim=1))
    mask[:, :num_prefix, :num_prefix] |= prefix[:, None, :]
    mask[:, num_prefix:, :num_prefix] = prefix[:, None, :].expand(-1, num_rest, -1)
    return mask


def attend(
    query: Queries,
    key: Keys,
    value: Keys,
    mask: AttentionMask | None,
    bias: Float[Tensor, "#batch head query key"] | None = None,
) -> Queries:
    """Scaled dot-product attention, without dropout on the weights (it rules out the fused kernels).

    `bias` is added to the logits.
    """
    if bias is not None:
        added = bias.to(query.dtype)
        added = added if mask is None else added.masked_fill(~mask[:, None], -torch.inf)
        return F.scaled_dot_product_attention(query, key, value, attn_mask=added)
    if query.device.type == "cpu" and query.dtype == torch.bfloat16 and query.requires_grad and mask is not None:
        return _attend_in_two_products(query, key, value, mask)
    return F.scaled_dot_product_attention(query, key, value, attn_mask=None if mask is None else mask[:, None])


def _attend_in_two_products(query: Queries, key: Keys, value: Keys, mask: AttentionMask) -> Queries:
    """The same for training short sequences on a CPU in bf16, where the fused kernel's backward is slow.

    8 x 4 heads x 152 positions x 48 channels, forward and backward, one thread: 5.9 ms; fused 18.7 ms (torch 2.13).
    """
    batch, num_heads, length, width = query.shape
    bias = query.new_zeros(mask.shape).masked_fill(~mask, -1e4)
    bias = bias[:, None].expand(-1, num_heads, -1, -1).flatten(0, 1)
    scaled = (query * width**-0.5).flatten(0, 1)
    weights = torch.baddbmm(bias, scaled, key.flatten(0, 1).transpose(1, 2)).softmax(dim=-1)
    return torch.bmm(weights, value.flatten(0, 1)).view(batch, num_heads, length, -1)


class Attention(nn.Module):
    """Self-attention with one fused projection for queries, keys and values."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        if width % (2 * num_heads):
            raise ValueError(f"width {width} must be a multiple of twice num_heads {num_heads}: channels turn in pairs")
        self.num_heads = num_heads
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)

    def forward(
        self,
        x: Embeddings,
        *,
        mask: AttentionMask | None = None,
        positions: Rotation | None = None,
        bias: Float[Tensor, "#batch head query key"] | None = None,
        cache: StaticCache | None = None,
        layer: int = 0,
    ) -> Embeddings:
        """Attend from `x` to itself, or to the cache's past and itself; `mask` and `bias` cover past and present."""
        batch, length, width = x.shape
        # [batch, position, 3 * width] -> 3 x [batch, head, position, channel]
        projected = self.in_projection(x).view(batch, length, 3, self.num_heads, -1).permute(2, 0, 3, 1, 4)
        query, key, value = projected.unbind(0)
        if positions is not None:
            query, key = rotate(query, positions), rotate(key, positions)
        if cache is not None:
            key, value = cache.append(layer, key, value)
        heads = attend(query, key, value, mask, bias)
        return self.out_projection(heads.transpose(1, 2).reshape(batch, length, width))
