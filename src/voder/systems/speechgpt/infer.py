"""What SpeechGPT does: it talks, in text and speech, and it transcribes.

Answers are decoded under a grammar of ids: inside speech only units may come, speech that has begun is completed, and
neither markers nor units can slip into text. What a person writes is encoded as plain text, whatever it imitates.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import nn

from voder import hub
from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint, identity
from voder.data.randomness import torch_generator
from voder.errors import CheckpointError, FittedPartMismatch, InputError
from voder.generate.constrained import ConstrainedSession
from voder.generate.decode import Decoded
from voder.generate.lm import GenerateConfig, generate_ids
from voder.nn.causal_lm import CausalLmSession
from voder.roles import Chatter, Codec, Generator, Transcriber, Transcript, Turn, UnitTokenizer
from voder.sequence.spans import Piece, SpanGrammar
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.prompt import RECOGNISE, SPEAK, ChainAnswer, read_answer, speech
from voder.systems.speechgpt.rows import RowMaker, UnitReader
from voder.systems.speechgpt.vocabulary import UNITS
from voder.text.subwords import encode
from voder.train.base_lm import tokenizer_of

CHAT = GenerateConfig(greedy=False, temperature=0.7, top_p=0.8, top_k=50, max_new=1024)
"""The authors' settings of sampling (they allow 2048 ids, the whole context)."""
RECOGNITION = GenerateConfig(max_new=256)
_LEAST_ROOM = 16
_BATCH = 8


