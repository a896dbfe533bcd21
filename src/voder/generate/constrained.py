"""Decoding that keeps to a grammar of text and marked stretches of codes, row by row."""

from collections.abc import Sequence

import torch
from torch import Tensor

from voder.generate.decode import Session
from voder.sequence.spans import SpanGrammar, SpanState


class ConstrainedSession:
    """A session whose logits are impossible where the grammar forbids an id.

    The room of a row is what the engine lets it say: a stretch is begun only where it can be completed, and it is.
    """

    def __init__(
        self, session: Session, grammar: SpanGrammar, room: Sequence[int], begun: Sequence[Sequence[int]] | None = None
    ) -> None:
        """`begun` are ids at the end of each prompt that already belong to the answer (a start that is forced)."""
        self._session, self._grammar = session, grammar
        self._states = [SpanState(room=count) for count in room]
        for state, ids in zip(self._states, begun or [()] * len(room), strict=True):
            for id_ in ids:
                grammar.advance(state, id_)
                state.room += 1

    def start(self) -> Tensor:
        """Read what there is."""
        return self._masked(self._session.start())

    def step(self, ids: Tensor) -> Tensor:
        """Append one id per row."""
        for state, id_ in zip(self._states, ids.tolist(), strict=True):
            self._grammar.advance(state, id_)
        return self._masked(self._session.step(ids))

    def select(self, rows: Tensor) -> None:
        """Keep these rows, in this order."""
        self._session.select(rows)
        kept = rows.tolist()
        self._states = [SpanState(**vars(self._states[row])) for row in kept]

    def _masked(self, logits: Tensor) -> Tensor:
        masks = torch.stack([self._grammar.allowed(state) for state in self._states])
        width = logits.shape[-1] - masks.shape[-1]  # rows of a network that has more than the vocabulary
        masks = torch.nn.functional.pad(masks, (0, width))
        return logits.masked_fill(~masks.to(logits.device), -torch.inf)
