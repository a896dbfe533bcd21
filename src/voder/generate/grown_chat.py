"""What models that talk in text and codes share: turns to exchanges, decoding under a grammar, transcripts.

Answers are decoded on ids: inside a stretch only its codes may come, a stretch that has begun is completed, and neither
markers nor codes can slip into text. What a person writes is encoded as plain text, whatever it imitates.
"""

from abc import abstractmethod
from collections.abc import Sequence
from typing import Any

from voder.audio.io import AudioClip
from voder.data.randomness import torch_generator
from voder.errors import InputError
from voder.generate.constrained import ConstrainedSession
from voder.generate.decode import Decoded
from voder.generate.lm import GenerateConfig, generate_ids
from voder.generate.units import Reader, read_units
from voder.nn.causal_lm import CausalLmSession
from voder.nn.grown_lm import GrownLm
from voder.roles import Chatter, Transcriber, Transcript, Turn, Units
from voder.sequence.spans import Exchange, Piece, SpanGrammar

RECOGNITION = GenerateConfig(max_new=256)
_LEAST_ROOM = 16
_BATCH = 8


class GrownLmChatter(Chatter, Transcriber):
    """A language model whose vocabulary has grown, with its text tokenizer and what it hears with."""

    model: GrownLm
    said_markers: tuple[str, ...] = ()
    """Markers that an answer may hold beside its end."""

    def __init__(self, model: GrownLm, tokenizer: Any, reader: Reader, *, dedup: bool = False) -> None:
        """`dedup` merges repeated units, as the model was trained to read them."""
        super().__init__()
        self.model, self.tokenizer, self.reader, self.dedup = model, tokenizer, reader, dedup

    def hear(self, clip: AudioClip) -> Units:
        """What the model reads of a recording."""
        return read_units(self.reader, clip, dedup=self.dedup)

    @abstractmethod
    def request(self, units: Sequence[int]) -> list[int]:
        """Ids that ask what is said in these units."""

    @abstractmethod
    def text_of(self, ids: Sequence[int]) -> str:
        """The text of an answer."""

    @abstractmethod
    def piece(self, part: Any, **how: str) -> Piece:
        """A part of a turn as the model reads it. Raises InputError for what it does not take."""

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The end of text, and the marker of an answer's end."""
        own = () if self.model.config.lm.eos_id is None else (self.model.config.lm.eos_id,)
        return (*own, self.model.vocabulary.markers["<eos>"])

    def decode_text(self, ids: Sequence[int]) -> str:
        """Text of ids of the language model's own."""
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text

    def exchanges(self, turns: Sequence[Turn], **how: str) -> list[Exchange]:
        """Questions and answers of a conversation; `how` says how clips are heard.

        Raises:
            InputError: a turn of the user is empty, one is the system's, the two do not take turns, or the last one is
                not the user's.
        """
        found: list[Exchange] = []
        for said in turns:
            if said.role == "system":
                raise InputError("this model has no system turns of one's own; say it in the first question")
            pieces = [self.piece(part, **how) for part in said.parts if not isinstance(part, str) or part]
            if not pieces and said.role == "user":
                raise InputError("a turn of the conversation is empty")
            waits = bool(found) and found[-1][1] is None
            if waits != (said.role == "assistant"):
                raise InputError("a conversation begins with the user, and the two take turns")
            if said.role == "user":
                found.append((pieces, None))
            else:
                found[-1] = (found[-1][0], pieces)
        if not found or found[-1][1] is not None:
            raise InputError("the last turn must be the user's")
        return found

    def decode(
        self,
        prompts: Sequence[Sequence[int]],
        how: GenerateConfig,
        seed: int,
        *,
        kinds: Sequence[str] = (),
        required: str | None = None,
        longest: Sequence[int] | None = None,
    ) -> list[Decoded]:
        """What follows each row of ids: text, and stretches of `kinds`, one of which may be required.

        Args:
            longest: most ids that each row may say; `how.max_new` if not given.

        Raises:
            InputError: a row leaves no room for an answer, or `how.max_new` none for what is required.
        """
        lm, layout = self.model.config.lm, self.model.vocabulary.layout
        shortest = layout[required].shortest if required else 0
        if how.max_new < shortest:
            raise InputError(f"max_new={how.max_new} leaves no room for {required}, which is wanted")
        longest = longest or [how.max_new] * len(prompts)
        pairs = zip(prompts, longest, strict=True)
        room = [min(how.max_new, most, lm.max_positions - len(prompt)) for prompt, most in pairs]
        least = max(_LEAST_ROOM, shortest)
        if min(room) < min(least, how.max_new):
            raise InputError(
                f"the conversation has {max(map(len, prompts))} ids, of which this model reads at most "
                f"{lm.max_positions - least}: begin anew or shorten it"
            )
        grammar = SpanGrammar(layout, kinds=kinds, forbidden=self._never(), end_ids=self.end_ids, required=required)
        session = ConstrainedSession(CausalLmSession.of_ids(self.model.network, prompts), grammar, room)
        noise = [torch_generator(seed, "reply", *prompt) for prompt in prompts]
        return generate_ids(session, how, end_ids=self.end_ids, generators=noise, room=room)

    def _never(self) -> list[int]:
        """Ids outside stretches that nobody says: most markers, padding, begin, rows behind the tokenizer's last."""
        lm, markers = self.model.config.lm, self.model.vocabulary.markers
        never = {*self.tokenizer.all_special_ids, *range(len(self.tokenizer), lm.vocabulary_size)}
        never |= {id_ for name, id_ in markers.items() if name not in self.said_markers}
        return sorted(never - set(self.end_ids))

    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcripts by the model's own request for them, greedily; what the context cannot hold is left unheard."""
        found: list[Transcript] = []
        for start in range(0, len(clips), _BATCH):
            found += self._transcribe(clips[start : start + _BATCH])
        return found

    def _transcribe(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        most = max(1, self.model.config.lm.max_positions - len(self.request(())) - 2 * _LEAST_ROOM)
        heard = [self.hear(clip) for clip in clips]
        prompts = [self.request(units.units[:most].tolist()) for units in heard]
        # nobody says more characters than there are frames: a model that babbles is stopped
        longest = [_LEAST_ROOM + int(units.durations.sum()) for units in heard]
        results, unit_s = [], self.reader.hop / self.reader.sample_rate_hz
        for clip, units, said in zip(clips, heard, self.decode(prompts, RECOGNITION, 0, longest=longest), strict=True):
            whole = len(units.units) <= most
            results.append(
                Transcript(
                    text=self.text_of(said.ids),
                    heard_s=clip.duration_s if whole else float(units.durations[:most].sum()) * unit_s,
                    truncated=said.truncated or not whole,
                    stop_reason=said.stop_reason if whole else "context",
                )
            )
        return results
