"""The decoding engine: reads once, then one id per row and step, for any model that offers a session.

A row is decoded as if it were alone: it draws from its own generator, stops by itself, and rows that have stopped
leave the batch. Every row says how it stopped.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

import torch
from jaxtyping import Bool
from torch import Tensor

from voder.generate.sampling import Logits, RowNoise, SamplingConfig, choose, penalise

StopReason = Literal["end", "limit"]


@runtime_checkable
class Session(Protocol):
    """What the engine needs of a model: a batch that has been read, and its cache."""

    def start(self) -> Tensor:
        """Read what there is; logits `[batch, vocabulary]` of the first id."""

    def step(self, ids: Tensor) -> Tensor:
        """Append one id per row; logits of the next."""

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What a row may say, and for how long."""

    end_ids: tuple[int, ...]
    """Ids that end a row; they are not part of what it said."""
    max_lengths: Sequence[int]
    """Most ids that each row may say."""
    min_lengths: Sequence[int] | None = None
    """Fewest ids that each row says before an end id is allowed."""
    allowed: Bool[Tensor, " vocabulary"] | None = None
    """Ids that may be said (end ids are always allowed)."""


@dataclass(frozen=True)
class Said:
    """One step of one row."""

    row: int
    id: int | None
    """What was said; None when the row ended."""
    stop_reason: StopReason | None
    """How the row ended; None while it goes on."""
    log_probability: float = 0.0
    """Of what was said (or of the end) before temperature, if asked for."""


@dataclass
class Decoded:
    """All that a row said."""

    ids: list[int]
    stop_reason: StopReason
    """`end` when it said so, `limit` when its length was used up."""
    log_probability: float = 0.0
    """Of all ids and the end before temperature, if asked for."""

    @property
    def truncated(self) -> bool:
        """True when the limit cut it."""
        return self.stop_reason == "limit"


class Allowance:
    """Masks logits: allowed ranges, and no end before the shortest length."""

    def __init__(self, limits: Limits, size: int, device: torch.device) -> None:
        base = torch.ones(size, dtype=torch.bool) if limits.allowed is None else limits.allowed.clone().cpu()
        self._ends = torch.zeros(size, dtype=torch.bool)
        self._ends[list(limits.end_ids)] = True
        self._forbidden = (~(base | self._ends)).to(device)
        self._ends = self._ends.to(device)
        shortest = limits.min_lengths or [0] * len(limits.max_lengths)
        self._shortest = torch.tensor(list(shortest), device=device)

    def apply(self, logits: Logits, step: int) -> Logits:
        """Rule out what may not be said after `step` ids."""
        too_early = (step < self._shortest)[:, None] & self._ends
        return logits.masked_fill(self._forbidden | too_early, -torch.inf)

    def select(self, rows: Tensor) -> None:
        """Keep these rows."""
        self._shortest = self._shortest[rows]


@torch.no_grad()
def stream(
    session: Session,
    sampling: SamplingConfig,
    limits: Limits,
    generators: Sequence[torch.Generator],
    *,
    with_log_probabilities: bool = False,
) -> Iterator[list[Said]]:
    """Decode step by step, yielding what every live row said in this step.

    Args:
        generators: one per row (a CPU generator each); not drawn from when greedy.
        with_log_probabilities: also say how probable each id was; costs a softmax over the vocabulary a step.
    """
    logits = session.start()
    device = logits.device
    allowance = Allowance(limits, logits.shape[-1], device)
    noise = RowNoise(generators, device)
    zero = torch.zeros(len(generators), dtype=torch.float64, device=device)
    recent = torch.full((len(generators), sampling.repetition_window), -1, device=device)
    live = [row for row, longest in enumerate(limits.max_lengths)]
    finished = [longest <= 0 for longest in limits.max_lengths]
    if any(finished):
        yield [Said(row, None, "limit") for row in live if finished[row]]
    step = 0
    while not all(finished[row] for row in live):
        scores = allowance.apply(logits.float(), step)
        if sampling.repetition_window and sampling.repetition_penalty != 1:
            scores = penalise(scores, recent, sampling.repetition_penalty)
        ids = choose(scores, sampling, zero[: len(live)] if sampling.greedy else noise.next())
        step += 1
        chances = _log_probabilities(scores, ids) if with_log_probabilities else [0.0] * len(live)
        yield _report(ids.tolist(), chances, live, finished, limits, step)
        recent = torch.cat((recent, ids[:, None]), dim=1)[:, 1:]
        keep = [slot for slot, row in enumerate(live) if not finished[row]]
        if not keep:
            return
        if len(keep) <= len(live) // 2:  # half the work is for nobody: let finished rows go
            rows = torch.tensor(keep, device=device)
            for holder in (session, noise, allowance):
                holder.select(rows)
            recent, ids, live = recent[rows], ids[rows], [live[slot] for slot in keep]
        logits = session.step(ids)


def _log_probabilities(scores: Logits, ids: Tensor) -> list[float]:
    chosen: list[float] = scores.log_softmax(dim=-1).gather(1, ids[:, None])[:, 0].tolist()
    return chosen


def _report(
    ids: list[int], chances: list[float], live: list[int], finished: list[bool], limits: Limits, step: int
) -> list[Said]:
    """Turn chosen ids into events and mark rows that end."""
    events = []
    for id_, chance, row in zip(ids, chances, live, strict=True):
        if finished[row]:
            continue
        ended = id_ in limits.end_ids
        reason: StopReason | None = "end" if ended else "limit" if step >= limits.max_lengths[row] else None
        finished[row] = reason is not None
        events.append(Said(row, None if ended else id_, reason, chance))
    return events


def decode(
    session: Session,
    sampling: SamplingConfig,
    limits: Limits,
    generators: Sequence[torch.Generator],
    *,
    with_log_probabilities: bool = False,
) -> list[Decoded]:
    """Decode a batch to its ends; the arguments are those of `stream`."""
    results = [Decoded([], "limit") for _ in limits.max_lengths]
    for events in stream(session, sampling, limits, generators, with_log_probabilities=with_log_probabilities):
        for said in events:
            results[said.row].log_probability += said.log_probability
            if said.id is not None:
                results[said.row].ids.append(said.id)
            if said.stop_reason is not None:
                results[said.row].stop_reason = said.stop_reason
    return results
