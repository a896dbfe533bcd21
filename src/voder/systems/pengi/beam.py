"""Pengi's own beam search (that of ClipCap, 2111.09734): all hypotheses compete by their mean log probability.

It differs from `generate.beam_search` in that an ended hypothesis keeps its place in the beam while it is among the
best, and that its length, the end included, divides its score from the first comparison on.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from voder.errors import ConfigError
from voder.generate.decode import Session, StopReason


@dataclass(frozen=True, kw_only=True)
class SearchConfig:
    """How the search goes."""

    num_beams: int = 3
    """Hypotheses side by side."""
    max_new: int = 30
    """Longest answer."""
    temperature: float = 1.0
    """Divides the logits."""

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_new < 1:
            raise ConfigError(f"num_beams {self.num_beams} and max_new {self.max_new} must be at least 1")
        if not self.temperature > 0:
            raise ConfigError(f"temperature {self.temperature} must be above 0")


@dataclass(frozen=True)
class Found:
    """One hypothesis."""

    ids: tuple[int, ...]
    """With the end id, where it ended."""
    score: float
    """Mean log probability of its ids."""
    stop_reason: StopReason


@torch.no_grad()
def search(session: Session, config: SearchConfig, end_id: int) -> list[Found]:
    """The hypotheses of a session of one row, best first."""
    beams = config.num_beams
    chances = _chances(session.start(), config)
    beams = min(beams, chances.shape[1])
    total, ids = chances[0].topk(beams)
    session.select(torch.zeros(beams, dtype=torch.long, device=ids.device))
    tokens, lengths, ended = ids[:, None], torch.ones_like(total), ids == end_id
    for _ in range(config.max_new - 1):
        if bool(ended.all()):
            break
        chances = _chances(session.step(tokens[:, -1]), config)
        chances[ended] = -torch.inf
        chances[ended, 0] = 0.0
        lengths = lengths + (~ended)
        sums = total[:, None] + chances
        means, flat = (sums / lengths[:, None]).flatten().topk(beams)
        source, ids = flat // chances.shape[1], flat % chances.shape[1]
        session.select(source)
        lengths, ended = lengths[source], ended[source]
        tokens = torch.cat((tokens[source], ids[:, None]), dim=1)
        total = means * lengths
        ended = ended | (ids == end_id)
    return _ranked(tokens, total / lengths, lengths, ended)


def _chances(logits: Tensor, config: SearchConfig) -> Tensor:
    return (logits.float() / config.temperature).log_softmax(dim=-1)


def _ranked(tokens: Tensor, scores: Tensor, lengths: Tensor, ended: Tensor) -> list[Found]:
    found = [
        Found(tuple(row[: int(length)]), score, "end" if over else "limit")
        for row, score, length, over in zip(
            tokens.tolist(), scores.tolist(), lengths.tolist(), ended.tolist(), strict=True
        )
    ]
    return sorted(found, key=lambda each: -each.score)
