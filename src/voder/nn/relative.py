"""Relative positions as biases of the attention logits, in buckets of distance (T5, 1910.10683, section 2.1)."""

import math

import torch
from jaxtyping import Float, Int, Num
from torch import Tensor, nn

Bias = Float[Tensor, "#batch head query key"]


def bucket(distance: Int[Tensor, "..."], num_buckets: int, max_distance: int) -> Int[Tensor, "..."]:
    """Bucket of how far back a key lies: one each for the nearest half, then ever wider ones; the last for all beyond.

    What lies ahead shares the bucket of distance 0, as it is masked.
    """
    exact = num_buckets // 2
    back = distance.clamp(min=0)
    far = torch.log(back.clamp(min=1).float() / exact) / math.log(max_distance / exact) * (num_buckets - exact)
    return torch.where(back < exact, back, (exact + far.long()).clamp(max=num_buckets - 1))


class RelativePositions(nn.Module):
    """One bias per bucket and head, learned and shared by all layers of a stack."""

    def __init__(self, num_heads: int, num_buckets: int = 32, max_distance: int = 128) -> None:
        """Raises ValueError unless `max_distance` lies beyond the half of the buckets that are one position wide."""
        super().__init__()
        if num_buckets < 2 or max_distance <= num_buckets // 2:
            raise ValueError(
                f"{num_buckets} buckets up to distance {max_distance}: at least 2 buckets are wanted, and a distance "
                f"beyond {num_buckets // 2}"
            )
        self.num_buckets, self.max_distance = num_buckets, max_distance
        self.biases = nn.Embedding(num_buckets, num_heads)
        nn.init.normal_(self.biases.weight, std=0.1)

    def forward(self, queries: Num[Tensor, "batch query"], keys: Num[Tensor, "batch key"]) -> Bias:
        """Biases of keys at positions `keys` for queries at positions `queries`."""
        distance = (queries[:, :, None] - keys[:, None, :]).round().long()
        return self.biases(bucket(distance, self.num_buckets, self.max_distance)).permute(0, 3, 1, 2)
