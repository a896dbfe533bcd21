"""The language model as a reader of text, and of codes that were added to its vocabulary.

Its own weights never change: what learns is LoRA beside them, and the rows of new ids, which are kept apart from the
old ones. Anything that `voder.nn.causal_lm` builds can be one.
"""

from collections.abc import Sequence
from functools import partial
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.data.cache import Kept
from voder.nn.causal_lm import build_causal_lm
from voder.nn.codec_lm import embedding
from voder.nn.lora import with_lora
from voder.shapes import Embeddings, Mask, Tokens
from voder.systems.llmtts.config import LlmTtsConfig

Hidden = Float[Tensor, "position channel"]


TextMemory = Kept[Hidden]
"""Hidden states of texts, for a language model that does not change."""


def text_memory(max_bytes: int) -> TextMemory:
    """An empty memory."""
    return TextMemory(max_bytes, lambda hidden: hidden.numel() * hidden.element_size())


class Reader(nn.Module):
    """Ids to the last hidden states (behind the final norm), and those to logits of the new ids."""

    def __init__(self, config: LlmTtsConfig, *, num_new: int, num_said: int) -> None:
        """`num_new` ids follow the language model's own, of which the first `num_said` can be said (0: none)."""
        super().__init__()
        self.size, self.bos_id = config.lm.vocabulary_size, config.lm.bos_id
        self.num_said = num_said
        network = build_causal_lm(config.lm).requires_grad_(False)
        self.network: Any = network
        if config.lora is not None:
            self.network = with_lora(network, config.lora, config.lora_targets)
        self.frozen = config.lora is None
        self.new_ids = embedding(num_new, config.lm.width) if num_new else None
        # a tied language model says new ids by the rows that it reads them with
        untied = bool(num_said) and not config.lm.tie_embeddings
        self.said = nn.Linear(config.lm.width, num_said, bias=False) if untied else None
        self.holds_trained: Tensor
        self.register_buffer("holds_trained", torch.zeros((), dtype=torch.bool))

    @property
    def causal(self) -> Any:
        """The transformers model, with LoRA inside if there is any."""
        return self.network if self.frozen else self.network.get_base_model()

    def train(self, mode: bool = True) -> "Reader":
        """Learn; a language model that stays as it is drops nothing out."""
        super().train(mode)
        if self.frozen:
            self.network.eval()
        return self

    def embed(self, ids: Tokens) -> Embeddings:
        """Embeddings of old and new ids."""
        table = self.causal.get_input_embeddings()
        if self.new_ids is None:
            return table(ids)
        is_new = ids >= self.size
        old = table(ids.masked_fill(is_new, 0))
        return torch.where(is_new[..., None], self.new_ids((ids - self.size).clamp(min=0)), old)

    def begin(self, rows: int) -> tuple[Embeddings, Mask]:
        """What stands before every row: the begin of a text, if the language model has one."""
        table = self.causal.get_input_embeddings().weight
        count = 0 if self.bos_id is None else 1
        ids = torch.full((rows, count), self.bos_id or 0, device=table.device)
        return self.embed(ids), torch.ones_like(ids, dtype=torch.bool)

    def hidden(self, embeddings: Embeddings, valid: Mask) -> Embeddings:
        """Hidden states of rows behind their begin; padding may lie anywhere, and changes none of the others."""
        begin, there = self.begin(len(embeddings))
        valid = torch.cat((there, valid), dim=1)
        positions = (valid.cumsum(dim=1) - 1).clamp(min=0)
        output = self.causal.base_model(
            inputs_embeds=torch.cat((begin, embeddings), dim=1),
            attention_mask=valid.long(),
            position_ids=positions,
            use_cache=False,
        )
        found: Tensor = output.last_hidden_state
        return found[:, begin.shape[1] :]

    def read_texts(self, texts: Sequence[tuple[int, ...]], memory: TextMemory | None = None) -> list[Hidden]:
        """Hidden states of texts, each as if it were alone; those in `memory` are not read again.

        What a memory keeps is read text by text and in fp32, so that it depends on nothing but the text: a resumed run,
        whose memory is empty, must find what it would have found.
        """
        if memory is None or not self.frozen:
            different = list(dict.fromkeys(texts))
            found = dict(zip(different, self._read(different), strict=True))
            return [found[text] for text in texts]
        return [memory.get(text, partial(self._read_alone, text)) for text in texts]

    def _read_alone(self, text: tuple[int, ...]) -> Hidden:
        with torch.autocast(self.causal.device.type, enabled=False):
            return self._read([text])[0].clone()

    def _read(self, texts: Sequence[tuple[int, ...]]) -> list[Hidden]:
        """Hidden states of texts, read as one batch."""
        device = self.causal.get_input_embeddings().weight.device
        ids = torch.zeros(len(texts), max(map(len, texts)), dtype=torch.long, device=device)
        valid = torch.zeros_like(ids, dtype=torch.bool)
        for row, text in enumerate(texts):
            ids[row, : len(text)] = torch.tensor(text, device=device)
            valid[row, : len(text)] = True
        hidden = self.hidden(self.embed(ids), valid)
        return [row[: len(text)] for row, text in zip(hidden, texts, strict=True)]

    def said_logits(self, hidden: Embeddings) -> Float[Tensor, "batch position said"]:
        """Logits of the new ids that can be said."""
        if self.said is not None:
            return self.said(hidden)
        assert self.new_ids is not None
        return hidden @ self.new_ids.weight[: self.num_said].T

    def logits(self, hidden: Float[Tensor, "item channel"]) -> Float[Tensor, "item id"]:
        """Logits of the whole grown vocabulary, as far as it can be said."""
        old = self.causal.get_output_embeddings()(hidden)
        return torch.cat((old, self.said_logits(hidden[None])[0]), dim=-1)

    @torch.no_grad()
    def begin_rows(self) -> None:
        """Begin new ids as the mean of the old ones of a trained language model, once."""
        if bool(self.holds_trained):
            return
        if self.new_ids is not None:
            table = self.causal.get_input_embeddings().weight
            self.new_ids.weight.copy_(table.mean(dim=0).expand_as(self.new_ids.weight))
        if self.said is not None:
            self.said.weight.copy_(self.causal.get_output_embeddings().weight.mean(dim=0).expand_as(self.said.weight))
        self.holds_trained.fill_(True)


