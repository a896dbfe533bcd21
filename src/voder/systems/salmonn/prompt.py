"""What the language model reads, put together on ids: begin, text, what was heard, text, answer.

A prompt is `USER: <Speech><SpeechHere></Speech> INSTRUCTION`, a new line and `ASSISTANT:`, split at `<SpeechHere>`;
the markers are plain text to the tokenizer. Only the answer and its end are learned. Rows are put together one by one
and padded behind (`pack`). The original pads what follows the audio inside the batch, so that padding lies in the
middle and positions are counted through it (`assemble`, which its reference vectors need).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F
from torch.nn.utils.rnn import pad_sequence

from voder.shapes import Embeddings, Tokens
from voder.systems.salmonn.config import SalmonnConfig
from voder.systems.salmonn.model import Salmonn
from voder.text.subwords import encode, encode_marked

IGNORED = -100
"""Label of what is not learned."""


@dataclass(frozen=True)
class Question:
    """Ids around what was heard."""

    before: list[int]
    after: list[int]


class Prompts:
    """Questions in a template, as ids."""

    def __init__(self, config: SalmonnConfig, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.begin = [config.lm.bos_id] if config.begin and config.lm.bos_id is not None else []
        self.head, self.tail = config.template.split("{}")
        markers = tokenizer.all_special_tokens
        self._marked = any(token in self.tail for token in markers)
        """Whether the template holds special tokens, which a question must not be able to write."""

    def question(self, instruction: str) -> Question:
        """Ids of a question, which is text whatever it looks like."""
        before = [*self.begin, *encode_marked(self.tokenizer, f"{self.head}<Speech>")]
        said = f"</Speech> {instruction}"
        if self._marked:
            return Question(before, [*encode(self.tokenizer, said), *encode_marked(self.tokenizer, self.tail)])
        return Question(before, encode(self.tokenizer, said + self.tail))

    def answer(self, text: str, end_id: int | None, longest: int) -> list[int]:
        """Ids of an answer and its end, cut to `longest`."""
        ids = [*encode(self.tokenizer, text), *([] if end_id is None else [end_id])]
        return ids[:longest]


@dataclass(frozen=True)
class Assembled:
    """A batch ready for the language model."""

    embeddings: Embeddings
    mask: Int[Tensor, "batch position"]
    """1 where a position counts."""
    labels: Tokens
    """The answer's ids and `IGNORED` elsewhere."""


def assemble(
    model: Salmonn,
    heard: Float[Tensor, "batch heard channel"],
    before: Int[Tensor, "batch before"],
    after: Int[Tensor, "batch after"],
    after_mask: Int[Tensor, "batch after"],
    answer: Int[Tensor, "batch answer"] | None = None,
    answer_mask: Int[Tensor, "batch answer"] | None = None,
) -> Assembled:
    """Lay the parts behind one another; without an answer there is nothing to learn, and the model can go on."""
    batch, count = len(heard), heard.shape[1]
    begin = torch.full((batch, 1), model.config.lm.bos_id or 0, device=heard.device)
    parts = [model.embed(begin), model.embed(before), heard, model.embed(after)]
    front = torch.ones(batch, 1 + before.shape[1] + count, dtype=torch.long, device=heard.device)
    mask = torch.cat((front, after_mask), dim=1)
    labels = torch.full_like(mask, IGNORED)
    if answer is not None and answer_mask is not None:
        parts.append(model.embed(answer))
        mask = torch.cat((mask, answer_mask), dim=1)
        labels = torch.cat((labels, answer.masked_fill(answer_mask == 0, IGNORED)), dim=1)
    return Assembled(torch.cat(parts, dim=1), mask, labels)


def pack(
    model: Salmonn,
    heard: Sequence[Float[Tensor, "_ _"]],
    questions: Sequence[Question],
    answers: Sequence[Sequence[int]] | None = None,
) -> Assembled:
    """Lay every row's parts behind one another and fill up behind them; without answers the model can go on."""
    rows, labels = [], []
    for number, (vectors, question) in enumerate(zip(heard, questions, strict=True)):
        answer = [] if answers is None else list(answers[number])
        ids = torch.tensor([*question.before, *question.after, *answer], device=vectors.device)
        text = model.embed(ids)
        place = len(question.before)
        rows.append(torch.cat((text[:place], vectors.to(text.dtype), text[place:])))
        silent = len(rows[-1]) - len(answer)
        labels.append(torch.tensor([*[IGNORED] * silent, *answer], device=vectors.device))
    lengths = torch.tensor([len(row) for row in rows], device=rows[0].device)
    embeddings = pad_sequence(rows, batch_first=True)
    mask = (torch.arange(embeddings.shape[1], device=lengths.device)[None] < lengths[:, None]).long()
    return Assembled(embeddings, mask, pad_sequence(labels, batch_first=True, padding_value=IGNORED))


def answer_logits(model: Salmonn, read: Assembled) -> Tensor:
    """Logits `[batch, position, id]` at every position, positions counted through padding."""
    positions = torch.arange(read.mask.shape[1], device=read.mask.device)[None]
    output = model.llama(inputs_embeds=read.embeddings, attention_mask=read.mask, position_ids=positions)
    logits: Tensor = output.logits
    return logits


def answer_loss(logits: Tensor, labels: Tokens) -> Tensor:
    """Mean cross-entropy of the answers' ids."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)
