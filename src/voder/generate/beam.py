"""Beam search over a session: batched, with the same limits as sampling.

Hypotheses that end while among the best leave the beam and are kept apart, so they never crowd out live ones; a row
is done when no live hypothesis can still beat the ended ones that are kept.
"""

from dataclasses import dataclass, field

import torch
from jaxtyping import Float
from torch import Tensor

from voder.errors import ConfigError
from voder.generate.decode import Allowance, Limits, Session, StopReason

Scores = Float[Tensor, "batch beam"]


@dataclass(frozen=True, kw_only=True)
class BeamConfig:
    """How wide, and how lengths compare."""

    num_beams: int = 5
    """Live hypotheses per row, and ended ones kept."""
    length_penalty: float = 1.0
    """Hypotheses are ranked by log probability / length ** length_penalty; 0 ranks by log probability alone."""

    patience: float | None = None
    """If given, a row is done once num_beams * patience hypotheses have ended, whatever the live ones promise
    (2204.05424; Whisper's rule, which also takes an end of any rank above the last live hypothesis)."""

    def __post_init__(self) -> None:
        if self.num_beams < 1:
            raise ConfigError(f"num_beams {self.num_beams} must be at least 1")
        if self.patience is not None and not self.patience > 0:
            raise ConfigError(f"patience {self.patience} must be above 0")
        if self.length_penalty < 0:
            raise ConfigError(f"length_penalty {self.length_penalty} must be at least 0")

    @property
    def num_kept(self) -> int:
        """Ended hypotheses kept per row."""
        return self.num_beams if self.patience is None else max(1, round(self.num_beams * self.patience))


@dataclass(frozen=True)
class Hypothesis:
    """One way a row may go on."""

    ids: tuple[int, ...]
    """Without the end id."""
    log_probability: float
    """Of all ids, the end id included."""
    score: float
    """Normalised by length (the end id counts)."""
    stop_reason: StopReason


@dataclass
class _Row:
    """What a row has found so far."""

    longest: int
    ended: list[Hypothesis] = field(default_factory=list)
    live: list[tuple[int, ...]] = field(default_factory=lambda: [()])
    done: bool = False

    def keep(
        self, ids: tuple[int, ...], log_probability: float, length: int, reason: StopReason, by: BeamConfig
    ) -> None:
        if by.patience is not None and len(self.ended) >= by.num_kept:
            return
        score = log_probability / max(length, 1) ** by.length_penalty
        self.ended.append(Hypothesis(ids, log_probability, score, reason))
        self.ended = sorted(self.ended, key=lambda h: -h.score)[: by.num_kept]

    def is_settled(self, best_live: float, by: BeamConfig) -> bool:
        """No live hypothesis can get better than the worst ended one: its log probability only falls."""
        if len(self.ended) < by.num_kept:
            return False
        if by.patience is not None:
            return True
        return self.ended[-1].score >= best_live / max(self.longest, 1) ** by.length_penalty


@torch.no_grad()
def beam_search(session: Session, config: BeamConfig, limits: Limits) -> list[list[Hypothesis]]:
    """Return each row's hypotheses, best first."""
    beams = config.num_beams
    logits = session.start()
    num_rows, size = logits.shape
    device = logits.device
    session.select(torch.arange(num_rows, device=device).repeat_interleave(beams))
    logits = logits.repeat_interleave(beams, dim=0)
    allowance = Allowance(limits, size, device)
    allowance.select(torch.arange(num_rows, device=device).repeat_interleave(beams))
    rows = [_Row(longest, live=[()] * beams) for longest in limits.max_lengths]
    # at first a row's beams are copies: only the first counts
    scores = torch.full((num_rows, beams), -torch.inf, dtype=torch.float64, device=device)
    scores[:, 0] = 0.0
    for step in range(max(limits.max_lengths)):
        chances = allowance.apply(logits.float(), step).double().log_softmax(dim=-1)
        total = (scores[:, :, None] + chances.view(num_rows, beams, size)).flatten(1)
        width = min(total.shape[1], beams * (1 + len(limits.end_ids)))
        best, flat = total.topk(width, dim=1)
        parents, ids, kept = _advance(rows, best.tolist(), flat.tolist(), size, step + 1, config, limits)
        scores = torch.tensor(kept, dtype=torch.float64, device=device)
        if all(row.done for row in rows):
            break
        session.select(torch.tensor(parents, device=device))
        allowance.select(torch.tensor(parents, device=device))
        logits = session.step(torch.tensor(ids, device=device))
    return [row.ended for row in rows]


def _advance(
    rows: list[_Row],
    best: list[list[float]],
    flat: list[list[int]],
    size: int,
    length: int,
    config: BeamConfig,
    limits: Limits,
) -> tuple[list[int], list[int], list[list[float]]]:
    """Split candidates into ended and live; returns parent slots, ids and scores of the live ones."""
    parents, ids, scores = [], [], []
    for number, row in enumerate(rows):
        live: list[tuple[int, int, float]] = []
        for rank, (score, place) in enumerate(zip(best[number], flat[number], strict=True)):
            parent, id_ = divmod(place, size)
            if row.done or score == -torch.inf:
                continue
            if id_ in limits.end_ids:
                # so that one beam is greedy
                if rank < config.num_beams if config.patience is None else len(live) < config.num_beams:
                    row.keep(row.live[parent], score, length, "end", config)
            elif len(live) < config.num_beams:
                live.append((parent, id_, score))
        if length >= row.longest and not row.done:
            for parent, id_, score in live:
                if config.patience is None or len(row.ended) < config.num_beams:
                    row.keep((*row.live[parent], id_), score, length, "limit", config)
            row.done = True
        elif not row.done:
            row.done = not live or row.is_settled(live[0][2], config)
        row.live = [(*row.live[parent], id_) for parent, id_, _ in live]
        missing = config.num_beams - len(live)  # dead slots: any parent, no probability
        base = number * config.num_beams
        parents += [base + parent for parent, _, _ in live] + [base] * missing
        ids += [id_ for _, id_, _ in live] + [0] * missing
        row.live += [()] * missing
        scores.append([score for _, _, score in live] + [-torch.inf] * missing)
    return parents, ids, scores
