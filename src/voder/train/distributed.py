"""Several processes as one: ranks under `torchrun`, and sums over them.

Gradients are summed over ranks by hand, in one flat buffer, after backward: it works for any Task (GAN phases,
modules used twice, parameters unused in a step), which a wrapper around `forward` does not.
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.distributed as dist
from torch import nn


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
        dist.init_process_group("nccl" if device.type == "cuda" else "gloo")
    return World(dist.get_rank(), dist.get_world_size())


def leave() -> None:
    """Leave the group that `join` joined."""
    if dist.is_initialized():
        dist.destroy_process_group()


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
