"""What AnyGPT does: it talks in text, speech, music and images as far as there are generators, and it transcribes.

A generator that is not there is named, and the text is answered all the same.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from types import MappingProxyType
from typing import Any, Literal

import numpy as np
import torch
from torch import nn

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint, fitted_part
from voder.errors import FittedPartMismatch, InputError
from voder.generate.decode import Decoded
from voder.generate.grown_chat import GrownLmChatter
from voder.generate.lm import GenerateConfig
from voder.roles import Codec, Generator, Turn
from voder.sequence.spans import Exchange, Piece
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.prompt import MAKE, READ, conversation, pair, pair_question, read_answer
from voder.systems.anygpt.rows import RowMaker
from voder.text.subwords import encode
from voder.train.base_lm import tokenizer_of

_ALL = 4096  # ids that repetition is counted over: the whole context

DECODING: Mapping[str, GenerateConfig] = {
    "text": GenerateConfig(greedy=False, max_new=100, min_new=10),
    "image": GenerateConfig(greedy=False, max_new=200, min_new=10),
    "speech": GenerateConfig(greedy=False, max_new=1500, min_new=10, repetition_penalty=1.05, repetition_window=_ALL),
    "music": GenerateConfig(
        greedy=False, max_new=2000, min_new=10, top_k=200, repetition_penalty=1.15, repetition_window=_ALL
    ),
}
"""By what is wanted; sounds are decoded like music."""
_WANTED = {"audio": "speech", "image": "image", "music": "music"}


class AnyGptChatter(GrownLmChatter):
    """A model with its tokenizers and generators."""

    takes: tuple[Literal["text", "audio", "image"], ...] = ("text", "audio", "image")
    gives: tuple[Literal["text", "audio", "image"], ...] = ("text", "audio", "image")
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"hear": ("speech", "music")})
    said_markers = ("<-Res->", "<-Ins->")
    model: AnyGpt

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
        super().__init__(model, tokenizer, speech)
        if music is not None:
            check_music(model.config, music.num_codebooks, music.codebook_size)
        self.speech, self.refiner, self.music = speech, refiner, music
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
        if hear not in self.options["hear"]:
            raise InputError(f"clips are heard as {' or '.join(self.options['hear'])}, not as {hear}")
        how = DECODING[kind or "text"]
        if want is None:
            how = GenerateConfig(greedy=False, max_new=500)
        if "max_new" in sampling:  # the shortest answers are the published ones: a shorter limit wins
            sampling = {"min_new": min(how.min_new, sampling["max_new"]), **sampling}
        how = how.changed(**sampling)
        exchanges = self.exchanges(turns, hear=hear)
        pieces = self._prompt(exchanges, want=want, kind=kind)
        prompt = self.maker.ids(pieces)
        kinds = tuple(self.model.vocabulary.layout.kinds) if want is None else (kind,) if kind else ()
        decoded = self.decode([prompt], how, seed, kinds=kinds, required=kind)[0]
        return self._turn(decoded, seed)

    def _prompt(self, exchanges: Sequence[Exchange], *, want: str | None, kind: str | None) -> list[Piece]:
        """Ids that lead to the answer: a conversation, or a pair of the first stage."""
        vocabulary = self.model.vocabulary
        if vocabulary.chat != "none":
            return conversation(vocabulary, exchanges)
        question = list(exchanges[-1][0])
        if len(exchanges) > 1:
            raise InputError(
                "this checkpoint has had stage pretrain alone and knows no history: begin anew, or train stage chat"
            )
        stretches = [piece for piece in question if isinstance(piece, tuple)]
        text = " ".join(piece for piece in question if isinstance(piece, str))
        if kind is not None and not stretches:
            question = pair_question(kind, MAKE[kind][0], text)
        elif stretches:
            question = pair_question(stretches[0][0], text or READ[stretches[0][0]][0], stretches[0][1])
        return pair(vocabulary, question, None)

    def piece(self, part: Any, **how: str) -> Piece:
        """Text as it is, clips as speech or music (`hear`), images as their codes."""
        if isinstance(part, str):
            return part
        if isinstance(part, AudioClip) and how["hear"] == "speech":
            return ("speech", tuple(self.hear(part).units.tolist()))
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
        answer = read_answer(decoded.ids, self.model.vocabulary, self.decode_text)
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

    def request(self, units: Sequence[int]) -> list[int]:
        """The first stage's request for a transcript."""
        question = pair_question("speech", READ["speech"][0], tuple(units))
        return self.maker.ids(pair(self.model.vocabulary, question, None))

    def text_of(self, ids: Sequence[int]) -> str:
        """The answer as text."""
        return read_answer(ids, self.model.vocabulary, self.decode_text).text


def fitted_music(name: str | Path, config: AnyGptConfig) -> Path:
    """The checkpoint of a codec of music, whose codes must be those of the vocabulary.

    Raises:
        CheckpointError: nothing is there, or it is no codec.
        FittedPartMismatch: it has other codes.
    """
    codec = hub.load_codec(name)
    check_music(config, codec.num_codebooks, codec.codebook_size)
    return checkpoint.resolve(hub.locate(name))


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
    speech = hub.load_codec(fitted_part(found, "speech", model.config.speech_identity))
    refiner = hub.load_role(found.parts["refiner"], "Generator") if "refiner" in found.parts else None
    music = hub.load_codec(found.parts["music"]) if "music" in found.parts else None
    tokenizer = tokenizer_of(model.config.tokenizer, found.parts, found.folder)
    return AnyGptChatter(model, tokenizer, speech, refiner=refiner, music=music)
