"""Ids of prompts and answers. Text never becomes a special token, whatever it looks like: ends are set on ids."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from voder.errors import TextError
from voder.shapes import Mask, Tokens
from voder.systems.pengi.config import PengiConfig
from voder.text.subwords import encode

PAD = 0
"""Fills up prompts and answers ("!" in both published vocabularies); what is padding is known by place."""


class Reader:
    """The two tokenizers of a model."""

    def __init__(self, config: PengiConfig, tokenizer: Any, prompt_tokenizer: Any) -> None:
        """Raises ValueError when a tokenizer has more ids than its network."""
        self.config, self.tokenizer = config, tokenizer
        self.prompt_tokenizer = tokenizer if config.text is None else prompt_tokenizer
        if len(tokenizer) > config.lm.vocabulary_size:
            raise ValueError(f"the tokenizer has {len(tokenizer)} ids, the language model {config.lm.vocabulary_size}")
        if config.lm.eos_id is None:
            raise ValueError("lm.eos_id must be set: it ends every answer")
        self.end_id = config.lm.eos_id

    def prompt_ids(self, prompt: str) -> list[int]:
        """Ids of a prompt, between the tower's begin and end (its two highest ids) where there is a tower.

        Raises:
            TextError: empty, or longer than `max_prompt`.
        """
        text = self.config.text
        ids = encode(self.prompt_tokenizer, prompt.strip())
        marks = 0 if text is None else 2
        if not ids or len(ids) + marks > self.config.max_prompt:
            raise TextError(
                f"the prompt {prompt[:40]!r} has {len(ids)} ids; from 1 to {self.config.max_prompt - marks} are read"
            )
        if text is not None:
            if max(ids) >= text.vocabulary_size - 2:
                raise TextError(f"the prompt {prompt[:40]!r} holds ids that mark begin and end in the text tower")
            ids = [text.vocabulary_size - 2, *ids, text.vocabulary_size - 1]
        return ids

    def answer_ids(self, answer: str) -> list[int]:
        """Ids of an answer and its end."""
        return [*encode(self.tokenizer, answer.strip()), self.end_id]

    def answer(self, ids: Sequence[int]) -> str:
        """The text of an answer, without its end."""
        text: str = self.tokenizer.decode([id_ for id_ in ids if id_ != self.end_id], skip_special_tokens=True)
        return text.strip()

    def pad(self, rows: Sequence[Sequence[int]], length: int | None = None) -> tuple[Tokens, Mask]:
        """A batch of ids, and which of them are no padding."""
        width = max(map(len, rows)) if length is None else length
        ids = torch.full((len(rows), width), PAD)
        valid = torch.zeros(len(rows), width, dtype=torch.bool)
        for row, line in enumerate(rows):
            ids[row, : len(line)] = torch.tensor(line)
            valid[row, : len(line)] = True
        return ids, valid

    def prompts(self, prompts: Sequence[str]) -> tuple[Tensor, Tensor]:
        """A batch of prompts, padded to `max_prompt`."""
        return self.pad([self.prompt_ids(prompt) for prompt in prompts], self.config.max_prompt)
