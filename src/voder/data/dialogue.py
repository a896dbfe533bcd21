"""Conversations with text, sound, images and codes in them: one record for every authors' format.

One JSON object a line: id, turns, and where known task, language, licence, source. A turn is
`{"role": "user", "parts": [...]}`; a part is one of
    "text", or {"text": "..."}
    {"audio": "a.wav", "start_s": 1.5, "end_s": 4}      also image, video; paths are relative to the file's folder
    {"codes": [3, 1, 4], "modality": "speech", "tokenizer": "..."}
A medium may have a caption and a file with its embedding (what a generator is taught to match).

Systems bring readers and writers of their authors' records (`formats.py`); `Dialogues.open` runs any of them over a
file of lines or of one JSON list, and names every record that cannot be used with its reason.
"""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from voder.audio.io import AudioClip, read_audio
from voder.data.manifest import (
    BadLine,
    check_characters,
    describe_bad_lines,
    json_line,
    load_object,
    numbered_lines,
)
from voder.errors import AudioError, ManifestError
from voder.files import atomic_path, relative_to_folder

Role = Literal["system", "user", "assistant"]
MediaKind = Literal["audio", "image", "video"]
Modality = Literal["speech", "music", "audio", "image"]
ROLES: tuple[str, ...] = get_args(Role)
MEDIA: tuple[str, ...] = get_args(MediaKind)
MODALITIES: tuple[str, ...] = get_args(Modality)
MAX_CODE = 2**31


@dataclass(frozen=True, kw_only=True)
class Media:
    """A file with sound or pictures."""

    kind: MediaKind
    path: Path
    start_s: float | None = None
    """where the stretch that is meant begins; the file's start if not given"""
    end_s: float | None = None
    """where it ends"""
    caption: str | None = None
    """what it shows or sounds like"""
    embedding: Path | None = None
    """the caption's vectors by a generator's own text encoder"""


@dataclass(frozen=True, kw_only=True)
class Codes:
    """Codes of one stretch of sound or one image, in the order in which a language model reads them."""

    modality: Modality
    codes: tuple[int, ...]
    tokenizer: str | None = None
    """what made them; codes of another tokenizer mean something else"""


Part = str | Media | Codes


@dataclass(frozen=True, kw_only=True)
class DialogueTurn:
    """What one side says."""

    role: Role
    parts: tuple[Part, ...]

    @property
    def text(self) -> str:
        """The text parts, joined by spaces."""
        return " ".join(part for part in self.parts if isinstance(part, str))


@dataclass(frozen=True, kw_only=True)
class Dialogue:
    """One conversation, pair or document.

    Raises:
        ManifestError: no turn, an empty turn, or a system turn that is not the first.
    """

    id: str
    turns: tuple[DialogueTurn, ...]
    task: str | None = None
    """what is asked for, by the authors' name (asr, qa, caption)"""
    language: str | None = None
    licence: str | None = None
    source: str | None = None

    def __post_init__(self) -> None:
        if not self.turns:
            raise ManifestError("turns are missing")
        for number, turn in enumerate(self.turns, 1):
            if turn.role == "system" and number > 1:
                raise ManifestError(f"turn {number} is the system's; only the first may be")
            if not turn.parts or "" in turn.parts:
                raise ManifestError(f"turn {number} is empty or has an empty text")


Reader = Callable[[Mapping[str, Any], Path], Dialogue]
"""Makes a dialogue of a record and the folder that its paths are relative to; ManifestError says what is wrong."""
Writer = Callable[[Dialogue, Path], Mapping[str, Any]]
"""Makes the record back; ManifestError where the format cannot say what the dialogue holds."""


