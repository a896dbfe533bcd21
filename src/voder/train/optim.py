"""Optimisers and learning-rate schedules, as values."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

import torch
import torch.distributed as dist
from torch import nn

from voder.errors import ConfigError
from voder.train.pieces import local


@dataclass(frozen=True, kw_only=True)
class OptimizerConfig:
    """Which optimiser, and its constants."""

    name: Literal["adamw", "adam", "sgd"] = "adamw"
    """AdamW (1711.05101), Adam (1412.6980) or plain SGD with momentum betas[0]."""
    learning_rate: float = 1e-3
    """Peak learning rate."""
    betas: tuple[float, float] = (0.9, 0.99)
    """Decay of the first and second moment."""
    weight_decay: float = 0.0
    """Weight decay on matrices only; decoupled from the gradient in AdamW."""

    def __post_init__(self) -> None:
        if not 0 < self.learning_rate < math.inf:
            raise ValueError(f"learning_rate is {self.learning_rate}; more than 0 is wanted")
        if not all(0 <= beta < 1 for beta in self.betas):
            raise ValueError(f"betas are {self.betas}; numbers from 0 and below 1 are wanted")
        if not 0 <= self.weight_decay < math.inf:
            raise ValueError(f"weight_decay is {self.weight_decay}; 0 or more is wanted")

    def build(self, module: nn.Module) -> torch.optim.Optimizer:
        """Make the optimiser of a module's trainable parameters."""
        parameters = [p for p in module.parameters() if p.requires_grad]
        if not parameters:
            raise ConfigError("nothing to train: every parameter is frozen")
        groups = [
            {"params": [p for p in parameters if p.ndim >= 2], "weight_decay": self.weight_decay},
            {"params": [p for p in parameters if p.ndim < 2], "weight_decay": 0.0},
        ]
        groups = [group for group in groups if group["params"]]
        if self.name == "sgd":
            return torch.optim.SGD(groups, lr=self.learning_rate, momentum=self.betas[0])
        kind = torch.optim.AdamW if self.name == "adamw" else torch.optim.Adam
        return kind(groups, lr=self.learning_rate, betas=self.betas, fused=True)


@dataclass(frozen=True, kw_only=True)
class ScheduleConfig:
    """How the learning rate moves over the steps."""

    shape: Literal["cosine", "linear", "constant"] = "cosine"
    """Decay after warm-up."""
    warmup_steps: int = 100
    """Steps of linear rise from zero."""
    final_ratio: float = 0.05
    """Learning rate at the last step, as a share of the peak."""

    def __post_init__(self) -> None:
        if self.warmup_steps < 0:
            raise ValueError(f"warmup_steps is {self.warmup_steps}; 0 or more is wanted")
        if not 0 <= self.final_ratio <= 1:
            raise ValueError(f"final_ratio is {self.final_ratio}; a share between 0 and 1 is wanted")

    def factor(self, step: int, steps: int) -> float:
        """The share of the peak at `step` (from 0) of `steps`."""
        if step < self.warmup_steps:
            return (step + 1) / (self.warmup_steps + 1)
        if self.shape == "constant":
            return 1.0
        progress = min(1.0, (step - self.warmup_steps) / max(1, steps - self.warmup_steps))
        fall = progress if self.shape == "linear" else 0.5 - 0.5 * math.cos(math.pi * progress)
        return 1.0 - (1.0 - self.final_ratio) * fall


def set_learning_rate(optimizer: torch.optim.Optimizer, value: float) -> None:
    """Set the learning rate of every group."""
    for group in optimizer.param_groups:
        group["lr"] = value


class Averages:
    """Exponential moving average of a module's parameters, to evaluate and export with."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.values = {n: p.detach().clone() for n, p in module.named_parameters() if p.requires_grad}
        self.steps = 0

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """Move the averages towards the current parameters (faster in the first steps)."""
        self.steps += 1
        rate = 1.0 - min(self.decay, self.steps / (self.steps + 10.0))
        for name, parameter in module.named_parameters():
            if name in self.values:
                local(self.values[name]).lerp_(local(parameter.detach()), rate)

    @torch.no_grad()
    def swap(self, module: nn.Module) -> None:
        """Exchange parameters and averages; call again to exchange back."""
        for name, parameter in module.named_parameters():
            if name in self.values:
                here, average = local(parameter.detach()), local(self.values[name])
                kept = here.clone()
                here.copy_(average)
                average.copy_(kept)


def gradients(modules: Iterable[nn.Module]) -> list[torch.Tensor]:
    """The gradients that exist, in parameter order; of sharded ones this process's pieces."""
    return [local(p.grad) for module in modules for p in module.parameters() if p.grad is not None]


def clip(grads: list[torch.Tensor], max_norm: float, *, sharded: bool) -> float:
    """Scale gradients down to a norm over all of them, and over the pieces on all ranks; returns the norm before."""
    norm = nn.utils.get_total_norm(grads)
    if sharded:
        square = norm.double().square().to(grads[0].device if grads else norm.device)
        dist.all_reduce(square)
        norm = square.sqrt().float()
    torch._foreach_mul_(grads, torch.clamp(max_norm / (norm + 1e-6), max=1.0))
    return float(norm)
