"""From logits to one id per row.

A row draws its noise from a generator of its own, so what it says does not depend on who shares the batch.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from voder.config import nearest
from voder.errors import ConfigError

Logits = Float[Tensor, "batch vocabulary"]
_BLOCK = 256


@dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """How an id is chosen from its probabilities."""

    greedy: bool = False
    """Take the most probable id; nothing is random."""
    temperature: float = 1.0
    """Below 1 sharpens, above 1 flattens."""
    top_k: int = 0
    """Only the k most probable ids; 0 allows all."""
    top_p: float = 1.0
    """Only the most probable ids that together reach this probability (nucleus, 1904.09751)."""
    repetition_penalty: float = 1.0
    """Logits of recently said ids are divided (positive) or multiplied (negative) by this (1909.05858)."""
    repetition_window: int = 0
    """How many of the last ids count as recent."""

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature} must be above 0; for no randomness set greedy=true")
        if self.top_k < 0 or self.repetition_window < 0:
            raise ConfigError(
                f"top_k {self.top_k} and repetition_window {self.repetition_window} must be at least 0 (0 is off)"
            )
        if not 0 < self.top_p <= 1:
            raise ConfigError(f"top_p {self.top_p} must lie in (0, 1]; 1 is off")
        if self.repetition_penalty < 1:
            raise ConfigError(f"repetition_penalty {self.repetition_penalty} must be at least 1; 1 is off")


def sampling_config(options: Mapping[str, Any], defaults: Mapping[str, Any]) -> SamplingConfig:
    """The sampling of a verb's options, with a system's `defaults` for those that are not given (or None).

    Raises:
        ConfigError: an option that does not exist or is out of range.
    """
    known = [field.name for field in fields(SamplingConfig)]
    for name in options:
        if name not in known:
            raise ConfigError(f"there is no sampling option {name!r}{nearest(name, known)}")
    return SamplingConfig(**{**defaults, **{name: value for name, value in options.items() if value is not None}})


def penalise(logits: Logits, recent: Int[Tensor, "batch window"], penalty: float) -> Logits:
    """Make the ids in `recent` less likely; negative entries there stand for nothing."""
    said = torch.zeros_like(logits).scatter_add(1, recent.clamp(min=0), (recent >= 0).to(logits.dtype)) > 0
    return torch.where(said, torch.where(logits > 0, logits / penalty, logits * penalty), logits)


def probabilities(logits: Logits, config: SamplingConfig) -> Float[Tensor, "batch vocabulary"]:
    """The distribution that is sampled from: temperature, then top-k, then top-p."""
    scaled = logits.double() / config.temperature
    if 0 < config.top_k < logits.shape[-1]:
        smallest = scaled.topk(config.top_k, dim=-1).values[:, -1:]
        scaled = scaled.masked_fill(scaled < smallest, -torch.inf)
    chances = scaled.softmax(dim=-1)
    if config.top_p < 1:
        ordered, order = chances.sort(dim=-1, descending=True)
        # an id stays while those before it have not reached top_p: the most probable one always stays
        dropped = ordered.cumsum(dim=-1) - ordered >= config.top_p
        chances = chances.masked_fill(torch.zeros_like(dropped).scatter(1, order, dropped), 0.0)
        chances = chances / chances.sum(dim=-1, keepdim=True)
    return chances


def choose(logits: Logits, config: SamplingConfig, noise: Float[Tensor, " batch"]) -> Int[Tensor, " batch"]:
    """Choose one id per row; `noise` is uniform in [0, 1) and is not looked at when greedy."""
    if config.greedy:
        return logits.argmax(dim=-1)
    cumulated = probabilities(logits, config).cumsum(dim=-1)
    # the last id with any probability: noise close to 1 must not fall behind it by rounding
    total = cumulated[:, -1:]
    return torch.searchsorted(cumulated, noise[:, None].double() * total, right=True)[:, 0].clamp_(
        max=logits.shape[-1] - 1
    )


class RowNoise:
    """Uniform numbers, one per row and step, from one generator per row."""

    def __init__(self, generators: Sequence[torch.Generator], device: torch.device) -> None:
        self._generators = list(generators)
        self._device = device
        self._block = torch.empty(0, len(self._generators), dtype=torch.float64, device=device)
        self._used = 0

    def next(self) -> Float[Tensor, " batch"]:
        """The numbers of the next step."""
        if self._used == self._block.shape[0]:
            # whole blocks, so that a generator's sequence does not depend on how many steps others take
            drawn = [torch.rand(_BLOCK, generator=g, dtype=torch.float64) for g in self._generators]
            self._block, self._used = torch.stack(drawn, dim=1).to(self._device), 0
        self._used += 1
        return self._block[self._used - 1]

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        self._block = self._block[:, rows]
        self._generators = [self._generators[int(row)] for row in rows]
