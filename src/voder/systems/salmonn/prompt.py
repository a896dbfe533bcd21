"""What the language model reads, put together on ids: begin, text, what was heard, text, answer.

A prompt is `USER: <Speech><SpeechHere></Speech> INSTRUCTION`, a new line and `ASSISTANT:`, split at `<SpeechHere>`;
the markers are plain text to the tokenizer. Only the answer and its end are learned. As in the original, what follows
the audio is padded on the right inside the batch, so padding may lie in the middle; positions are not compacted.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from voder.shapes import Embeddings, Tokens
from voder.systems.salmonn.model import Salmonn

SPEECH_HERE = "<SpeechHere>"
IGNORED = -100
"""Label of what is not learned."""


def split_prompt(instruction: str) -> tuple[str, str]:
    """The texts before and after the audio of an instruction, in the published frame."""
    before, after = f"USER: <Speech>{SPEECH_HERE}</Speech> {instruction}\nASSISTANT:".split(SPEECH_HERE)
    return before, after


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
    begin = torch.full((batch, 1), model.config.llama.bos_id, device=heard.device)
    parts = [model.embed(begin), model.embed(before), heard, model.embed(after)]
    front = torch.ones(batch, 1 + before.shape[1] + count, dtype=torch.long, device=heard.device)
    mask = torch.cat((front, after_mask), dim=1)
    labels = torch.full_like(mask, IGNORED)
    if answer is not None and answer_mask is not None:
        parts.append(model.embed(answer))
        mask = torch.cat((mask, answer_mask), dim=1)
        labels = torch.cat((labels, answer.masked_fill(answer_mask == 0, IGNORED)), dim=1)
    return Assembled(torch.cat(parts, dim=1), mask, labels)


def answer_logits(model: Salmonn, read: Assembled) -> Tensor:
    """Logits `[batch, position, id]` at every position, positions counted through padding."""
    positions = torch.arange(read.mask.shape[1], device=read.mask.device)[None]
    output = model.llama(inputs_embeds=read.embeddings, attention_mask=read.mask, position_ids=positions)
    logits: Tensor = output.logits
    return logits


def answer_loss(logits: Tensor, labels: Tokens) -> Tensor:
    """Mean cross-entropy of the answers' ids."""
    return F.cross_entropy(logits[:, :-1].flatten(0, 1).float(), labels[:, 1:].flatten(), ignore_index=IGNORED)


@torch.no_grad()
def generate(model: Salmonn, read: Assembled, *, max_new: int = 200, num_beams: int = 4) -> Tokens:
    """Ids of the best answers, 0 behind their end; beam 4 without sampling, as published."""
    ids: Tensor = model.llama.generate(
        inputs_embeds=read.embeddings,
        attention_mask=read.mask,
        max_new_tokens=max_new,
        num_beams=num_beams,
        do_sample=False,
        eos_token_id=model.config.llama.eos_id,
        pad_token_id=0,
    )
    return ids
