"""What a system trains. A Task yields named losses; the loop alone calls backward, clips and steps."""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

B = TypeVar("B", bound="TensorBatch")
T = TypeVar("T")


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

    def blocks(self) -> list[nn.Module]:
        """Modules that are sharded on their own with `loop.sharding=full`: gathered when called, and let go of after.

        They must be used by calling them, on every rank alike; with bf16 what autocast casts in them is gathered in
        bf16, so a part that turns autocast off is none. By default the entries of every ModuleList of the optimised
        modules.
        """
        return default_blocks(self.optimised)

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
        """Checkpoints that this model was fitted on, copied into its own (large files by hard link)."""
        return {}

    def borrowed(self) -> dict[str, str]:
        """Weights of the model that no checkpoint repeats because a part holds them: name -> `part/its name`.

        For a large frozen base model: `parts` names its folder (`{"lm": folder}`), and
        `{"lm.layers.0.weight": "lm/model.layers.0.weight", …}` its weights, so that a checkpoint holds what was
        trained and the whole model still loads from it. The part has `model.safetensors`, or several files and an
        index, as Hugging Face writes them. Weights that training moves must not be named here.
        """
        return {}

    def saved_state(self) -> dict[str, Tensor]:
        """The model's weights that every checkpoint holds: all but the borrowed."""
        borrowed = self.borrowed()
        return {name: value for name, value in self.model.state_dict().items() if name not in borrowed}

    def describe(self, batch: Any) -> str:
        """One decoded example of a batch with what carries loss, shown before the first step."""
        return ""

    def provenance(self) -> dict[str, Any]:
        """Hashes and licences of the data and tokenizer."""
        return {}

    def warnings(self) -> list[str]:
        """What looks wrong by now (a codebook that collapses)."""
        return []


def spread(items: Sequence[T], most: int) -> list[T]:
    """At most so many of a sequence, evenly over all of it: what is looked at again at every evaluation."""
    count = min(len(items), most)
    return [items[number * len(items) // count] for number in range(count)]


def default_blocks(modules: Mapping[str, nn.Module]) -> list[nn.Module]:
    """The entries of every ModuleList that have parameters and a `forward`, outermost first and never nested.

    A ModuleList that is itself optimised only bundles networks: its entries are none.
    """
    found: list[nn.Module] = []
    inside: set[nn.Module] = set()
    for module in (m for optimised in modules.values() for m in optimised.modules()):
        if not isinstance(module, nn.ModuleList) or module in modules.values():
            continue
        for child in module:
            has_forward = not isinstance(child, nn.ModuleList | nn.ModuleDict)
            if child not in inside and has_forward and any(True for _ in child.parameters()):
                found.append(child)
                inside.update(child.modules())
    return found