def content_id(row: Mapping[str, Any]) -> str:
    """An id for a record that has none, from what it says."""
    text = json.dumps(row, sort_keys=True, ensure_ascii=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def read_record(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """Read one record of this module's own format."""
    turns = row.get("turns")
    if not isinstance(turns, list):
        raise ManifestError("turns must be a list")
    return Dialogue(
        id=text_field(row, "id") or content_id(row),
        turns=tuple(_read_turn(turn, number, folder) for number, turn in enumerate(turns, 1)),
        **{key: text_field(row, key) for key in ("task", "language", "licence", "source")},
    )


def write_record(dialogue: Dialogue, folder: Path) -> dict[str, Any]:
    """Make one record of this module's own format, for a file that lies in `folder`."""
    turns = [
        {"role": turn.role, "parts": [_write_part(part, folder) for part in turn.parts]} for turn in dialogue.turns
    ]
    known = {key: getattr(dialogue, key) for key in ("task", "language", "licence", "source")}
    return {"id": dialogue.id, "turns": turns, **{key: value for key, value in known.items() if value is not None}}


class Dialogues(Sequence[Dialogue]):
    """A file of dialogues: every record checked once, kept as an offset, parsed when asked for."""

    def __init__(self, path: Path, places: Sequence[Any], reader: Reader, bad: tuple[BadLine, ...]) -> None:
        self.path = path
        self.bad_lines = bad
        self._places = places
        self._reader = reader

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, reader: Reader = read_record, skip_bad: bool = False) -> "Dialogues":
        """Check every record; the files that they name are not opened.

        Raises:
            ManifestError: naming the bad records, or with `skip_bad` only where nothing is left.
        """
        path = Path(path)
        places: Any = [] if _is_list(path) else array("q")
        bad: list[BadLine] = []
        seen: set[str] = set()
        for number, place, row in _records(path):
            try:
                found = reader(load_object(row) if isinstance(row, bytes) else _object(row), path.parent)
                if found.id in seen:
                    raise ManifestError(f"id {found.id!r} stands on an earlier record too")
            except ManifestError as error:
                bad.append(BadLine(number, str(error)))
                continue
            seen.add(found.id)
            places.append(place)
        if bad and not (skip_bad and places):
            raise ManifestError(describe_bad_lines(path, bad, len(places) + len(bad)))
        return cls(path, places, reader, tuple(bad))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: Any) -> Any:
        if isinstance(index, slice):
            return [self[number] for number in range(*index.indices(len(self)))]
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} dialogues, there is no number {index}")
        place = self._places[index]
        if not isinstance(place, int):
            return self._reader(place, self.path.parent)
        try:
            with open(self.path, "rb") as file:
                file.seek(place)
                return self._reader(load_object(file.readline()), self.path.parent)
        except (OSError, ManifestError) as error:
            raise ManifestError(f"{self.path} has changed since it was opened: {error}") from error


def write_dialogues(
    path: str | os.PathLike[str], dialogues: Iterable[Dialogue], *, writer: Writer = write_record
) -> int:
    """Write dialogues, whole or not at all, and return their number: lines, or one list where the name ends in .json.

    Raises:
        ManifestError: the format cannot hold a dialogue; it is named.
    """
    path = Path(path)
    rows = []
    for dialogue in dialogues:
        try:
            rows.append(writer(dialogue, path.parent))
        except ManifestError as error:
            raise ManifestError(f"dialogue {dialogue.id!r} cannot be written to {path}: {error}") from error
    listed = path.suffix == ".json"
    with atomic_path(path) as temporary:
        text = json.dumps(rows, ensure_ascii=False, indent=1) if listed else "".join(map(json_line, rows))
        temporary.write_bytes(text.encode("utf-8"))
    return len(rows)


def text_field(row: Mapping[str, Any], key: str, *, required: bool = False) -> str | None:
    """The text under a key, or None; numbers serve as ids.

    Raises:
        ManifestError: it is not text, or it is required and missing.
    """
    value = row.get(key)
    if key == "id" and isinstance(value, int) and not isinstance(value, bool):
        value = str(value)
    if value is None and required:
        raise ManifestError(f"{key} is missing")
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{key} must be text, but is {type(value).__name__}")
    if value is not None:
        check_characters("audio" if key in MEDIA else key, value)
    return value


def code_tuple(values: Any) -> tuple[int, ...]:
    """Check a list of codes.

    Raises:
        ManifestError: something in it is not a whole number from 0.
    """
    if not isinstance(values, list) or not values:
        raise ManifestError("codes must be a list of numbers, and not empty")
    for value in values:
        if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value < MAX_CODE:
            raise ManifestError(f"codes must be whole numbers from 0, but one is {str(value)[:40]}")
    return tuple(values)


def read_recording(media: Media) -> AudioClip:
    """The stretch of a recording that is meant.

    Raises:
        AudioError: the file cannot be read, or the stretch lies behind its end.
    """
    clip = read_audio(media.path)
    start = round((media.start_s or 0.0) * clip.sample_rate_hz)
    end = clip.num_samples if media.end_s is None else round(media.end_s * clip.sample_rate_hz)
    if not start < min(end, clip.num_samples):
        raise AudioError(
            f"{media.path} lasts {clip.duration_s:.2f} s; nothing lies at {media.start_s or 0:g} s to "
            f"{'its end' if media.end_s is None else f'{media.end_s:g} s'}"
        )
    return AudioClip(np.ascontiguousarray(clip.samples[:, start:end]), clip.sample_rate_hz)


