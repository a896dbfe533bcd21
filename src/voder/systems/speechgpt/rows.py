"""What each stage reads: rows of ids with the ids that carry loss."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from voder.audio.io import AudioClip, read_audio
from voder.data.dialogue import Codes, Dialogue, DialogueTurn, Media
from voder.errors import FittedPartMismatch, InputError
from voder.generate.units import Reader, load_reader, read_units
from voder.roles import Units
from voder.sequence.spans import Exchange, Piece
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.prompt import PREFIX, RECOGNISE, SPEAK, Encode, chain, lay, speech, turn
from voder.train.lm_rows import Row


def merged(units: np.ndarray, *, dedup: bool) -> tuple[int, ...]:
    """Units as a language model reads them."""
    found = Units(units=units, durations=np.ones_like(units))
    return tuple((found.deduplicated() if dedup else found).units.tolist())


class RowMaker:
    """Lays examples out as rows of one model."""

    def __init__(self, config: SpeechGptConfig, encode: Encode) -> None:
        self.config, self.vocabulary, self.encode = config, config.vocabulary, encode
        self.begin = [] if config.lm.bos_id is None else [config.lm.bos_id]
        self.end = [] if config.lm.eos_id is None else [config.lm.eos_id]

    @property
    def prefix(self) -> list[Piece]:
        """What stands before every conversation."""
        return [PREFIX] if self.config.prefix else []

    def prompt(self, exchanges: Sequence[Exchange]) -> list[int]:
        """Ids of exchanges, the last of which may lack its answer."""
        pieces = list(self.prefix)
        for question, answer in exchanges:
            pieces += turn(self.vocabulary, question, answer)
        return [*self.begin, *lay(pieces, self.vocabulary, self.encode)]

    def row(self, pieces: Sequence[Piece], prefix: Sequence[Piece], max_ids: int) -> Row:
        """A row whose loss begins behind its prefix, with an end where there is room for it."""
        ids = [*self.begin, *lay([*prefix, *pieces], self.vocabulary, self.encode)][:max_ids]
        if len(ids) < max_ids:
            ids += self.end
        return Row.behind(ids, len(self.begin) + len(lay(prefix, self.vocabulary, self.encode)))

    def speech_row(self, units: Sequence[int]) -> list[int]:
        """A line of speech for stage adapt: begin and units, without an end."""
        return [*self.begin, *lay([speech(units)], self.vocabulary, self.encode)]

    def instructed(self, units: Sequence[int], text: str, rng: np.random.Generator, max_ids: int) -> Row:
        """A request for a transcript or for speech, and what answers it."""
        if rng.random() < 0.5:
            asked: list[Piece] = [str(rng.choice(RECOGNISE)), speech(units)]
            said: list[Piece] = [text]
        else:
            asked, said = [f"{rng.choice(SPEAK)}{text}"], [speech(units)]
        return self.row(turn(self.vocabulary, asked, said), self.prefix, max_ids)

    def chained(
        self,
        question: tuple[str, Sequence[int] | None],
        answer: tuple[str, Sequence[int] | None],
        rng: np.random.Generator,
        max_ids: int,
    ) -> Row:
        """One of the four formats: speech or text in, speech or text out, as far as there is speech."""
        asked_text, asked_units = question
        text, units = answer
        hears = asked_units is not None and rng.random() < 0.5
        speaks = units is not None and rng.random() < 0.5
        asked = [speech(asked_units)] if hears and asked_units is not None else [asked_text]
        said = chain(text=text, transcript=asked_text if hears else None, units=units if speaks else None)
        return self.row(turn(self.vocabulary, asked, said), self.prefix, max_ids)


class Exchanges:
    """Dialogues as questions and answers, each as text and, where there is speech, as units."""

    def __init__(self, dialogues: Sequence[Dialogue], identity: str, tokenizer_folder: Path, *, dedup: bool) -> None:
        self.dialogues, self.identity, self.dedup = dialogues, identity, dedup
        self._folder = tokenizer_folder
        self._reader: Reader | None = None
        self._kept: dict[Any, tuple[int, ...]] = {}

    def __len__(self) -> int:
        return len(self.dialogues)

    def pair(self, index: int) -> tuple[tuple[str, Sequence[int] | None], tuple[str, Sequence[int] | None]]:
        """The first question of a dialogue and its answer.

        Raises:
            InputError: there is none, or a side has no words.
            FittedPartMismatch: units of another tokenizer.
        """
        dialogue = self.dialogues[index]
        turns = [each for each in dialogue.turns if each.role != "system"]
        if [each.role for each in turns[:2]] != ["user", "assistant"]:
            raise InputError(f"dialogue {dialogue.id!r} has no question followed by an answer")
        sides = [self._side(each, dialogue.id) for each in turns[:2]]
        return sides[0], sides[1]

    def _side(self, said: DialogueTurn, name: str) -> tuple[str, Sequence[int] | None]:
        units: tuple[int, ...] | None = None
        words = [part for part in said.parts if isinstance(part, str)]
        for part in said.parts:
            if isinstance(part, Codes):
                if part.tokenizer is not None and part.tokenizer != self.identity:
                    raise FittedPartMismatch(
                        f"dialogue {name!r} has units of tokenizer {part.tokenizer}, but this model reads those of "
                        f"{self.identity}"
                    )
                units = merged(np.asarray(part.codes, np.int64), dedup=self.dedup)
            elif isinstance(part, Media) and part.kind == "audio":
                units = self._encoded(part)
                words += [part.caption] if part.caption else []
        if not words:
            raise InputError(f"a turn of dialogue {name!r} has no words: give its recordings captions")
        return " ".join(words), units

    def _encoded(self, part: Media) -> tuple[int, ...]:
        if part not in self._kept:
            if self._reader is None:
                self._reader = load_reader(self._folder)
            clip = read_audio(part.path)
            first, last = (None if at is None else round(at * clip.sample_rate_hz) for at in (part.start_s, part.end_s))
            samples = np.ascontiguousarray(clip.samples[:, first:last])
            found = read_units(self._reader, AudioClip(samples, clip.sample_rate_hz), dedup=self.dedup)
            self._kept[part] = tuple(found.units.tolist())
        return self._kept[part]
