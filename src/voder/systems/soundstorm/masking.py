"""What training hides (2305.09636, §3.2): frames of one level, all levels behind it, nothing of a prompt."""

import torch
import torch.nn.functional as F
from torch import Tensor

from voder.shapes import Lengths, Mask, Scalar
from voder.systems.soundstorm.model import LevelLogits, Levels


def mask_level(codes: Levels, drawn: Mask, starts: Lengths, levels: Lengths, mask_id: int) -> Levels:
    """Hide the `drawn` frames of each row's level, and every level behind it, from `starts` on."""
    frames = torch.arange(codes.shape[1], device=codes.device)
    numbers = torch.arange(codes.shape[2], device=codes.device)
    behind = numbers[None, None] > levels[:, None, None]
    hidden = behind & (frames[None, :, None] >= starts[:, None, None])
    hidden = hidden | ((numbers[None, None] == levels[:, None, None]) & drawn[..., None])
    return codes.masked_fill(hidden, mask_id)


def level_logits(logits: LevelLogits, levels: Lengths) -> Tensor:
    """Logits `[batch, frame, code]` of each row's level."""
    rows = torch.arange(len(levels), device=levels.device)
    return logits[rows, :, levels]


def level_loss(logits: LevelLogits, codes: Levels, drawn: Mask, levels: Lengths) -> Scalar:
    """Cross-entropy of the frames that were drawn, at each row's level."""
    rows = torch.arange(len(levels), device=levels.device)
    return F.cross_entropy(level_logits(logits, levels)[drawn].float(), codes[rows, :, levels][drawn])