def _read_turn(turn: Any, number: int, folder: Path) -> DialogueTurn:
    if not isinstance(turn, Mapping) or not isinstance(turn.get("parts"), list):
        raise ManifestError(f"turn {number} must be an object with role and parts")
    if turn.get("role") not in ROLES:
        raise ManifestError(f"turn {number} has the role {turn.get('role')!r}; allowed are {', '.join(ROLES)}")
    try:
        return DialogueTurn(role=turn["role"], parts=tuple(_read_part(part, folder) for part in turn["parts"]))
    except ManifestError as error:
        raise ManifestError(f"turn {number}: {error}") from None


def _read_part(part: Any, folder: Path) -> Part:
    row: Any = {"text": part} if isinstance(part, str) else part
    kinds = [key for key in ("text", "codes", *MEDIA) if isinstance(row, Mapping) and key in row]
    if len(kinds) != 1:
        raise ManifestError(f"a part must be one of text, codes, {', '.join(MEDIA)}, but is {str(part)[:60]}")
    kind = kinds[0]
    if kind == "text":
        return text_field(row, "text", required=True) or ""
    if kind == "codes":
        if row.get("modality") not in MODALITIES:
            raise ManifestError(f"codes have the modality {row.get('modality')!r}; allowed: {', '.join(MODALITIES)}")
        return Codes(modality=row["modality"], codes=code_tuple(row["codes"]), tokenizer=text_field(row, "tokenizer"))
    return _read_media(row, kind, folder)


def _read_media(row: Mapping[str, Any], kind: Any, folder: Path) -> Media:
    path = text_field(row, kind, required=True)
    if not path:
        raise ManifestError(f"{kind} names no file")
    start, end = _seconds(row, "start_s"), _seconds(row, "end_s")
    if end is not None and end <= (start or 0.0):
        raise ManifestError(f"end_s {end:g} must be above start_s {start or 0.0:g}")
    embedding = text_field(row, "embedding")
    return Media(
        kind=kind,
        path=resolve_path(folder, path),
        start_s=start,
        end_s=end,
        caption=text_field(row, "caption"),
        embedding=resolve_path(folder, embedding) if embedding else None,
    )


def resolve_path(folder: Path, path: str) -> Path:
    """A path written in a file that lies in `folder`."""
    return Path(os.path.normpath(folder / path))


def _write_part(part: Part, folder: Path) -> Any:
    if isinstance(part, str):
        return part
    if isinstance(part, Codes):
        row: dict[str, Any] = {"codes": list(part.codes), "modality": part.modality, "tokenizer": part.tokenizer}
    else:
        row = {part.kind: relative_to_folder(part.path, folder), "caption": part.caption}
        row |= {"start_s": part.start_s, "end_s": part.end_s}
        row["embedding"] = None if part.embedding is None else relative_to_folder(part.embedding, folder)
    return {key: value for key, value in row.items() if value is not None}


def _seconds(row: Mapping[str, Any], key: str) -> float | None:
    value = row.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value) or value < 0:
        raise ManifestError(f"{key} must be a number of seconds from 0, but is {str(value)[:40]}")
    return float(value)


def _is_list(path: Path) -> bool:
    return path.suffix == ".json" and any(raw.lstrip().startswith(b"[") for _, _, raw in _first(path))


def _first(path: Path) -> Iterator[tuple[int, int, bytes]]:
    for found in numbered_lines(path):
        yield found
        return


def _records(path: Path) -> Iterator[tuple[int, Any, Any]]:
    """Yield (number from 1, where it is found again, the line's bytes or the list's entry)."""
    if not _is_list(path):
        yield from numbered_lines(path)
        return
    try:
        entries = json.loads(path.read_bytes().decode("utf-8-sig"))
    except (OSError, ValueError, RecursionError) as error:
        raise ManifestError(f"{path} is not a JSON list: {error}") from error
    for number, entry in enumerate(entries, 1):
        yield number, entry, entry


def _object(entry: Any) -> Mapping[str, Any]:
    if not isinstance(entry, Mapping):
        raise ManifestError(f"a JSON object is needed, not {type(entry).__name__}")
    return entry
