"""Conversations: `chat`. Text, audio and pictures in; text, and what generators make, out."""

from collections.abc import Mapping, Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint
from voder.config import nearest
from voder.data.randomness import torch_generator
from voder.errors import ConfigError, InputError, VoderError
from voder.generate.lm import GenerateConfig
from voder.nn.causal_lm import CausalLmSession
from voder.roles import Chatter, Turn, device_of
from voder.systems.nextgpt import hearing
from voder.systems.nextgpt.config import KINDS
from voder.systems.nextgpt.generators import Generator, load_generator
from voder.systems.nextgpt.model import NextGpt, lay_out
from voder.systems.nextgpt.pieces import Piece, Spoken, Words
from voder.systems.nextgpt.seeing import picture
from voder.systems.nextgpt.speaking import Said, speak
from voder.train.base_lm import tokenizer_of

Gift = Literal["text", "audio", "image"]
GENERATORS: dict[Gift, str] = {"audio": "audio_generator", "image": "image_generator"}
"""What a generator is called among the parts of a checkpoint."""


class NextGptChatter(Chatter):
    """A model, its tokenizer, and what it shows things with."""

    def __init__(self, model: NextGpt, words: Words, generators: Mapping[str, Generator] | None = None) -> None:
        super().__init__()
        self.model, self.words = model, words
        self.generators: dict[str, Generator] = dict(generators or {})
        self.absent: dict[str, str] = {}
        """Why a kind cannot be made, where that is known."""
        self.takes = ("text", "audio", "image") if model.encoder.vision is not None else ("text", "audio")
        made: list[Gift] = ["text"]
        for kind in GENERATORS:
            made += [kind] if model.config.output(kind) is not None else []
        self.gives = tuple(made)

    @torch.no_grad()
    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        """The assistant's next turn; greedy unless sampling is asked for (the options of `GenerateConfig`).

        Raises:
            InputError: no user's turn at the end, parts that are not taken, a history that is too long.
            ConfigError: a wanted kind that is not given, or an option that has nothing to do.
        """
        how = GenerateConfig().changed(**sampling)
        if how.num_beams > 1:
            raise ConfigError("nextgpt chats without beams, as signals are said in whole spans; leave num_beams out")
        if want is not None and want not in self.gives:
            raise ConfigError(f"this model gives {', '.join(self.gives)}, no {want}{nearest(want, list(self.gives))}")
        pieces, vectors = self.read(turns)
        kinds = [kind for kind in KINDS if self.model.config.output(kind)]
        kinds = [kind for kind in kinds if want in (None, kind)]
        said = self._speak(pieces, vectors, how, kinds=kinds, want=None if want == "text" else want, seed=seed)
        text = self.words.tokenizer.decode(said.text, skip_special_tokens=True).strip()
        shown, missing = self._shown(pieces, vectors, said, seed)
        return Turn(
            role="assistant",
            parts=(*([text] if text else []), *shown),
            stop_reason=said.stop_reason,
            truncated=said.stop_reason == "limit",
            missing=tuple(missing),
        )

    def read(self, turns: Sequence[Turn]) -> tuple[list[Piece], Float[Tensor, "medium vector"]]:
        """A conversation as pieces, and the vectors of its media.

        Raises:
            InputError: no user's turn at the end, or parts that are not taken.
        """
        if not turns or turns[-1].role != "user":
            raise InputError("a conversation must end with a user's turn for the assistant to answer")
        vectors: list[Tensor] = []
        spoken = []
        for number, turn in enumerate(turns, 1):
            if turn.role == "system":
                raise InputError(f"turn {number} is the system's; NExT-GPT knows users and assistants alone")
            given = [part for part in turn.parts if not isinstance(part, str)]
            if not given and not turn.text.strip():
                raise InputError(f"turn {number} is empty")
            if turn.role == "assistant":
                shows = dict.fromkeys("audio" if isinstance(part, AudioClip) else "image" for part in given)
                known = tuple(kind for kind in shows if self.model.config.output(kind) is not None)
                spoken.append(Spoken(role="assistant", text=turn.text.strip(), shows=known))
                continue
            media = tuple(range(len(vectors), len(vectors) + len(given)))
            vectors += [self._vector(part, number) for part in given]
            spoken.append(Spoken(role="user", text=turn.text.strip(), media=media))
        empty = torch.zeros(0, self.model.config.encoder.output_width, device=device_of(self.model))
        return self.words.lay_out(spoken), torch.cat(vectors) if vectors else empty

    def _vector(self, part: AudioClip | np.ndarray, number: int) -> Float[Tensor, "1 vector"]:
        device = device_of(self.model)
        if isinstance(part, AudioClip):
            return self.model.encoder.hear(hearing.images([part], self.model.config.encoder.audio).to(device))
        vision = self.model.config.encoder.vision
        if vision is None:
            raise InputError(f"turn {number} holds an image; this model takes {', '.join(self.takes)}")
        return self.model.encoder.see(picture(part, vision.size)[None].to(device))

    def _speak(
        self,
        pieces: list[Piece],
        vectors: Float[Tensor, "medium vector"],
        how: GenerateConfig,
        *,
        kinds: Sequence[str],
        want: str | None,
        seed: int,
    ) -> Said:
        read = lay_out([pieces], vectors.device)
        length = read.ids.shape[1]
        spans = len(self.words.signals(want)) if want else 0
        room = self.model.config.lm.max_positions - length
        if room < 1 + spans:
            raise InputError(
                f"the conversation has {length} positions; the language model reads "
                f"{self.model.config.lm.max_positions} and needs {1 + spans} for its turn: begin a new one"
            )
        session = CausalLmSession(self.model.lm, self.model.embeddings(read, vectors), read.valid.long())
        noise = torch_generator(seed, "reply", length)
        return speak(session, self.words, how, kinds=kinds, want=want, noise=noise, room=room)

    def _shown(
        self, pieces: list[Piece], vectors: Float[Tensor, "medium vector"], said: Said, seed: int
    ) -> tuple[list[AudioClip | np.ndarray], list[str]]:
        """What generators make of the spans, and what could not be made."""
        shown: list[AudioClip | np.ndarray] = []
        missing = []
        for kind, condition in self.conditions(pieces, vectors, said).items():
            generator = self.generators.get(kind)
            if generator is None:
                missing.append(f"{kind}: {self.absent.get(kind, _absent(kind))}")
                continue
            try:
                shown.append(generator.make(condition, seed))
            except (VoderError, RuntimeError, ValueError, TypeError) as error:  # a part of other people's
                missing.append(f"{kind}: its generator failed ({str(error).splitlines()[0]})")
        return shown, missing

    def conditions(
        self, pieces: list[Piece], vectors: Float[Tensor, "medium vector"], said: Said
    ) -> dict[str, Float[Tensor, "shown condition"]]:
        """What a generator reads for each kind that was shown: the whole turn is read once more for it."""
        if not said.shows:
            return {}
        read = lay_out([[*pieces, Piece(tuple(said.ids))]], vectors.device)
        _, states = self.model.states(self.model.embeddings(read, vectors), read.valid)
        return {kind: self.model.project(states, read.ids, kind)[0][-1].float() for kind in said.shows}


def _absent(kind: str) -> str:
    part = next((part for name, part in GENERATORS.items() if name == kind), None)
    if part is None:
        return f"no generator of {kind} can be used here"
    return f"no generator lies beside this checkpoint (parts/{part}, a folder as diffusers writes it)"


def load_chatter(model: NextGpt, found: Checkpoint) -> NextGptChatter:
    """The networks of a checkpoint with their tokenizer, and those generators that are there and can be loaded."""
    words = Words(model.config, tokenizer_of(model.config.tokenizer, found.parts, found.folder))
    chatter = NextGptChatter(model, words)
    for kind, part in GENERATORS.items():
        if part in found.parts and model.config.output(kind) is not None:
            try:
                chatter.generators[kind] = load_generator(kind, found.parts[part])
            except VoderError as error:  # text is answered all the same
                chatter.absent[kind] = str(error)
    return chatter
