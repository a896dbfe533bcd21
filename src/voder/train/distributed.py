"""Several processes as one: ranks under `torchrun`, and sums over them.

Whole models on every rank (`loop.sharding=none`): gradients are summed by hand, in one flat buffer, after backward.
That is data parallelism without torch's DDP, on purpose: DDP wraps `forward` and counts on one backward per forward
through the same parameters, which a GAN's phases, a module used twice or under another method, and a parameter that a
batch does not use break; the sum is the same, and so are the steps. What DDP adds, sums that overlap the backward,
matters where sums are slow; models that are too large for one process are cut instead (`voder.train.sharding`).
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
import torch.distributed as dist
from torch import nn

from voder.errors import ResourceError

PATIENCE = timedelta(hours=2)
"""How long a rank waits for another: the main one evaluates and saves alone."""


@dataclass(frozen=True)
class World:
    """This process among all."""

    rank: int = 0
    size: int = 1

    @property
    def is_main(self) -> bool:
        """True for the one process that writes and prints."""
        return self.rank == 0


def local_device(device: torch.device) -> torch.device:
    """The GPU of this process among those of its machine, where torchrun started several."""
    if device.type == "cuda" and device.index is None:
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return device


def join(device: torch.device) -> World:
    """Join the processes that torchrun started; alone when there are none."""
    if "RANK" not in os.environ or int(os.environ.get("WORLD_SIZE", "1")) == 1:
        return World()
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not dist.is_initialized():
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo", timeout=PATIENCE)
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the group that `join` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


@contextmanager
def named_losses_of_others(world: World) -> Iterator[None]:
    """Say in one sentence that another process of the group has gone; why, it says itself.

    Raises:
        ResourceError: it has.
    """
    try:
        yield
    except RuntimeError as error:
        gone = isinstance(error, dist.DistError) or any(mark in str(error) for mark in _GONE)
        if world.size == 1 or not gone:
            raise
        raise ResourceError(
            f"process {world.rank} of {world.size} lost another one, which says why; the same command goes on from the "
            "last checkpoint"
        ) from error


_GONE = ("Connection closed by peer", "Connection reset by peer", "gloo/transport")
"""What gloo's plain RuntimeErrors hold when a peer is gone."""


def sum_in_place(tensors: Sequence[torch.Tensor], world: World) -> None:
    """Sum tensors of one dtype over all ranks, in place."""
    if world.size == 1 or not tensors:
        return
    flat = torch.cat([t.reshape(-1) for t in tensors])
    dist.all_reduce(flat)
    for tensor, part in zip(tensors, torch.split(flat, [t.numel() for t in tensors]), strict=True):
        tensor.copy_(part.view_as(tensor))


def share_gradients(module: nn.Module, world: World) -> None:
    """Give a parameter that had a gradient on any rank one on all (of zeros), so that the sums line up."""
    if world.size == 1:
        return
    parameters = list(module.parameters())
    present = torch.tensor([float(p.grad is not None) for p in parameters], device=parameters[0].device)
    dist.all_reduce(present, op=dist.ReduceOp.MAX)
    for parameter, anywhere in zip(parameters, present.tolist(), strict=True):
        if anywhere and parameter.grad is None:
            parameter.grad = torch.zeros_like(parameter)


def barrier(world: World) -> None:
    """Wait for all ranks."""
    if world.size > 1:
        dist.barrier()


def broadcast_flag(flag: bool, world: World, device: torch.device) -> bool:
    """True on all ranks when it is true on any."""
    if world.size == 1:
        return flag
    value = torch.tensor(float(flag), device=device)
    dist.all_reduce(value, op=dist.ReduceOp.MAX)
    return bool(value.item())
