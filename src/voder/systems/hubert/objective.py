"""What every objective of pre-training is made of: crops in, logits and labels of masked frames out."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from voder.shapes import Audio, Embeddings, Mask, Scalar
from voder.train.task import TensorBatch


@dataclass
class CropBatch(TensorBatch):
    """Crops of one length."""

    audio: Audio


@dataclass(frozen=True)
class Prediction:
    """Logits and labels of the masked frames."""

    logits: Tensor
    labels: Tensor
    features: Scalar
    """Mean square of what the convolutions gave."""
    added: Scalar | float = 0.0
    """Further losses of the objective, weighted."""
    used: Scalar | None = None
    """How many codes are used, where the labels do not say it."""


def mean_square(features: Embeddings, valid: Mask | None) -> Scalar:
    """Over valid frames, in fp32."""
    squares = features.float().square().mean(dim=-1)
    return squares.mean() if valid is None else squares[valid].mean()


def cross_entropy(made: Prediction) -> Scalar:
    """In fp32."""
    with torch.autocast(made.logits.device.type, enabled=False):
        return F.cross_entropy(made.logits.float(), made.labels)