class Steps:
    """Rows that the language model goes on reading, with its own cache."""

    def __init__(self, reader: Reader) -> None:
        self.reader = reader
        self._mask, self._next = torch.empty(0), torch.empty(0)
        self._cache: Any = None

    def start(self, embeddings: Embeddings, valid: Mask) -> Embeddings:
        """Read what there is; hidden states of it."""
        begin, there = self.reader.begin(len(embeddings))
        self._mask = torch.cat((there, valid), dim=1).long()
        self._next = self._mask.sum(dim=1)
        output = self.reader.causal.base_model(
            inputs_embeds=torch.cat((begin, embeddings), dim=1),
            attention_mask=self._mask,
            position_ids=(self._mask.cumsum(dim=1) - 1).clamp(min=0),
            use_cache=True,
        )
        self._cache = output.past_key_values
        found: Tensor = output.last_hidden_state
        return found[:, begin.shape[1] :]

    def step(self, embeddings: Embeddings) -> Embeddings:
        """Read one more position per row."""
        self._mask = torch.cat((self._mask, torch.ones_like(self._mask[:, :1])), dim=1)
        output = self.reader.causal.base_model(
            inputs_embeds=embeddings,
            attention_mask=self._mask,
            position_ids=self._next[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next = self._next + 1
        found: Tensor = output.last_hidden_state
        return found

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Keep these rows, in this order."""
        self._mask, self._next = self._mask[rows], self._next[rows]
        self._cache.batch_select_indices(rows)
