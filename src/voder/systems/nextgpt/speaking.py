"""How a turn is said: ids one by one, and a span of signals that has begun is always said to its end.

A kind is shown once in a turn at most, so signals never go on for ever; an asked-for kind that was not shown of itself
is shown when the text ends.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from torch import Tensor

from voder.generate.decode import Session, StopReason
from voder.generate.lm import GenerateConfig
from voder.generate.sampling import RowNoise, choose, penalise
from voder.systems.nextgpt.pieces import Words


@dataclass
class Said:
    """An assistant's turn on ids."""

    text: list[int] = field(default_factory=list)
    """Without signals and end."""
    ids: list[int] = field(default_factory=list)
    """All that was said, for reading it again."""
    shows: list[str] = field(default_factory=list)
    """Kinds that were shown, each by a whole span."""
    stop_reason: StopReason = "limit"


def speak(
    session: Session,
    words: Words,
    how: GenerateConfig,
    *,
    kinds: Sequence[str],
    want: str | None,
    noise: torch.Generator,
    room: int,
) -> Said:
    """Say one turn; `kinds` may be shown, `want` must be, `room` is how many positions are left."""
    said, logits = Said(), session.start()
    chance = RowNoise([noise], logits.device)
    spans = {kind: words.signals(kind) for kind in kinds}
    reserve = len(spans[want]) if want else 0
    longest = min(how.max_new, room)
    while len(said.ids) + (reserve if want not in said.shows else 0) < longest:
        allowed = _allowed(logits, words, spans, said, longest)
        if len(said.text) < how.min_new:
            allowed[[stop[0] for stop in words.stops if len(stop) == 1]] = False
        scores = logits.float().masked_fill(~allowed, -torch.inf)
        if how.repetition_window and how.repetition_penalty != 1:
            recent = torch.tensor([said.ids[-how.repetition_window :] or [-1]], device=logits.device)
            scores = penalise(scores, recent, how.repetition_penalty)
        sampling = how.sampling()
        drawn = torch.zeros(1, dtype=torch.float64, device=logits.device) if how.greedy else chance.next()
        id_ = int(choose(scores, sampling, drawn))
        begun = next((kind for kind, span in spans.items() if span[0] == id_), None)
        if begun is not None:
            logits = _show(session, said, begun, spans[begun], logits.device)
            continue
        said.ids.append(id_)
        said.text.append(id_)
        if (stop := _ended(said.ids, words.stops)) is not None:
            said.text, said.stop_reason = said.text[: len(said.text) - len(stop)], "end"
            said.ids = said.ids[: len(said.ids) - len(stop)]
            break
        logits = session.step(torch.tensor([id_], device=logits.device))
    if want is not None and want not in said.shows:
        said.ids += spans[want]
        said.shows.append(want)
    return said


def _allowed(logits: Tensor, words: Words, spans: dict[str, tuple[int, ...]], said: Said, longest: int) -> Tensor:
    """Text, and the first signal of kinds that were not shown yet and still fit."""
    allowed = torch.zeros(logits.shape[-1], dtype=torch.bool, device=logits.device)
    allowed[: words.vocabulary["text"].end] = True
    for kind, span in spans.items():
        if kind not in said.shows and len(said.ids) + len(span) <= longest:
            allowed[span[0]] = True
    return allowed


def _show(session: Session, said: Said, kind: str, span: Sequence[int], device: torch.device) -> Tensor:
    """Say a whole span; logits of what follows."""
    logits = torch.empty(0)
    for id_ in span:
        logits = session.step(torch.tensor([id_], device=device))
    said.ids += span
    said.shows.append(kind)
    return logits


def _ended(ids: Sequence[int], stops: Sequence[tuple[int, ...]]) -> tuple[int, ...] | None:
    """The end that has just been said, in one piece (no signals within it); the longest of several."""
    found = [stop for stop in stops if stop and tuple(ids[-len(stop) :]) == stop]
    return max(found, key=len, default=None)
