"""What a system trains. A Task yields named losses; the loop alone calls backward, clips and steps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B", bound="TensorBatch")


@dataclass(kw_only=True)
class Loss:
    """One loss to step on."""

    value: Tensor
    """Scalar: the mean over `weight` items (tokens, frames, clips)."""
    weight: float = 1.0
    """How many items it is a mean of, so that means over micro-batches and ranks are exact."""
    logs: Mapping[str, Tensor | float] = field(default_factory=dict)
    """More figures of the same items."""


class TensorBatch:
    """Base of batch dataclasses: moves every tensor field to a device."""

    def to(self: B, device: torch.device) -> B:
        """Move all tensors in place and return the batch."""
        for name, value in vars(self).items():
            if isinstance(value, Tensor):
                object.__setattr__(self, name, value.to(device, non_blocking=True))
        return self


class Task(ABC):
    """Data, losses, evaluation of one system.

    `batch` must be a pure function of its arguments and the seed: that is what makes an interrupted run equal to
    an uninterrupted one without saving any iterator. `losses` may use torch's global generator, which the loop
    seeds from (seed, step, rank) before it is entered and after every yield.
    """

    batch_setting: str = "task.batch_size"
    """The setting to lower when memory runs out."""

    def __init__(self, model: nn.Module, config: Any, data: Path, *, seed: int) -> None:
        self.model = model
        self.config = config
        self.data = data
        self.seed = seed

    @classmethod
    def fit_config(cls, model_config: Any, task_config: Any, data: Path, start: Any | None = None) -> Any:
        """Return the model configuration with what the data decides (symbols, speakers, codec identity).

        `start` is the model configuration of the checkpoint that fine-tuning begins from, if any; the result must
        then be able to take its weights through `adapt_state`.
        """
        return model_config if start is None else start

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: Any, config: Any) -> dict[str, Tensor]:
        """Fit the weights of a `start` configuration to a grown `config` (new speakers, new symbols)."""
        return state

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """Phase name -> module whose parameters its optimiser steps."""
        return {"model": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        """Modules that training needs beside the model (a discriminator); saved with every checkpoint."""
        return {}

    @abstractmethod
    def batch(self, step: int, rank: int, world: int) -> Any:
        """The batch of micro-step `step` on one rank of `world`."""

    @abstractmethod
    def losses(self, batch: Any, step: int) -> Iterator[tuple[str, Loss]]:
        """Yield (phase, loss) in the order they are stepped on."""

    @abstractmethod
    def evaluate(self) -> dict[str, float]:
        """Figures on the validation split; the lowest `score` marks the best checkpoint, without one it is the last."""

    def samples(self, folder: Path) -> None:
        """Write something to listen to or look at."""

    def parts(self) -> dict[str, Path]:
        """Checkpoints that this model was fitted on, copied into its own."""
        return {}

    def describe(self, batch: Any) -> str:
        """One decoded example of a batch with what carries loss, shown before the first step."""
        return ""

    def provenance(self) -> dict[str, Any]:
        """Hashes and licences of the data and tokenizer."""
        return {}

    def warnings(self) -> list[str]:
        """What looks wrong by now (a codebook that collapses)."""
        return []
