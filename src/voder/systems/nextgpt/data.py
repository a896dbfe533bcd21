"""What NExT-GPT is trained on: conversations with media, made of recordings or read from dialogues, for each stage."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voder.audio.io import AudioClip
from voder.data.dialogue import Dialogue, Dialogues, DialogueTurn, Media, Reader, read_record, read_recording
from voder.data.manifest import Manifest, Utterance
from voder.errors import ManifestError
from voder.systems.nextgpt.config import Records, StageName
from voder.systems.nextgpt.formats import DESCRIBE, SHOW, read_legacy, read_new

READERS: dict[str, Reader] = {"dialogues": read_record, "legacy": read_legacy, "new": read_new}


@dataclass(frozen=True)
class Seen:
    """A medium that can be read."""

    kind: str
    read: Callable[[], AudioClip | np.ndarray]


@dataclass(frozen=True)
class Shown:
    """A medium that the assistant shows: what its projected signals are to match."""

    kind: str
    file: Path | None
    """A generator's vectors of the caption."""
    recording: Seen | None
    """What is shown, for the encoder to listen to."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One turn; a user's may be worded in several ways."""

    role: str
    wordings: tuple[str, ...]
    media: tuple[Seen, ...] = ()
    shows: tuple[Shown, ...] = ()


@dataclass(frozen=True, kw_only=True)
class Example:
    """One conversation."""

    id: str
    lines: tuple[Line, ...]


def open_examples(file: Path, records: Records, stage: StageName) -> "Examples":
    """The examples of a file for a stage.

    Raises:
        ManifestError: missing, with bad lines, or (for training) with nothing to learn from.
    """
    found = Examples(file, records, stage)
    if file.stem == "train" and not len(found):
        raise ManifestError(
            f"{file} has nothing for {stage} as task.records={records}: recordings need a text, dialogues media in a "
            "user's turn (encoder_alignment), captions (decoder_alignment) or an assistant's turn (instruction)"
        )
    return found


class Examples(Sequence[Example]):
    """The examples of a file; made when asked for."""

    def __init__(self, file: Path, records: Records, stage: StageName) -> None:
        self.stage = stage
        self.manifest = Manifest.open(file) if records == "recordings" else None
        self.dialogues = None if records == "recordings" else Dialogues.open(file, reader=READERS[records])
        self._numbers = list(self._usable())

    def _usable(self) -> Iterator[tuple[int, int]]:
        """Numbers of records; of a recording in the last stage there are two examples, one for each direction."""
        for number, utterance in enumerate(self.manifest or ()):
            if utterance.text and utterance.text.strip():
                yield number, 0
                if self.stage == "instruction":
                    yield number, 1
        for number, dialogue in enumerate(self.dialogues or ()):
            if lines_of(dialogue, self.stage):
                yield number, 0

    def __len__(self) -> int:
        return len(self._numbers)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        number, direction = self._numbers[index]
        if self.manifest is not None:
            return from_recording(self.manifest[number], self.stage, showing=bool(direction))
        assert self.dialogues is not None
        dialogue = self.dialogues[number]
        return Example(id=dialogue.id, lines=lines_of(dialogue, self.stage))


def from_recording(utterance: Utterance, stage: StageName, *, showing: bool) -> Example:
    """A recording that is put into words, or words that become the recording."""
    text = (utterance.text or "").strip()
    recording = Seen("audio", utterance.read)
    if stage == "encoder_alignment" or (stage == "instruction" and not showing):
        asked = Line(role="user", wordings=DESCRIBE, media=(recording,))
        return Example(id=utterance.id, lines=(asked, Line(role="assistant", wordings=(text,))))
    wordings = (text,) if stage == "decoder_alignment" else tuple(wording.format(text) for wording in SHOW)
    answer = Line(role="assistant", wordings=(text,), shows=(Shown("audio", None, recording),))
    return Example(id=utterance.id, lines=(Line(role="user", wordings=wordings), answer))


def lines_of(dialogue: Dialogue, stage: StageName) -> tuple[Line, ...]:
    """What a stage learns from a dialogue; nothing where it has nothing for it."""
    turns = [turn for turn in dialogue.turns if turn.role != "system"]
    if stage == "decoder_alignment":
        return _captioned(turns)
    lines = [_line(turn, shows=stage == "instruction") for turn in turns]
    while lines and lines[-1].role == "user":
        lines.pop()
    if not lines or lines[0].role != "user":
        return ()
    heard = any(line.media for line in lines)
    return tuple(lines) if heard or stage == "instruction" else ()


def _captioned(turns: Sequence[DialogueTurn]) -> tuple[Line, ...]:
    """The first medium with a caption: its caption, and its caption with signals."""
    for turn in turns:
        for part in turn.parts:
            if isinstance(part, Media) and part.caption:
                answer = Line(role="assistant", wordings=(part.caption,), shows=(_shown(part),))
                return Line(role="user", wordings=(part.caption,)), answer
    return ()


def _line(turn: DialogueTurn, *, shows: bool) -> Line:
    media = [part for part in turn.parts if isinstance(part, Media)]
    text = turn.text.strip()
    if turn.role == "assistant":
        shown = tuple(_shown(part) for part in media) if shows else ()
        return Line(role="assistant", wordings=(text,), shows=shown)
    seen = tuple(Seen(part.kind, _reader(part)) for part in media)
    return Line(role="user", wordings=(text,) if text else DESCRIBE, media=seen)


def _shown(media: Media) -> Shown:
    return Shown(media.kind, media.embedding, Seen(media.kind, _reader(media)))


def _reader(media: Media) -> Callable[[], AudioClip | np.ndarray]:
    return lambda: read_media(media)


def read_media(media: Media) -> AudioClip | np.ndarray:
    """The medium that is meant, or the stretch of it.

    Raises:
        AudioError: a recording cannot be read, or its stretch lies behind the file's end.
        ManifestError: a video, which cannot be read here.
    """
    if media.kind == "video":
        raise ManifestError(f"{media.path} is a video, which cannot be read here; videos can be shown, not seen")
    if media.kind == "image":
        from voder.image import read_image

        return read_image(media.path)
    return read_recording(media)


def read_target(shown: Shown, num_vectors: int, width: int) -> np.ndarray:
    """A generator's vectors of a caption, from its file.

    Raises:
        ManifestError: no file is named, or it has another shape.
    """
    if shown.file is None:
        raise ManifestError(
            f"a shown {shown.kind} names no file with its caption's vectors; give one, or set task.targets=encoder"
        )
    try:
        vectors: np.ndarray = np.load(shown.file, allow_pickle=False)
    except (OSError, ValueError) as error:
        raise ManifestError(f"{shown.file} is no readable array of vectors ({error})") from error
    if vectors.size != num_vectors * width or not np.isfinite(vectors).all():
        raise ManifestError(
            f"{shown.file} has the shape {list(vectors.shape)}; {num_vectors} x {width} numbers are wanted"
        )
    return vectors.reshape(num_vectors, width).astype(np.float32)
