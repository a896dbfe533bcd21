"""What SpeechGPT does: it talks, in text and speech, and it transcribes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any

import numpy as np
from torch import nn

from voder import hub
from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint, fitted_part
from voder.errors import CheckpointError, InputError
from voder.generate.decode import Decoded
from voder.generate.grown_chat import GrownLmChatter
from voder.generate.lm import GenerateConfig
from voder.generate.units import Reader, load_reader
from voder.roles import Codec, Generator, Turn
from voder.sequence.spans import Exchange, Piece
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.prompt import RECOGNISE, SPEAK, ChainAnswer, read_answer, speech, told
from voder.systems.speechgpt.rows import RowMaker
from voder.systems.speechgpt.vocabulary import UNITS
from voder.text.subwords import encode
from voder.train.base_lm import tokenizer_of

CHAT = GenerateConfig(greedy=False, temperature=0.7, top_p=0.8, top_k=50, max_new=1024)
"""The authors' settings of sampling (they allow 2048 ids, the whole context)."""


class SpeechGptChatter(GrownLmChatter):
    """A model with its tokenizers and, where there is one, a voice."""

    takes = ("text", "audio")
    gives = ("text", "audio")
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"task": ("answer", "speak")})
    model: SpeechGpt

    def __init__(self, model: SpeechGpt, tokenizer: Any, units: Reader, vocoder: Generator | None = None) -> None:
        super().__init__(model, tokenizer, units, dedup=model.config.dedup)
        self.vocoder = vocoder
        self.maker = RowMaker(model.config, lambda text: encode(tokenizer, text))

    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        """The next turn. `want="audio"` makes it speak, `want="text"` keeps it from speaking.

        `task="speak"` reads the last turn's text aloud instead of answering it.

        Raises:
            InputError: something is given or wanted that this model does not have, or the history is too long.
            ConfigError: a sampling option that does not exist or is out of range.
        """
        if want is not None and want not in self.gives:
            raise InputError(f"this model gives {', '.join(self.gives)}, no {want}")
        task = sampling.pop("task", "answer")
        if task not in self.options["task"]:
            raise InputError(f"task {task!r} is unknown; {' and '.join(self.options['task'])} can be asked for")
        found = self.exchanges(turns)
        exchanges: list[Exchange] = [(asked, None if said is None else told(said)) for asked, said in found]
        if task == "speak":
            exchanges, want = [((SPEAK[0], *exchanges[-1][0]), None)], "audio"
        how = CHAT.changed(**sampling)
        kinds, required = () if want == "text" else (UNITS,), UNITS if want == "audio" else None
        decoded = self.decode([self.maker.prompt(exchanges)], how, seed, kinds=kinds, required=required)[0]
        answer = read_answer(decoded.ids, self.model.vocabulary, self.decode_text)
        return self._turn(answer, decoded, only_speech=task == "speak")

    def piece(self, part: Any, **how: str) -> Piece:
        """Text as it is, clips as units."""
        if isinstance(part, str):
            return part
        if isinstance(part, AudioClip):
            return speech(self.hear(part).units.tolist())
        raise InputError("SpeechGPT takes text and audio, no images")

    def _turn(self, answer: ChainAnswer, decoded: Decoded, *, only_speech: bool) -> Turn:
        parts: list[Any] = [] if only_speech or not answer.text else [answer.text]
        missing: tuple[str, ...] = ()
        if answer.units:
            clip = self._voice(answer.units)
            parts += [] if clip is None else [clip]
            missing = () if clip is not None else ("audio: this checkpoint keeps no vocoder (task.vocoder=FOLDER)",)
        return Turn(
            role="assistant",
            parts=tuple(parts),
            stop_reason=decoded.stop_reason,
            truncated=decoded.truncated,
            missing=missing,
        )

    def _voice(self, units: Sequence[int]) -> AudioClip | None:
        """Speech of units: by the vocoder, or by the codec whose first codebook they are."""
        row = np.asarray(units, np.int64)
        if self.vocoder is not None:
            return self.vocoder.generate(row, predict_durations=self.model.config.dedup)
        return self.reader.decode(row[None]) if isinstance(self.reader, Codec) else None

    def request(self, units: Sequence[int]) -> list[int]:
        """The model's own request for a transcript."""
        return self.maker.prompt([([RECOGNISE[0], speech(units)], None)])

    def text_of(self, ids: Sequence[int]) -> str:
        """The answer as text."""
        return read_answer(ids, self.model.vocabulary, self.decode_text).text


def load_chatter(model: nn.Module, found: Checkpoint) -> SpeechGptChatter:
    """Join a loaded model with the parts inside its checkpoint.

    Raises:
        CheckpointError: the unit tokenizer is missing, or the model has not had its second stage.
        FittedPartMismatch: a part is another one than the model was trained with.
    """
    assert isinstance(model, SpeechGpt)
    config = model.config
    if not config.markers:
        raise CheckpointError(
            f"{found.folder} has had stage adapt alone and knows no conversations; train stage instruct"
        )
    units = load_reader(fitted_part(found, "units", config.units_identity))
    vocoder = hub.load_role(found.parts["vocoder"], "Generator") if "vocoder" in found.parts else None
    return SpeechGptChatter(model, tokenizer_of(config.tokenizer, found.parts, found.folder), units, vocoder)
