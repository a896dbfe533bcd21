"""What training statistics share between processes; every function is the identity in a lone process.

Codebook statistics must come from the global batch, or else the codebooks of the workers drift apart and the
same batch gives another step with another number of workers.
"""

import torch
import torch.distributed as dist
from torch import Tensor


def _alone() -> bool:
    return not (dist.is_available() and dist.is_initialized() and dist.get_world_size() > 1)


def sum_over_workers(value: Tensor) -> Tensor:
    """Sum a tensor of one shape over all workers, in place."""
    if not _alone():
        dist.all_reduce(value)
    return value


def gather_rows(rows: Tensor) -> Tensor:
    """Concatenate `[n, D]` rows of all workers in rank order; the number of rows may differ."""
    if _alone():
        return rows
    counts = [torch.zeros(1, dtype=torch.int64, device=rows.device) for _ in range(dist.get_world_size())]
    dist.all_gather(counts, torch.tensor([len(rows)], dtype=torch.int64, device=rows.device))
    longest = max(int(count) for count in counts)
    padded = rows.new_zeros(longest, rows.shape[1])
    padded[: len(rows)] = rows
    parts = [torch.empty_like(padded) for _ in counts]
    dist.all_gather(parts, padded)
    return torch.cat([part[: int(count)] for part, count in zip(parts, counts, strict=True)])


def from_first_worker(value: Tensor) -> Tensor:
    """Replace a tensor by the first worker's, so that a random draw is the same everywhere."""
    if not _alone():
        dist.broadcast(value, src=0)
    return value
