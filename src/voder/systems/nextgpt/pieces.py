"""How a conversation is laid out on ids: text, marks, places for media, spans of signals. Never by way of a string.

Two frames. The authors' legacy line writes

    ### Human: <Img>VECTOR</Img> TEXT⏎### Assistant: TEXT[AUD0][AUD1]…⏎###Human: …

and was trained with a tokenizer that drops blanks beside added tokens, so signals are contiguous. The newer line is
Vicuna's (1.1): a system sentence, `USER: TEXT ASSISTANT: TEXT` and an end-of-text after every answer.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from voder.errors import TextError
from voder.sequence.vocab import Vocabulary
from voder.systems.nextgpt.config import NextGptConfig
from voder.systems.nextgpt.vocabulary import layout
from voder.text.subwords import encode

IGNORED = -100
"""Label of what is not learned."""
SYSTEM = (
    "A chat between a curious user and an artificial intelligence assistant. "
    "The assistant gives helpful, detailed, and polite answers to the user's questions."
)
"""What Vicuna 1.1 was tuned to read first."""


@dataclass(frozen=True)
class Piece:
    """Ids, or one place for a medium's vector."""

    ids: tuple[int, ...] = ()
    learned: bool = False
    medium: int | None = None
    """The number of the vector."""

    def __len__(self) -> int:
        return len(self.ids) if self.medium is None else 1


@dataclass(frozen=True, kw_only=True)
class Spoken:
    """One turn, as it is laid out."""

    role: Literal["user", "assistant"]
    text: str
    media: tuple[int, ...] = ()
    """Numbers of the vectors that stand before a user's text."""
    shows: tuple[str, ...] = ()
    """Kinds whose signals stand behind an assistant's text."""


class Words:
    """A tokenizer, the ids behind its own, and the frame of a configuration."""

    def __init__(self, config: NextGptConfig, tokenizer: Any) -> None:
        self.config, self.tokenizer = config, tokenizer
        self.vocabulary: Vocabulary = layout(config)
        self.stops: tuple[tuple[int, ...], ...] = ((int(config.lm.eos_id or 0),),)
        """Ids, one behind the other, that end an assistant's turn."""
        if config.line == "legacy":
            behind = self.encode("a\n###")[len(self.encode("a")) :]
            self.stops += (tuple(behind), tuple(self.encode("###")))

    def encode(self, text: str) -> list[int]:
        """Ids of plain text: what looks like a mark or a signal is letters.

        Raises:
            TextError: the tokenizer gives an id that is not text here.
        """
        ids = encode(self.tokenizer, text)
        if any(id_ >= self.config.lm.vocabulary_size for id_ in ids):
            raise TextError(
                f"the tokenizer knows signals as text ({text[:40]!r}): use the language model's own tokenizer"
            )
        return ids

    def signals(self, kind: str) -> tuple[int, ...]:
        """The span of a kind."""
        span = self.vocabulary[kind]
        return tuple(range(span.start, span.end))

    def lay_out(self, turns: Sequence[Spoken]) -> list[Piece]:
        """Pieces of a conversation; assistants' turns are learned, their ends included."""
        made = self._legacy(turns) if self.config.line == "legacy" else self._new(turns)
        return [piece for piece in made if len(piece)]

    def _begin(self) -> Piece:
        return Piece(() if self.config.lm.bos_id is None else (self.config.lm.bos_id,))

    def _text(self, text: str, *, learned: bool = False) -> Piece:
        return Piece(tuple(self.encode(text)), learned)

    def _media(self, numbers: Iterable[int]) -> Iterable[Piece]:
        marks = self.vocabulary["marks"]
        for number in numbers:
            if marks.size:
                yield Piece((marks.start,))
            yield Piece(medium=number)
            if marks.size:
                yield Piece((marks.start + 1,))

    def _shown(self, kinds: Sequence[str]) -> Iterable[Piece]:
        return (Piece(self.signals(kind), True) for kind in kinds)

    def _legacy(self, turns: Sequence[Spoken]) -> Iterable[Piece]:
        yield self._begin()
        for number, turn in enumerate(turns):
            if turn.role == "assistant":
                end = "###" if turn.shows else f"{turn.text}\n###"  # the blank beside a signal is dropped
                yield from [self._text(turn.text, learned=True)] if turn.shows else []
                yield from self._shown(turn.shows)
                yield self._text(end, learned=True)
                continue
            if turn.media or not number:
                head = "### Human:" if not number else "Human:"
                yield self._text(head if turn.media else f"{head} ")
                yield from self._media(turn.media)
                yield self._text(f"{turn.text}\n### Assistant: ")
            else:
                yield self._text(f"Human: {turn.text}\n### Assistant: ")

    def _new(self, turns: Sequence[Spoken]) -> Iterable[Piece]:
        yield self._begin()
        yield self._text(SYSTEM)
        for turn in turns:
            if turn.role == "assistant":
                yield self._text(f" {turn.text}" if turn.text else "", learned=True)
                yield from self._shown(turn.shows)
                yield Piece((int(self.config.lm.eos_id or 0),), True)
            elif turn.media:
                yield self._text(" USER:")
                yield from self._media(turn.media)
                yield self._text(f" {turn.text} ASSISTANT:")
            else:
                yield self._text(f" USER: {turn.text} ASSISTANT:")
