"""Low-rank changes beside the frozen weights of a language model (LoRA, 2106.09685), by peft."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from torch import nn


@dataclass(frozen=True, kw_only=True)
class LoraSizes:
    """Low-rank changes of linear layers (2106.09685)."""

    rank: int = 8
    """Inner width."""
    alpha: int = 32
    """Scale times rank; a factor at run time multiplies it."""
    dropout: float = 0.1
    """On what enters the low-rank path, in training."""


def with_lora(model: Any, sizes: LoraSizes, targets: Sequence[str] = ("q_proj", "v_proj")) -> Any:
    """The model in a `peft.PeftModel` whose LoRA, on the linear layers of these names, alone is trainable."""
    from peft import LoraConfig, get_peft_model

    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property under its old name
        warnings.simplefilter("ignore", FutureWarning)
        # GPT-2 keeps its matrices the other way round, which peft notices and says
        warnings.filterwarnings("ignore", message="fan_in_fan_out", category=UserWarning)
        change = LoraConfig(
            r=sizes.rank,
            lora_alpha=sizes.alpha,
            lora_dropout=sizes.dropout,
            target_modules=list(targets),
            task_type="CAUSAL_LM",
        )
        return get_peft_model(model, change)


def lora_layers(model: nn.Module) -> list[Any]:
    """The linear layers that LoRA changes; none of a plain model."""
    return [module for module in model.modules() if isinstance(getattr(module, "scaling", None), dict)]


def set_lora_factor(model: nn.Module, factor: float) -> None:
    """Scale the LoRA: 1 as trained, 0 gives the language model as it was, bit for bit."""
    changed = lora_layers(model)
    if not changed:
        raise ValueError("this language model has no LoRA whose factor could be set")
    for layer in changed:
        for name in layer.scaling:
            layer.scaling[name] = layer.lora_alpha[name] / layer.r[name] * factor


def merge_lora(model: Any) -> Any:
    """Add the LoRA, at its present factor, to the matrices it changes; returns the plain model (the same object)."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        return model.merge_and_unload()
