"""What a trained language model does: go on with text, and answer in a conversation."""

from collections.abc import Sequence
from typing import Any

from voder.checkpoint import Checkpoint
from voder.data.randomness import torch_generator
from voder.errors import TextError
from voder.generate.decode import Decoded
from voder.generate.lm import GenerateConfig, generate_ids
from voder.nn.causal_lm import CausalLmSession, LanguageModel
from voder.systems.lm.model import LmModel
from voder.text.subwords import encode, encode_chat, turn_end
from voder.train.base_lm import tokenizer_of


class TextLm(LanguageModel):
    """A network, its tokenizer, and how it goes on."""

    def __init__(self, model: LmModel, tokenizer: Any, how: GenerateConfig | None = None) -> None:
        super().__init__()
        self.network = model.network
        self.config = model.config.network
        self.tokenizer = tokenizer
        self.how = how or GenerateConfig()

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end of text, and the end of a turn where the template has one."""
        found = (self.config.eos_id, self.tokenizer.eos_token_id, turn_end(self.tokenizer))
        return tuple(dict.fromkeys(id_ for id_ in found if id_ is not None))

    def encode(self, text: str, *, begin: bool = True) -> list[int]:
        """Ids of a text; what looks like a special token stays text."""
        start = [self.config.bos_id] if begin and self.config.bos_id is not None else []
        return [*start, *encode(self.tokenizer, text)]

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids, without special tokens."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation by the tokenizer's template, ready for the assistant's turn."""
        return encode_chat(self.tokenizer, messages)

    def generate_batch(self, prompts: Sequence[Sequence[int]], *, seed: int = 0, **options: Any) -> list[Decoded]:
        """What follows each row of ids, each as if it were alone; `options` are those of `GenerateConfig`.

        Raises:
            TextError: a row is empty, or longer than the model's positions leave room for.
            ConfigError: an option that is unknown, out of range, or has nothing to do.
        """
        how = self.how.changed(**options)
        for prompt in prompts:
            if not 1 <= len(prompt) < self.config.max_positions:
                raise TextError(
                    f"a prompt has {len(prompt)} ids; this language model reads from 1 to "
                    f"{self.config.max_positions - 1} and goes on behind them"
                )
        if not prompts:
            return []
        noise = [torch_generator(seed, "continue", *map(int, prompt)) for prompt in prompts]
        session = CausalLmSession.of_ids(self.network, prompts)
        room = [self.config.max_positions - len(prompt) for prompt in prompts]
        return generate_ids(session, how, end_ids=self.end_ids, generators=noise, room=room)

    def generate(self, prompt: str | Sequence[int], *, seed: int = 0, **options: Any) -> str:
        """What follows a text (or ids), as text."""
        ids = self.encode(prompt) if isinstance(prompt, str) else list(prompt)
        return self.decode(self.generate_batch([ids], seed=seed, **options)[0].ids)

    def chat(self, messages: Sequence[dict[str, str]] | str, *, seed: int = 0, **options: Any) -> str:
        """The assistant's answer to a conversation, or to one question."""
        turns = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
        return self.generate(self.chat_ids(turns), seed=seed, **options)


def load_text_lm(model: LmModel, found: Checkpoint) -> TextLm:
    """The network of a checkpoint with its tokenizer."""
    return TextLm(model, tokenizer_of(model.config.tokenizer, found.parts, found.folder))
