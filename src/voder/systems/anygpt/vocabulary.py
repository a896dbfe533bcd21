"""The ids of AnyGPT: the language model's own, four markers, then each modality's codes with its two marks.

With Llama's 32,000 ids that makes 49,418, and 53,516 where the sound codes are there too, which the published code
leaves out and the published weights have: what a checkpoint has is read off its size. The chat model adds two more
markers at the end.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from voder.errors import CheckpointError
from voder.sequence.grown import GrownVocabulary
from voder.sequence.spans import SpanKind, SpanLayout

MARKERS = ("[Human]", "[MMGPT]", "<eoh>", "<eos>")
CHAT_MARKERS = ("<-Res->", "<-Ins->")
"""From the second stage on: what follows is an answer, or was an instruction."""


@dataclass(frozen=True, kw_only=True)
class ModalitySizes:
    """Codes of each modality; 0 leaves it out."""

    image: int = 8192
    """Codes of images."""
    speech: int = 1024
    """Codes of speech (the first codebook alone)."""
    music: int = 8192
    """Codes of music, all of its codebooks together."""
    audio: int = 4096
    """Codes of sounds, all of their codebooks together."""
    image_length: int = 32
    """Codes of an image."""
    music_levels: int = 4
    """Codebooks of music."""
    audio_levels: int = 4
    """Codebooks of sounds."""

    def __post_init__(self) -> None:
        for name in ("music", "audio"):
            size, levels = getattr(self, name), getattr(self, f"{name}_levels")
            if levels < 1 or size % levels:
                raise ValueError(f"{name} has {size} codes, which must be a multiple of {name}_levels {levels}")
        if min(self.image, self.speech, self.music, self.audio) < 0 or self.image_length < 1:
            raise ValueError("numbers of codes must be at least 0, and image_length at least 1")


SPELLING: Mapping[str, tuple[str, str, str]] = {
    "image": ("\N{EYES}", "<soim>", "<eoim>"),
    "speech": ("\N{SPEAKING HEAD IN SILHOUETTE}\ufe0f", "<sosp>", "<eosp>"),
    "music": ("\N{MULTIPLE MUSICAL NOTES}", "<somu>", "<eomu>"),
    "audio": ("\N{EAR}", "<soau>", "<eoau>"),
}
"""How the authors write codes and marks; in this order the ids follow one another."""


ChatPlace = Literal["none", "first", "last"]
"""Where the chat markers are: nowhere, right behind the other markers, or behind everything."""


class AnyGptVocabulary(GrownVocabulary):
    """Which id is what."""

    def __init__(self, text_size: int, sizes: ModalitySizes, *, chat: ChatPlace = "last") -> None:
        self.text_size, self.sizes, self.chat = text_size, sizes, chat
        self._heads = (*MARKERS, *(CHAT_MARKERS if chat == "first" else ()))
        self.markers = {name: text_size + number for number, name in enumerate(self._heads)}
        at, kinds = text_size + len(self._heads), []
        for name in SPELLING:
            if size := getattr(sizes, name):
                kinds.append(
                    SpanKind(
                        name=name,
                        first=at,
                        size=size,
                        start=at + size,
                        end=at + size + 1,
                        levels=getattr(sizes, f"{name}_levels", 1),
                        length=sizes.image_length if name == "image" else None,
                    )
                )
                at += size + 2
        if chat == "last":
            self.markers |= {name: at + number for number, name in enumerate(CHAT_MARKERS)}
            at += len(CHAT_MARKERS)
        self.size = at
        self.layout = SpanLayout(kinds, at)

    @classmethod
    def of_size(cls, size: int, text_size: int = 32_000) -> "AnyGptVocabulary":
        """The published vocabulary that has so many ids.

        Raises:
            CheckpointError: none has.
        """
        found = {}
        for sound in (False, True):
            for place in ("none", "last"):
                sizes = ModalitySizes(audio=4096 if sound else 0)
                vocabulary = cls(text_size, sizes, chat="last" if place == "last" else "none")
                found[vocabulary.size] = vocabulary
        if size not in found:
            raise CheckpointError(
                f"the vocabulary has {size} ids; AnyGPT over {text_size} ids of text has {', '.join(map(str, found))}"
            )
        return found[size]

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the added ids are called in the published tokenizer, in the order of their ids."""
        named = [*self._heads]
        for name, kind in self.layout.kinds.items():
            prefix, start, end = SPELLING[name]
            named += [*(f"<{prefix}{code}>" for code in range(kind.size)), start, end]
        return (*named, *(CHAT_MARKERS if self.chat == "last" else ()))

    def spelled(self, kind: str, codes: Sequence[int]) -> str:
        """A stretch as the authors write it."""
        prefix, start, end = SPELLING[kind]
        return start + "".join(f"<{prefix}{code}>" for code in codes) + end


def read_stretch(text: str) -> tuple[str, tuple[int, ...]] | None:
    """The kind and the codes of a stretch as the authors write it, which must be all of the text; None otherwise."""
    for kind, (prefix, start, end) in SPELLING.items():
        if re.fullmatch(f"{start}(?:<{prefix}\\d+>)*{end}", text):
            return kind, tuple(int(code) for code in re.findall(f"<{prefix}(\\d+)>", text))
    return None


STRETCH = re.compile("|".join(f"{start}.*?{end}" for _, start, end in SPELLING.values()), re.DOTALL)
"""Anything from a start to the next end of its kind."""
MARKS = tuple(mark for _, start, end in SPELLING.values() for mark in (start, end))
