"""What Whisper may say next (2212.04356, sections 2.3 and 4.5): all rows at once, state in tensors.

- never: symbols that nobody says, and the ids that belong into prompts;
- first: no space and no end;
- timestamps: the first id is one, not later than `max_initial_timestamp_s`; they come in pairs (end of a segment,
  start of the next) and never go back; where all timestamps together are likelier than every text id, one is said.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.tokenizer import SECONDS_PER_TIMESTAMP, WhisperTokenizer

Logits = Float[Tensor, "row vocabulary"]
Rows = Int[Tensor, " row"]


def suppressed_ids(tokenizer: WhisperTokenizer, listen: ListenConfig) -> list[int]:
    """Ids that are never said."""
    if not listen.suppress_tokens:
        return []
    named = [i for i in listen.suppress_tokens if i >= 0]
    unspoken = list(tokenizer.unspoken_ids) if -1 in listen.suppress_tokens else []
    t = tokenizer
    return sorted({*named, *unspoken, t.transcribe, t.translate, t.sot, t.sot_prev, t.sot_lm, t.no_speech})


@dataclass
class _Said:
    """What the timestamp rules remember of every row."""

    last: Bool[Tensor, " row"]
    """The last id was a timestamp."""
    before: Bool[Tensor, " row"]
    """So was the one before it, or there was none."""
    latest: Int[Tensor, " row"]
    """The latest timestamp id; -1 if there was none."""


class Rules:
    """Masks logits of rows; keeps in step with a session through `observe` and `select`."""

    def __init__(self, tokenizer: WhisperTokenizer, listen: ListenConfig, num_rows: int, device: torch.device) -> None:
        size = tokenizer.vocabulary_size
        self.eot, self.first_timestamp = tokenizer.eot, tokenizer.timestamp_begin
        self.never = torch.zeros(size, dtype=torch.bool, device=device)
        self.never[suppressed_ids(tokenizer, listen)] = True
        self.at_first = torch.zeros(size, dtype=torch.bool, device=device)
        if listen.suppress_blank:
            self.at_first[[*tokenizer.encode(" "), tokenizer.eot]] = True
        self.timestamps = listen.timestamps
        self.ids = torch.arange(size, device=device)
        if listen.timestamps:
            self.never[tokenizer.no_timestamps] = True
            self.at_first |= self.ids < self.first_timestamp
            if listen.max_initial_timestamp_s is not None:
                latest = self.first_timestamp + round(listen.max_initial_timestamp_s / SECONDS_PER_TIMESTAMP)
                self.at_first |= self.ids > latest
        yes = torch.ones(num_rows, dtype=torch.bool, device=device)
        self.said = _Said(yes, yes.clone(), torch.full((num_rows,), -1, device=device))
        self.step = 0

    def apply(self, logits: Logits) -> Logits:
        """Give what may not be said now the logit -inf."""
        logits = logits.masked_fill(self.never, -torch.inf)
        if self.step == 0:
            logits = logits.masked_fill(self.at_first, -torch.inf)
        elif self.timestamps:
            logits = logits.masked_fill(self._out_of_order(), -torch.inf)
        if not self.timestamps:
            return logits
        first = self.first_timestamp
        forced = logits[:, first:].logsumexp(dim=1) > logits[:, :first].amax(dim=1)
        return logits.masked_fill(forced[:, None] & (self.ids < first), -torch.inf)

    def _out_of_order(self) -> Bool[Tensor, "row vocabulary"]:
        said, first = self.said, self.first_timestamp
        is_timestamp = (self.ids >= first)[None]
        complete = (said.last & said.before)[:, None] & is_timestamp
        open_ = said.last & ~said.before
        unpaired = open_[:, None] & (self.ids < self.eot)
        # an open segment's end may repeat as the next one's start; otherwise time moves on
        earliest = torch.where(said.latest >= 0, said.latest + (~open_).long(), 0)
        return complete | unpaired | (is_timestamp & (self.ids < earliest[:, None]))

    def observe(self, ids: Rows) -> None:
        """Take note of one more id per row."""
        is_timestamp = ids >= self.first_timestamp
        before = self.said.last if self.step else torch.ones_like(is_timestamp)
        latest = torch.where(is_timestamp, ids, self.said.latest)
        self.said = _Said(is_timestamp, before, latest)
        self.step += 1

    def select(self, rows: Rows) -> None:
        """Keep these rows."""
        self.said = _Said(self.said.last[rows], self.said.before[rows], self.said.latest[rows])