class SpeechGptChatter(Chatter, Transcriber):
    """A model with its tokenizers and, where there is one, a voice."""

    takes = ("text", "audio")
    gives = ("text", "audio")

    def __init__(
        self, model: SpeechGpt, tokenizer: Any, units: Codec | UnitTokenizer, vocoder: Generator | None = None
    ) -> None:
        super().__init__()
        self.model, self.tokenizer, self.units, self.vocoder = model, tokenizer, units, vocoder
        self.reader = UnitReader(units, dedup=model.config.dedup)
        self.maker = RowMaker(model.config, model.vocabulary, lambda text: encode(tokenizer, text))

    # Conversation

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
        if task not in ("answer", "speak"):
            raise InputError(f"task {task!r} is unknown; answer and speak can be asked for")
        exchanges = self._exchanges(turns)
        if task == "speak":
            question = [SPEAK[0], *exchanges[-1][0]]
            exchanges, want = [(question, None)], "audio"
        how = CHAT.changed(**sampling)
        prompt = self.maker.prompt(exchanges)
        decoded = self._decode([prompt], how, seed, want=want)[0]
        answer = read_answer(decoded.ids, self.model.vocabulary, self._text)
        return self._turn(answer, decoded, only_speech=task == "speak")

    def _exchanges(self, turns: Sequence[Turn]) -> list[tuple[list[Piece], list[Piece] | None]]:
        """Questions and answers; the last question has none yet."""
        exchanges: list[tuple[list[Piece], list[Piece] | None]] = []
        for said in turns:
            if said.role == "system":
                raise InputError("SpeechGPT has no system turns; say it in the first question")
            pieces = [self._piece(part) for part in said.parts if not isinstance(part, str) or part]
            if not pieces:
                raise InputError("a turn of the conversation is empty")
            if said.role == "user":
                exchanges.append((pieces, None))
            elif exchanges and exchanges[-1][1] is None:
                exchanges[-1] = (exchanges[-1][0], pieces)
            else:
                raise InputError("a conversation begins with the user, and the two take turns")
        if not exchanges or exchanges[-1][1] is not None:
            raise InputError("the last turn must be the user's")
        if any(answer is None for _, answer in exchanges[:-1]):
            raise InputError("a conversation begins with the user, and the two take turns")
        return exchanges

    def _piece(self, part: Any) -> Piece:
        if isinstance(part, str):
            return part
        if isinstance(part, AudioClip):
            return speech(self.reader.units(part).units.tolist())
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
        return self.units.decode(row[None]) if isinstance(self.units, Codec) else None

    # Recognition

    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcripts by the model's own request for them, greedily; what the context cannot hold is left unheard."""
        found: list[Transcript] = []
        for start in range(0, len(clips), _BATCH):
            found += self._transcribe(clips[start : start + _BATCH])
        return found

    def _transcribe(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        request = len(self.maker.prompt([([RECOGNISE[0], speech([])], None)]))
        most = self.model.config.lm.max_positions - request - 2 * _LEAST_ROOM
        heard = [self.reader.units(clip) for clip in clips]
        cut = [found.units[: max(1, most)].tolist() for found in heard]
        prompts = [self.maker.prompt([([RECOGNISE[0], speech(units)], None)]) for units in cut]
        # nobody says more characters than there are frames: a model that babbles is stopped
        longest = [_LEAST_ROOM + int(units.durations.sum()) for units in heard]
        decoded = self._decode(prompts, RECOGNITION, 0, want="text", longest=longest)
        results = []
        for clip, units, kept, said in zip(clips, heard, cut, decoded, strict=True):
            whole = len(kept) == len(units.units)
            seconds = clip.duration_s if whole else float(units.durations[: len(kept)].sum()) * self.reader.duration_s
            text = read_answer(said.ids, self.model.vocabulary, self._text).text
            reason = said.stop_reason if whole else "context"
            results.append(
                Transcript(text=text, heard_s=seconds, truncated=said.truncated or not whole, stop_reason=reason)
            )
        return results

    # Ids

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        how: GenerateConfig,
        seed: int,
        *,
        want: str | None,
        longest: Sequence[int] | None = None,
    ) -> list[Decoded]:
        config = self.model.config
        longest = longest or [how.max_new] * len(prompts)
        room = [
            min(how.max_new, most, config.lm.max_positions - len(prompt))
            for prompt, most in zip(prompts, longest, strict=True)
        ]
        if min(room) < min(_LEAST_ROOM, how.max_new):
            raise InputError(
                f"the conversation has {max(map(len, prompts))} ids, of which this model reads at most "
                f"{config.lm.max_positions - _LEAST_ROOM}: begin anew or shorten it"
            )
        grammar = SpanGrammar(
            self.model.vocabulary.layout,
            kinds=() if want == "text" else (UNITS,),
            forbidden=self._never(),
            end_ids=self.end_ids,
            required=UNITS if want == "audio" else None,
        )
        session = ConstrainedSession(CausalLmSession.of_ids(self.model.network, prompts), grammar, room)
        noise = [torch_generator(seed, "reply", *prompt) for prompt in prompts]
        return generate_ids(session, how, end_ids=self.end_ids, generators=noise, room=room)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end of text, and the marker of an answer's end."""
        own = () if self.model.config.lm.eos_id is None else (self.model.config.lm.eos_id,)
        return (*own, self.model.vocabulary.markers["<eos>"])

    def _never(self) -> list[int]:
        """Ids of text that nobody says: markers, padding, begin, and rows behind the tokenizer's last."""
        lm, ends = self.model.config.lm, set(self.end_ids)
        never = {*self.tokenizer.all_special_ids, *range(len(self.tokenizer), lm.vocabulary_size)}
        never |= set(self.model.vocabulary.markers.values())
        return sorted(never - ends)

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


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
    if "units" not in found.parts:
        raise CheckpointError(f"{found.folder} holds no parts/units, so it cannot hear; copy it whole")
    held = identity(found.parts["units"])
    if held != config.units_identity:
        raise FittedPartMismatch(
            f"{found.parts['units']} is tokenizer {held}, but the model beside it was trained on units of "
            f"{config.units_identity}"
        )
    vocoder = hub.load_role(found.parts["vocoder"], "Generator") if "vocoder" in found.parts else None
    tokenizer = tokenizer_of(config.tokenizer, found.parts, found.folder)
    return SpeechGptChatter(model, tokenizer, hub.load(found.parts["units"]), vocoder)
