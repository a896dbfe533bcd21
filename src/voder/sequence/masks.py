"""Which positions exist and which carry loss.

Both follow from lengths alone, never from comparing ids: an end token that shares its id with padding still
carries loss, and padding never does.
"""

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voder.shapes import Lengths, Mask, Scalar


def length_mask(lengths: Lengths, num_positions: int) -> Mask:
    """True at the first `lengths` of `num_positions` positions."""
    return torch.arange(num_positions, device=lengths.device) < lengths[:, None]


def next_token_targets(
    ids: Int[Tensor, "batch position"], lengths: Lengths, end_id: int
) -> tuple[Int[Tensor, "batch shifted"], Bool[Tensor, "batch shifted"]]:
    """Targets of a decoder that reads `[start, ids...]`: the ids themselves, then the end token.

    Returns:
        targets one position longer than `ids`, and the mask of those that carry loss: every id of the item and
        the end token behind it; nothing behind the end.
    """
    num_positions = ids.shape[1] + 1
    targets = torch.cat((ids, ids.new_full((ids.shape[0], 1), end_id)), dim=1)
    targets = targets.scatter(1, lengths[:, None], end_id)
    return targets, length_mask(lengths + 1, num_positions)


def masked_mean(values: Float[Tensor, "batch position"], mask: Mask) -> Scalar:
    """Mean over the True positions of `mask` (0 when there is none)."""
    return (values * mask).sum() / mask.sum().clamp(min=1)
