"""The cross-entropy of tokens as tasks report it, and means of several batches."""

from collections.abc import Sequence

from torch import Tensor
from torch.nn import functional as F

from voder.train.task import Loss


def token_loss(logits: Tensor, targets: Tensor) -> Loss:
    """Mean over tokens, with their number and the share that is predicted right.

    Args:
        logits: `[token, id]`.
        targets: `[token]`.
    """
    logits = logits.float()
    accuracy = (logits.detach().argmax(dim=-1) == targets).float().mean()
    return Loss(value=F.cross_entropy(logits, targets), weight=float(targets.numel()), logs={"accuracy": accuracy})


def token_means(prefix: str, losses: Sequence[Loss]) -> dict[str, float]:
    """Loss and accuracy of several batches, weighted by their tokens."""
    weight = sum(loss.weight for loss in losses)
    total = sum(float(loss.value) * loss.weight for loss in losses)
    right = sum(float(loss.logs["accuracy"]) * loss.weight for loss in losses)
    return {f"{prefix}loss": total / weight, f"{prefix}accuracy": right / weight}
