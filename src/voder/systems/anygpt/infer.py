"""What AnyGPT does: it talks in text, speech, music and images, and it transcribes.

Answers are decoded under a grammar of ids: a stretch that has begun is completed with codes of its own kind, whole
frames of them, and nothing else. What a person writes is encoded as plain text, whatever it imitates. A generator that
is not there is named, and the text is answered all the same.
"""

from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
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
from voder.roles import Chatter, Codec, Generator, Transcriber, Transcript, Turn
from voder.sequence.spans import Piece, SpanGrammar
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.presets import DECODING
from voder.systems.anygpt.prompt import MAKE, READ, Exchange, conversation, pair, pair_question, read_answer
from voder.systems.anygpt.rows import RowMaker
from voder.text.subwords import encode
from voder.train.base_lm import tokenizer_of

RECOGNITION = GenerateConfig(max_new=256)
_LEAST_ROOM = 16
_BATCH = 8
_WANTED = {"audio": "speech", "image": "image", "music": "music"}


class AnyGptChatter(Chatter, Transcriber):
    """A model with its tokenizers and generators."""

    takes: tuple[Literal["text", "audio", "image"], ...] = ("text", "audio", "image")
    gives: tuple[Literal["text", "audio", "image"], ...] = ("text", "audio", "image")

    def __init__(
        self,
        model: AnyGpt,
        tokenizer: Any,
        speech: Codec,
        *,
        refiner: Generator | None = None,
        music: Codec | None = None,
    ) -> None:
        """Raises FittedPartMismatch for a codec of music with other codes than the vocabulary."""
        super().__init__()
        if music is not None:
            check_music(model.config, music.num_codebooks, music.codebook_size)
        self.model, self.tokenizer, self.speech = model, tokenizer, speech
        self.refiner, self.music = refiner, music
        self.maker = RowMaker(model.config, lambda text: encode(tokenizer, text))
        if model.seed is None:
            self.takes = ("text", "audio")

    # Conversation

    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        """The next turn.

        A model that has had its second stage converses; one that has not reads or makes what the last turn asks for
        (`want`: text of something given, or audio, music, image of a text). `hear="music"` reads clips as music.

        Raises:
            InputError: something is given or wanted that this model does not have, or the history is too long.
            ConfigError: a sampling option that does not exist or is out of range.
        """
        hear = sampling.pop("hear", "speech")
        kind = None if want in (None, "text") else _WANTED.get(str(want))
        if want not in (None, "text") and kind not in self.model.vocabulary.layout.kinds:
            raise InputError(f"this model gives {', '.join((*self.gives, 'music'))}, no {want}")
        if hear not in ("speech", "music"):
            raise InputError(f"clips are heard as speech or music, not as {hear}")
        how = DECODING[kind or "text"]
        if want is None:
            how = GenerateConfig(greedy=False, max_new=500)
        if "max_new" in sampling:  # the shortest answers are the published ones: a shorter limit wins
            sampling = {"min_new": min(how.min_new, sampling["max_new"]), **sampling}
        how = how.changed(**sampling)
        exchanges = self._exchanges(turns, hear)
        pieces = self._prompt(exchanges, want=want, kind=kind)
        prompt = self.maker.ids(pieces)
        kinds = tuple(self.model.vocabulary.layout.kinds) if want is None else (kind,) if kind else ()
        decoded = self._decode([prompt], how, seed, kinds=kinds, required=kind)[0]
        return self._turn(decoded, seed)

    def _prompt(self, exchanges: Sequence[Exchange], *, want: str | None, kind: str | None) -> list[Piece]:
        """Ids that lead to the answer: a conversation, or a pair of the first stage."""
        vocabulary = self.model.vocabulary
        if vocabulary.chat != "none":
            return conversation(vocabulary, exchanges)
        question = list(exchanges[-1][0])
        if len(exchanges) > 1:
            raise InputError("this checkpoint has had stage pretrain alone and knows no history; train stage chat")
        stretches = [piece for piece in question if isinstance(piece, tuple)]
        text = " ".join(piece for piece in question if isinstance(piece, str))
        if kind is not None and not stretches:
            question = pair_question(kind, MAKE[kind][0], text)
        elif stretches:
            question = pair_question(stretches[0][0], text or READ[stretches[0][0]][0], stretches[0][1])
        return pair(vocabulary, question, None)

    def _exchanges(self, turns: Sequence[Turn], hear: str) -> list[Exchange]:
        """Questions and answers; the last question has none yet."""
        exchanges: list[Exchange] = []
        for said in turns:
            pieces = [self._piece(part, hear) for part in said.parts if not isinstance(part, str) or part]
            if not pieces:
                raise InputError("a turn of the conversation is empty")
            if said.role == "system":
                raise InputError("AnyGPT has no system turns of one's own; say it in the first question")
            if said.role == "user" and (not exchanges or exchanges[-1][1] is not None):
                exchanges.append((pieces, None))
            elif said.role == "assistant" and exchanges and exchanges[-1][1] is None:
                exchanges[-1] = (exchanges[-1][0], pieces)
            else:
                raise InputError("a conversation begins with the user, and the two take turns")
        if not exchanges or exchanges[-1][1] is not None:
            raise InputError("the last turn must be the user's")
        return exchanges

    def _piece(self, part: Any, hear: str) -> Piece:
        if isinstance(part, str):
            return part
        if isinstance(part, AudioClip) and hear == "speech":
            return ("speech", tuple(self.speech.encode(part)[0].tolist()))
        if isinstance(part, AudioClip):
            if self.music is None:
                raise InputError("this checkpoint keeps no codec of music (task.music=FOLDER)")
            kind = self.model.vocabulary.layout["music"]
            return ("music", tuple(kind.flatten(self.music.encode(part)[: kind.levels]).tolist()))
        return ("image", tuple(self._image_codes(part)))

    def _image_codes(self, image: np.ndarray) -> list[int]:
        if self.model.seed is None:
            raise InputError("this checkpoint has no image tokenizer (model.seed), so it takes no images")
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1)[None].float() / 255
        device = self.model.seed.queries.device
        codes: list[int] = self.model.seed.encode_images(pixels.to(device))[0].tolist()
        return codes

    def _turn(self, decoded: Decoded, seed: int) -> Turn:
        answer = read_answer(decoded.ids, self.model.vocabulary, self._text)
        parts: list[Any] = [answer.text] if answer.text else []
        missing = []
        for kind, codes in answer.stretches:
            made = self._made(kind, codes)
            if isinstance(made, str):
                missing.append(made)
            else:
                parts.append(made)
        return Turn(
            role="assistant",
            parts=tuple(parts),
            stop_reason=decoded.stop_reason,
            truncated=decoded.truncated,
            missing=tuple(missing),
        )

    def _made(self, kind: str, codes: Sequence[int]) -> AudioClip | str:
        """Audio of a stretch, or what would be needed for it."""
        if kind == "speech":
            row = np.asarray(codes, np.int64)
            return self.speech.decode(row[None]) if self.refiner is None else self.refiner.generate(row)
        if kind == "image":
            return "image: an unCLIP generator (stabilityai/stable-diffusion-2-1-unclip) is needed for its embedding"
        if kind == "music" and self.music is not None:
            return self.music.decode(self.model.vocabulary.layout[kind].unflatten(codes))
        return f"{kind}: this checkpoint keeps no codec of {kind}"

    def image_embedding(self, codes: Sequence[int]) -> torch.Tensor:
        """What an unCLIP generator is conditioned on for an image's codes.

        Raises:
            InputError: there is no image tokenizer.
        """
        if self.model.seed is None:
            raise InputError("this checkpoint has no image tokenizer (model.seed)")
        return self.model.seed.decode_images(torch.tensor([list(codes)], device=self.model.seed.queries.device))[0]

    # Recognition

    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcripts by the first stage's pair, greedily; what the context cannot hold is left unheard."""
        found: list[Transcript] = []
        for start in range(0, len(clips), _BATCH):
            found += self._transcribe(clips[start : start + _BATCH])
        return found

    def _transcribe(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        def asked(units: Sequence[int]) -> list[int]:
            question = pair_question("speech", READ["speech"][0], tuple(units))
            return self.maker.ids(pair(self.model.vocabulary, question, None))

        most = max(1, self.model.config.lm.max_positions - len(asked(())) - 2 * _LEAST_ROOM)
        heard = [self.speech.encode(clip)[0].tolist() for clip in clips]
        prompts = [asked(units[:most]) for units in heard]
        # nobody says more characters than there are frames: a model that babbles is stopped
        longest = [_LEAST_ROOM + len(units) for units in heard]
        decoded = self._decode(prompts, RECOGNITION, 0, longest=longest)
        results = []
        for clip, units, said in zip(clips, heard, decoded, strict=True):
            whole = len(units) <= most
            seconds = clip.duration_s if whole else most * self.speech.hop / self.speech.sample_rate_hz
            results.append(
                Transcript(
                    text=read_answer(said.ids, self.model.vocabulary, self._text).text,
                    heard_s=seconds,
                    truncated=said.truncated or not whole,
                    stop_reason=said.stop_reason if whole else "context",
                )
            )
        return results

    # Ids

    def _decode(
        self,
        prompts: Sequence[Sequence[int]],
        how: GenerateConfig,
        seed: int,
        *,
        kinds: Sequence[str] = (),
        required: str | None = None,
        longest: Sequence[int] | None = None,
    ) -> list[Decoded]:
        config = self.model.config
        longest = longest or [how.max_new] * len(prompts)
        room = [
            min(how.max_new, most, config.lm.max_positions - len(prompt))
            for prompt, most in zip(prompts, longest, strict=True)
        ]
        layout = self.model.vocabulary.layout
        least = max(_LEAST_ROOM, layout[required].shortest if required else 0)
        if min(room) < min(least, how.max_new):
            raise InputError(
                f"the conversation has {max(map(len, prompts))} ids, of which this model reads at most "
                f"{config.lm.max_positions - least}: begin anew or shorten it"
            )
        if required is not None and how.max_new < layout[required].shortest:
            raise InputError(f"max_new={how.max_new} leaves no room for {required}, which is wanted")
        grammar = SpanGrammar(layout, kinds=kinds, forbidden=self._never(), end_ids=self.end_ids, required=required)
        session = ConstrainedSession(CausalLmSession.of_ids(self.model.network, prompts), grammar, room)
        noise = [torch_generator(seed, "reply", *prompt) for prompt in prompts]
        return generate_ids(session, how, end_ids=self.end_ids, generators=noise, room=room)

    @property
    def end_ids(self) -> tuple[int, ...]:
        """The marker of an answer's end, and the end of text."""
        own = () if self.model.config.lm.eos_id is None else (self.model.config.lm.eos_id,)
        return (self.model.vocabulary.markers["<eos>"], *own)

    def _never(self) -> list[int]:
        """Ids of text that nobody says: the human's markers, padding, begin, rows behind the tokenizer's last."""
        lm, marks = self.model.config.lm, self.model.vocabulary.markers
        never = {*self.tokenizer.all_special_ids, *range(len(self.tokenizer), lm.vocabulary_size)}
        never |= {marks[name] for name in ("[Human]", "[MMGPT]", "<eoh>")}
        return sorted(never - set(self.end_ids))

    def _text(self, ids: Sequence[int]) -> str:
        text: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return text


def check_music(config: AnyGptConfig, num_codebooks: int, codebook_size: int) -> None:
    """Raise FittedPartMismatch unless a codec of these sizes makes the codes that the vocabulary has for music."""
    kind = config.vocabulary.layout["music"]
    if codebook_size != kind.level_size or num_codebooks < kind.levels:
        raise FittedPartMismatch(
            f"the codec of music has {num_codebooks} codebooks of {codebook_size}; this vocabulary has {kind.levels} "
            f"of {kind.level_size} (model.codes.music, model.codes.music_levels)"
        )


def load_chatter(model: nn.Module, found: Checkpoint) -> AnyGptChatter:
    """Join a loaded model with the parts inside its checkpoint.

    Raises:
        CheckpointError: the speech codec is missing.
        FittedPartMismatch: a part is another one than the model was trained with.
    """
    assert isinstance(model, AnyGpt)
    if "speech" not in found.parts:
        raise CheckpointError(f"{found.folder} holds no parts/speech, so it can neither hear nor speak; copy it whole")
    held, wanted = identity(found.parts["speech"]), model.config.speech_identity
    if held != wanted:
        raise FittedPartMismatch(
            f"{found.parts['speech']} is codec {held}, but the model beside it was trained on codes of {wanted}"
        )
    refiner = hub.load_role(found.parts["refiner"], "Generator") if "refiner" in found.parts else None
    music = hub.load_codec(found.parts["music"]) if "music" in found.parts else None
    tokenizer = tokenizer_of(model.config.tokenizer, found.parts, found.folder)
    return AnyGptChatter(model, tokenizer, hub.load_codec(found.parts["speech"]), refiner=refiner, music=music)
