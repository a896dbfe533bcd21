"""EnCodec's entropy model: a small causal transformer that predicts all codebooks of a frame in parallel.

2210.13438, §3.3. It sees past frames only, `past_frames` of them, and starts from one frame of zeros that is
attended to like any other. Layers are post-norm, without a norm after the last. Streaming keeps the keys and
values of past frames instead of projecting them again at every step.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from voder.shapes import Embeddings


@dataclass(frozen=True, kw_only=True)
class EntropyLMConfig:
    """Sizes of the entropy model."""

    num_codebooks: int = 32
    """Codebooks it can predict."""
    codebook_size: int = 1024
    """Codes per codebook."""
    dim: int = 200
    """Model width."""
    num_layers: int = 5
    """Transformer layers."""
    num_heads: int = 8
    """Attention heads."""
    past_frames: int = 262
    """Frames before the current one that attention reaches: 3.5 s."""


@dataclass(frozen=True)
class LMState:
    """Where a stream stands: keys and values of past frames, per layer."""

    position: int
    keys: tuple[Float[Tensor, "batch head frame channel"], ...]
    values: tuple[Float[Tensor, "batch head frame channel"], ...]


@dataclass(frozen=True)
class LMOutput:
    """Probabilities of the next codes, and the state after the frames seen."""

    probabilities: Float[Tensor, "batch codebook frame code"]
    state: LMState


class _Layer(nn.Module):
    def __init__(self, dim: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.in_proj = nn.Linear(dim, 3 * dim)
        self.out_proj = nn.Linear(dim, dim)
        self.norm1, self.norm2 = nn.LayerNorm(dim), nn.LayerNorm(dim)
        self.linear1, self.linear2 = nn.Linear(dim, 4 * dim), nn.Linear(4 * dim, dim)

    def project(self, x: Embeddings) -> tuple[Tensor, Tensor, Tensor]:
        """Queries, keys and values, `[batch, head, frame, channel]`."""
        q, k, v = (part.unflatten(2, (self.num_heads, -1)).transpose(1, 2) for part in self.in_proj(x).chunk(3, dim=2))
        return q, k, v

    def forward(self, x: Embeddings, queries: Tensor, keys: Tensor, values: Tensor, mask: Tensor) -> Embeddings:
        """Attend and transform; a norm follows each residual sum."""
        seen = F.scaled_dot_product_attention(queries, keys, values, attn_mask=mask)
        x = self.norm1(x + self.out_proj(seen.transpose(1, 2).flatten(2)))
        y: Tensor = self.norm2(x + self.linear2(F.gelu(self.linear1(x))))
        return y


class EntropyLM(nn.Module):
    """Codes so far to probabilities of the next ones."""

    def __init__(self, config: EntropyLMConfig) -> None:
        super().__init__()
        self.config = config
        embeddings = [nn.Embedding(config.codebook_size + 1, config.dim) for _ in range(config.num_codebooks)]
        heads = [nn.Linear(config.dim, config.codebook_size) for _ in range(config.num_codebooks)]
        self.embeddings, self.heads = nn.ModuleList(embeddings), nn.ModuleList(heads)
        self.norm_in = nn.LayerNorm(config.dim)
        self.layers = nn.ModuleList([_Layer(config.dim, config.num_heads) for _ in range(config.num_layers)])

    def forward(self, indices: Int[Tensor, "batch codebook frame"], state: LMState | None = None) -> LMOutput:
        """Predict each frame from the indices up to it: 0 for none, code + 1 of the frame before
        otherwise."""
        num_codebooks, num_frames = indices.shape[1:]
        summed = torch.stack([self.embeddings[k](indices[:, k]) for k in range(num_codebooks)]).sum(dim=0)
        state = state or self._start(summed)
        x = self.norm_in(summed) + self._positions(state.position, num_frames, summed)
        mask = self._mask(state.keys[0].shape[2] if state.keys else 1, num_frames, x.device)
        keys, values = [], []
        for layer, old_keys, old_values in zip(self.layers, state.keys, state.values, strict=True):
            assert isinstance(layer, _Layer)
            q, k, v = layer.project(x)
            k, v = torch.cat([old_keys, k], dim=2), torch.cat([old_values, v], dim=2)
            x = layer(x, q, k, v, mask)
            keys.append(k[:, :, -self.config.past_frames :])
            values.append(v[:, :, -self.config.past_frames :])
        logits = torch.stack([self.heads[k](x) for k in range(num_codebooks)], dim=1)
        after = LMState(state.position + num_frames, tuple(keys), tuple(values))
        return LMOutput(logits.softmax(dim=-1), after)

    def shifted(self, codes: Int[Tensor, "batch codebook frame"]) -> Int[Tensor, "batch codebook frame"]:
        """Indices that predict all frames of `codes` in one pass."""
        return F.pad(codes + 1, (1, 0))[..., :-1]

    def _start(self, like: Embeddings) -> LMState:
        zero = like.new_zeros(like.shape[0], 1, self.config.dim)
        layers = [layer for layer in self.layers if isinstance(layer, _Layer)]
        projected = [layer.project(zero) for layer in layers]
        return LMState(0, tuple(k for _, k, _ in projected), tuple(v for _, _, v in projected))

    def _mask(self, num_past: int, num_frames: int, device: torch.device) -> Bool[Tensor, "query key"]:
        query = torch.arange(num_past, num_past + num_frames, device=device)[:, None]
        distance = query - torch.arange(num_past + num_frames, device=device)
        return (distance >= 0) & (distance <= self.config.past_frames)

    def _positions(self, first: int, count: int, like: Embeddings) -> Float[Tensor, "frame channel"]:
        half = self.config.dim // 2
        position = torch.arange(first, first + count, device=like.device)[:, None]
        exponent = torch.arange(half, device=like.device) / (half - 1)
        phase = position / 10_000**exponent
        return torch.cat([phase.cos(), phase.sin()], dim=1)
