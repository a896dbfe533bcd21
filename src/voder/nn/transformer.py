"""The one transformer: a pre-norm stack that a mask turns into an encoder, a decoder or a prefix decoder.

Adaptive layer norm (a scale and a shift computed from a condition, as VALL-E's section 4.2.2 does from the
codebook being predicted) is on when the configuration names a condition width. Positions are rotary, or T5's
relative biases where a stack is built with them.
"""

import math
from dataclasses import dataclass

from jaxtyping import Float, Num
from torch import Tensor, nn

from voder.nn.attention import Attention, AttentionMask, Rotation, rotation
from voder.nn.cache import StaticCache
from voder.nn.dropout import ByteDropout
from voder.nn.relative import Bias, RelativePositions
from voder.shapes import Embeddings

Condition = Float[Tensor, "#batch condition"]


@dataclass(frozen=True, kw_only=True)
class TransformerConfig:
    """Sizes of a stack."""

    width: int = 192
    """Channels of the residual stream."""
    num_layers: int = 4
    """Blocks of attention and feed-forward."""
    num_heads: int = 4
    """Attention heads; width / num_heads must be even."""
    ffn_width: int = 768
    """Channels inside the feed-forward part."""
    dropout: float = 0.1
    """On the embeddings and on what each branch adds to the residual stream."""

    def __post_init__(self) -> None:
        if self.width % (2 * self.num_heads):
            raise ValueError(f"width {self.width} must be a multiple of twice num_heads {self.num_heads}")
        if not 0 <= self.dropout < 1:
            raise ValueError(f"dropout {self.dropout} must lie in [0, 1)")


class AdaptiveLayerNorm(nn.Module):
    """Layer norm whose scale and shift depend on a condition; with a zero projection it is a plain layer norm."""

    def __init__(self, width: int, condition_width: int) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.projection = nn.Linear(condition_width, 2 * width)
        nn.init.zeros_(self.projection.weight)
        nn.init.zeros_(self.projection.bias)

    def forward(self, x: Embeddings, condition: Condition) -> Embeddings:
        """Normalise `x` under one condition per row (or one for all rows)."""
        scale, shift = self.projection(condition)[:, None, :].chunk(2, dim=-1)
        return self.norm(x) * (1 + scale) + shift


class Norm(nn.Module):
    """Plain or adaptive layer norm behind one call."""

    def __init__(self, width: int, condition_width: int | None) -> None:
        super().__init__()
        self.plain = nn.LayerNorm(width) if condition_width is None else None
        self.adaptive = None if condition_width is None else AdaptiveLayerNorm(width, condition_width)

    def forward(self, x: Embeddings, condition: Condition | None) -> Embeddings:
        """Normalise; a condition is needed exactly when the norm is adaptive."""
        if self.plain is not None:
            return self.plain(x)
        if self.adaptive is None or condition is None:
            raise ValueError("this stack was built with a condition: pass one to forward")
        return self.adaptive(x, condition)


class Block(nn.Module):
    """Attention and feed-forward, each behind a norm and added to the residual stream."""

    def __init__(self, config: TransformerConfig, condition_width: int | None) -> None:
        super().__init__()
        self.attention_norm = Norm(config.width, condition_width)
        self.attention = Attention(config.width, config.num_heads)
        self.ffn_norm = Norm(config.width, condition_width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.activation = nn.GELU()
        self.ffn_out = nn.Linear(config.ffn_width, config.width)
        self.dropout = ByteDropout(config.dropout)

    def forward(
        self,
        x: Embeddings,
        *,
        mask: AttentionMask | None,
        positions: Rotation | None,
        bias: Bias | None,
        condition: Condition | None,
        cache: StaticCache | None,
        layer: int,
    ) -> Embeddings:
        """Run one block."""
        normed = self.attention_norm(x, condition)
        attended = self.attention(normed, mask=mask, positions=positions, bias=bias, cache=cache, layer=layer)
        x = x + self.dropout(attended)
        hidden = self.activation(self.ffn_in(self.ffn_norm(x, condition)))
        return x + self.dropout(self.ffn_out(hidden))


class Transformer(nn.Module):
    """A stack of blocks and a final norm."""

    def __init__(
        self,
        config: TransformerConfig,
        condition_width: int | None = None,
        relative: RelativePositions | None = None,
    ) -> None:
        """With `relative`, its biases take the place of the rotation."""
        super().__init__()
        self.config = config
        self.relative = relative
        self.blocks = nn.ModuleList(Block(config, condition_width) for _ in range(config.num_layers))
        self.final_norm = Norm(config.width, condition_width)
        self._initialise()

    def _initialise(self) -> None:
        """Linear layers start at 1/sqrt(fan in); what enters the residual stream shrinks with the depth."""
        depth_scale = 1 / math.sqrt(2 * self.config.num_layers)
        for block in self.blocks:
            assert isinstance(block, Block)
            attention = block.attention
            for linear, scale in (
                (attention.in_projection, 1.0),
                (attention.out_projection, depth_scale),
                (block.ffn_in, 1.0),
                (block.ffn_out, depth_scale),
            ):
                nn.init.normal_(linear.weight, std=scale / math.sqrt(linear.in_features))
                nn.init.zeros_(linear.bias)

    def forward(
        self,
        x: Embeddings,
        *,
        positions: Num[Tensor, "#batch position"],
        mask: AttentionMask | None = None,
        condition: Condition | None = None,
        cache: StaticCache | None = None,
    ) -> Embeddings:
        """Run the stack.

        `positions` may be negative, and fractional where they are rotary; one row of them serves all. With a cache,
        `x` holds only what is new and `mask` covers the cached past and the new positions.
        """
        turned, bias = None, None
        if self.relative is None:
            turned = rotation(positions, self.config.width // self.config.num_heads)
        else:
            bias = self.relative(positions, positions if cache is None else cache.append_positions(positions))
        for layer, block in enumerate(self.blocks):
            x = block(x, mask=mask, positions=turned, bias=bias, condition=condition, cache=cache, layer=layer)
        if cache is not None:
            cache.advance(x.shape[1])
        return self.final_norm(x, condition)
