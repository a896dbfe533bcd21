"""What each stage reads: pairs, packs and conversations as rows of ids."""

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from voder.data.dialogue import Codes, Dialogue, DialogueTurn, Media
from voder.errors import FittedPartMismatch, InputError
from voder.sequence.spans import Exchange, Piece
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.prompt import (
    MAKE,
    READ,
    Encode,
    answers_only,
    chain,
    conversation,
    pair,
    pair_question,
)
from voder.train.lm_rows import Row, pack


class RowMaker:
    """Lays examples out as rows of one model."""

    def __init__(self, config: AnyGptConfig, encode: Encode) -> None:
        self.config, self.vocabulary, self.encode = config, config.vocabulary, encode
        self.begin = [] if config.lm.bos_id is None else [config.lm.bos_id]
        self.end = [] if config.lm.eos_id is None else [config.lm.eos_id]

    def ids(self, pieces: Sequence[Piece]) -> list[int]:
        """Begin and pieces."""
        return [*self.begin, *self.vocabulary.layout.lay(pieces, self.encode)]

    def pair_row(self, kind: str, codes: Sequence[int], text: str, rng: np.random.Generator, read_share: float) -> Row:
        """A pair in either direction; every id carries loss, the end of text too."""
        reads = rng.random() < read_share
        instruction = str(rng.choice((READ if reads else MAKE)[kind]))
        question = pair_question(kind, instruction, codes if reads else text)
        answer: list[Piece] = [text] if reads else [(kind, tuple(codes))]
        ids = [*self.ids(pair(self.vocabulary, question, answer)), *self.end]
        return Row(ids=ids, labels=ids)

    def packed(self, rows: Iterator[Row], size: int) -> Row:
        """Whole rows up to a size; a row that is longer than it is cut."""
        taken: list[Row] = []
        total = 0
        for row in rows:
            row = row.cut(size)
            if taken and total + len(row.ids) > size:
                break
            taken.append(row)
            total += len(row.ids)
        return pack(taken, size)[0]

    def echo(self, units: Sequence[int], text: str) -> list[Exchange]:
        """A conversation for recordings without one: the answer repeats the question."""
        speech: Piece = ("speech", tuple(units))
        return [([speech], chain(self.vocabulary, text, text, units))]

    def chat_row(self, exchanges: Sequence[Exchange], max_ids: int) -> Row:
        """A conversation whose answers carry loss."""
        ids = [*self.ids(conversation(self.vocabulary, exchanges)), *self.end]
        return answers_only(ids, self.vocabulary, self.encode).cut(max_ids)


def exchanges_of(dialogue: Dialogue, maker: RowMaker, identities: Mapping[str, str]) -> list[Exchange]:
    """Questions and answers of a dialogue, its codes as stretches.

    Raises:
        InputError: the two do not take turns, or a recording or image has not been encoded.
        FittedPartMismatch: codes of another tokenizer.
    """
    turns = [turn for turn in dialogue.turns if turn.role != "system"]
    asked, told = turns[::2], turns[1::2]
    ordered = all(turn.role == "user" for turn in asked) and all(turn.role == "assistant" for turn in told)
    if len(turns) % 2 or not ordered:
        raise InputError(f"in dialogue {dialogue.id!r} user and assistant do not take turns")
    return [
        (_pieces(question, dialogue.id, maker, identities), _answer(answer, dialogue.id, maker, identities))
        for question, answer in zip(asked, told, strict=True)
    ]


def _answer(turn: DialogueTurn, name: str, maker: RowMaker, identities: Mapping[str, str]) -> list[Piece]:
    """An answer; the authors' markers in its text become ids, for it is a program that wrote them."""
    pieces: list[Piece] = []
    marks = {
        token: maker.vocabulary.markers[token] for token in ("<-Ins->", "<-Res->") if token in maker.vocabulary.markers
    }
    for piece in _pieces(turn, name, maker, identities):
        pieces += _marked(piece, marks) if isinstance(piece, str) else [piece]
    return pieces


def _marked(text: str, marks: Mapping[str, int]) -> list[Piece]:
    for token, id_ in marks.items():
        if token in text:
            before, _, after = text.partition(token)
            return [*_marked(before, marks), id_, *_marked(after, marks)]
    return [text] if text else []


def _pieces(turn: DialogueTurn, name: str, maker: RowMaker, identities: Mapping[str, str]) -> list[Piece]:
    pieces: list[Any] = []
    for part in turn.parts:
        if isinstance(part, Media):
            raise InputError(f"dialogue {name!r} names the file {part.path}: encode it and give its codes")
        if isinstance(part, Codes):
            wanted = identities.get(part.modality)
            if part.tokenizer is not None and wanted is not None and part.tokenizer != wanted:
                raise FittedPartMismatch(
                    f"dialogue {name!r} has {part.modality} codes of {part.tokenizer}, but this model reads those of "
                    f"{wanted}"
                )
            maker.vocabulary.layout.ids(part.modality, part.codes)  # refuses codes that are out of range
            pieces.append((part.modality, part.codes))
        else:
            pieces.append(part)
    return pieces


def pair_of(dialogue: Dialogue) -> tuple[str, tuple[int, ...], str] | None:
    """Kind, codes and text of a dialogue that is a pair; None if it is more than that."""
    turns = [turn for turn in dialogue.turns if turn.role != "system"]
    parts = [part for turn in turns for part in turn.parts]
    codes = [part for part in parts if isinstance(part, Codes)]
    texts = [part for part in parts if isinstance(part, str)]
    if len(turns) != 2 or len(codes) != 1 or len(texts) != 1 or len(parts) != 2:
        return None
    return codes[0].modality, codes[0].codes, texts[0]
