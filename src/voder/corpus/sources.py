"""Finding recordings and what is said in them, in whatever shape a corpus comes.

A table (CSV, TSV, JSONL; NeMo's and Hugging Face's keys; LJSpeech's `id|text|normalised` without a header; cuts or
recordings of lhotse, also compressed; fairseq's .tsv with the .wrd or .ltr beside it), or a folder of sound files with
a transcript beside each (`x.normalized.txt`, `x.txt` or `x.lab`) or one per folder (LibriSpeech's `*.trans.txt`).

Who speaks, where no column says it: the name of the sub-folder, when every sound file lies exactly one folder deep and
there are at least two folders; the first number of LibriSpeech's `19/198/19-198-0000`; otherwise nobody knows.
"""

import csv
import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from voder.corpus.transcripts import Transcripts
from voder.data.manifest import check_characters, load_object
from voder.errors import InputError, ManifestError

READ_SUFFIXES = (".wav", ".flac", ".mp3", ".ogg", ".opus", ".oga", ".aif", ".aiff", ".au", ".sph", ".w64", ".caf")
UNREAD_SUFFIXES = (".m4a", ".aac", ".wma", ".webm", ".mp4", ".mka", ".amr", ".ape", ".ac3", ".raw", ".pcm")
TABLE_SUFFIXES = (".csv", ".tsv", ".jsonl", ".jsonl.gz")
SOUND_FOLDERS = ("", "clips", "wavs", "wav", "audio")
SPLIT_NAMES = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("valid", "validation", "validate", "dev", "val"), "valid"),
    **dict.fromkeys(("test", "testing", "eval", "evaluation"), "test"),
}
COLUMNS: Mapping[str, tuple[str, ...]] = {
    "audio": ("audio", "audio_filepath", "audio_path", "path", "file", "filename", "file_name", "wav"),
    "text": ("text", "transcript", "sentence", "transcription"),
    "speaker": ("speaker", "speaker_id", "client_id"),
    "language": ("language", "lang", "locale"),
    "licence": ("licence", "license"),
    "split": ("split",),
    "source": ("source",),
    "offset": ("offset",),
    "start_sample": ("start_sample",),
    "num_samples": ("num_samples",),
    "duration": ("duration", "duration_s"),
}


@dataclass(frozen=True, kw_only=True)
class Candidate:
    """A recording that a corpus names, before its sound file is looked at."""

    where: str
    """the file or table line that names it"""
    audio: Path
    text: str | None = None
    speaker: str | None = None
    language: str | None = None
    licence: str | None = None
    source: str | None = None
    split: str | None = None
    start_s: float | None = None
    """where a stretch of a longer file begins; None for the whole file"""
    duration_s: float | None = None
    """how long the table says it is"""


@dataclass(frozen=True, kw_only=True)
class Rejected:
    """A recording or line that cannot be used."""

    where: str
    kind: str
    """a few words, the same for like troubles"""
    reason: str


@dataclass(frozen=True, kw_only=True)
class Found:
    """What a corpus names."""

    candidates: list[Candidate]
    rejected: list[Rejected]
    notes: list[str] = field(default_factory=list)


def find_recordings(path: Path, *, exclude: Path | None = None, folder_speakers: bool = True) -> Found:
    """Find the recordings of a folder or a table, in a fixed order. `exclude` is a folder to pass by.

    Raises InputError when `path` is missing, holds nothing, or holds several tables and does not say which counts.
    """
    if path.is_file():
        if not _is_table(path):
            raise InputError(f"{path} is no table: the suffix must be one of {', '.join(TABLE_SUFFIXES)}")
        return _read_tables([path])
    if not path.is_dir():
        raise InputError(f"{path} does not exist: give a folder of recordings or a table")
    tables = _choose_tables(path)
    return _read_tables(tables) if tables else _walk(path, exclude, folder_speakers)


def _choose_tables(folder: Path) -> list[Path]:
    """Return the folder's tables that count: manifest.jsonl, or one per split, or the only one."""
    visible = [path for path in folder.iterdir() if not path.name.startswith(".")]
    tables = sorted(filter(_is_table, visible))
    for table in tables:
        if table.name == "manifest.jsonl":
            return [table]
    splits = [table for table in tables if _split_of(table) is not None]
    if any(_split_of(table) == "train" for table in splits):
        return splits
    if len(tables) > 1:
        names = ", ".join(table.name for table in tables)
        raise InputError(f"{folder} holds several tables ({names}): name the one to use instead of the folder")
    return tables


def _is_table(path: Path) -> bool:
    return path.name.lower().endswith(TABLE_SUFFIXES)


def _split_of(table: Path) -> str | None:
    """The split that a table's name says, also as lhotse's `cuts_train.jsonl.gz`."""
    name = table.name.lower().partition(".")[0]
    return SPLIT_NAMES.get(name.removeprefix("cuts_"))


def _read_tables(tables: list[Path]) -> Found:
    found = Found(candidates=[], rejected=[])
    for table in tables:
        default_split = _split_of(table) if len(tables) > 1 else None
        rows = _csv_rows(table) if table.suffix.lower() in (".csv", ".tsv") else _json_rows(table)
        try:
            for number, row in rows:
                _read_row(table, number, row, default_split, found)
        except OSError as error:
            raise InputError(f"{table} cannot be read: {error.strerror}") from error
    if len(tables) > 1:
        found.notes.append(f"split taken from the tables {', '.join(table.name for table in tables)}")
    return found


def _read_row(table: Path, number: int, row: "Mapping[str, Any] | str", split: str | None, found: Found) -> None:
    where = f"{table.name} line {number}"
    if isinstance(row, str):
        found.rejected.append(Rejected(where=where, kind="bad table line", reason=row))
        return
    try:
        candidate = _candidate(table.parent, where, row)
    except ManifestError as error:
        found.rejected.append(Rejected(where=where, kind="bad table line", reason=str(error)))
        return
    found.candidates.append(candidate if candidate.split else replace(candidate, split=split))


def _candidate(folder: Path, where: str, row: Mapping[str, Any]) -> Candidate:
    if isinstance(row.get("recording"), dict) or isinstance(row.get("sources"), list):
        return _cut(folder, where, row)
    values = {key: _first(row, names) for key, names in COLUMNS.items()}
    audio = _as_text("audio", values["audio"])
    if audio is None:
        raise ManifestError(f"no sound file is named: the column must be one of {', '.join(COLUMNS['audio'])}")
    start, duration = _as_seconds("offset", values["offset"]), _as_seconds("duration", values["duration"])
    if values["start_sample"] is not None:
        start, duration = _from_samples(row, values)
    if start is not None and duration is None:
        raise ManifestError("offset is given without duration")
    split = _as_text("split", values["split"])
    return Candidate(
        where=where,
        audio=_locate(folder, audio),
        text=_as_text("text", values["text"]),
        speaker=_as_text("speaker", values["speaker"]),
        language=_as_text("language", values["language"]),
        licence=_as_text("licence", values["licence"]),
        source=_as_text("source", values["source"]),
        split=SPLIT_NAMES.get(split.lower()) if split else None,
        start_s=start,
        duration_s=duration,
    )


def _cut(folder: Path, where: str, row: Mapping[str, Any]) -> Candidate:
    """Translate a cut or recording of lhotse."""
    from voder.systems.valle.formats import cut_of  # costs what torch costs, which other tables need not pay

    said = cut_of(row, folder).utterance
    recording = row.get("recording", row)
    whole = said.start_sample == 0 and said.num_samples == recording.get("num_samples")
    return Candidate(
        where=where,
        audio=_locate(folder, str(said.audio)),
        text=_as_text("text", said.text),
        speaker=_as_text("speaker", said.speaker),
        language=_as_text("language", said.language),
        start_s=None if whole else said.start_sample / said.sample_rate_hz,
        duration_s=said.duration_s,
    )


def _from_samples(row: Mapping[str, Any], values: Mapping[str, Any]) -> tuple[float, float | None]:
    """Turn the start_sample and num_samples of a voder manifest into seconds."""
    rate = _as_seconds("sample_rate", row.get("sample_rate"))
    start = _as_seconds("start_sample", values["start_sample"])
    count = _as_seconds("num_samples", values["num_samples"])
    if not rate or start is None:
        raise ManifestError("start_sample is given without sample_rate")
    return start / rate, None if count is None else count / rate


def _locate(folder: Path, name: str) -> Path:
    """Find a named sound file: below the table's folder or a usual sub-folder; the suffix may be left out."""
    suffixes = ("",) if name.lower().endswith(READ_SUFFIXES + UNREAD_SUFFIXES) else ("", *READ_SUFFIXES)
    for sub_folder in SOUND_FOLDERS:
        for suffix in suffixes:
            path = folder / sub_folder / f"{name}{suffix}"
            if os.path.isfile(path):  # which, unlike Path's, finds no fault with any name
                return Path(os.path.normpath(path))
    return Path(os.path.normpath(folder / name))


def _first(row: Mapping[str, Any], names: Iterable[str]) -> Any:
    return next((row[name] for name in names if row.get(name) not in (None, "")), None)


def _as_text(key: str, value: Any) -> str | None:
    if isinstance(value, dict | list | bool):
        raise ManifestError(f"{key} must be text, but is {type(value).__name__}")
    text = " ".join(str(value).split()) if value is not None else ""
    check_characters(key, text)
    return text or None


def _as_seconds(key: str, value: Any) -> float | None:
    if value is None:
        return None
    try:
        number = float(value)
    except (TypeError, ValueError, OverflowError):
        number = float("nan")
    if not 0 <= number < 1e12:
        raise ManifestError(f"{key} must be a number from 0, but is {str(value)[:40]!r}")
    return number


def _json_rows(table: Path) -> Iterator[tuple[int, "Mapping[str, Any] | str"]]:
    opened: Any = gzip.open if table.suffix.lower() == ".gz" else open
    try:
        with opened(table, "rb") as file:
            for number, raw in enumerate(file, 1):
                if raw.strip():
                    try:
                        yield number, {key.lower(): value for key, value in load_object(raw).items()}
                    except ManifestError as error:
                        yield number, str(error)
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise InputError(f"{table} is no whole gzip file ({error}): fetch it again") from error


def _csv_rows(table: Path) -> Iterator[tuple[int, "Mapping[str, Any] | str"]]:
    """Yield the rows of a table by column name; the separator is a tab in .tsv, else the commonest of `,` `|` `;`."""
    with open(table, encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        first = file.readline()
        if table.suffix.lower() == ".tsv" and _is_fairseq(first, file.readline()):
            yield from _fairseq_rows(table)
            return
        file.seek(0)
        first = file.readline()
        separator = "\t" if table.suffix.lower() == ".tsv" else max(",|;\t", key=first.count)
        quoted = separator in ",;"  # files parted by tabs and bars hold lone quotation marks
        names = [cell.strip().strip('"').lower() for cell in first.strip("\r\n").split(separator)]
        if not set(names) & set(COLUMNS["audio"]):
            if separator != "|" or not 2 <= len(names) <= 3:
                raise InputError(
                    f"{table} does not name its columns: the first line must hold one of {', '.join(COLUMNS['audio'])}"
                )
            names = ["audio", "text", "normalised"]
            file.seek(0)
        reader = csv.reader(file, delimiter=separator, quoting=csv.QUOTE_MINIMAL if quoted else csv.QUOTE_NONE)
        offset = 0 if "normalised" in names else 1
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                yield reader.line_num + offset, f"not a table row ({error})"
                continue
            if cells:
                yield reader.line_num + offset, _row(names, cells)


def _is_fairseq(first_line: str, second_line: str) -> bool:
    """Whether a table begins with a folder, then a file and a number of samples."""
    cells = second_line.rstrip("\r\n").split("\t")
    return bool(first_line.strip()) and "\t" not in first_line and len(cells) == 2 and cells[1].strip().isdecimal()


def _fairseq_rows(table: Path) -> Iterator[tuple[int, Mapping[str, Any]]]:
    from voder.systems.hubert.formats import read_tsv

    for number, listed in enumerate(read_tsv(table), 2):
        yield number, {"audio": str(listed.audio), "text": listed.text}


def _row(names: list[str], cells: list[str]) -> "Mapping[str, Any] | str":
    if any("\udc80" <= character <= "\udcff" for cell in cells for character in cell):
        return "not UTF-8"
    if len(cells) > len(names) or len(cells) < min(2, len(names)):
        return f"{len(cells)} columns where the first line has {len(names)}"
    row = dict(zip(names, cells, strict=False))
    if row.get("normalised"):
        row["text"] = row["normalised"]
    return row


def _walk(folder: Path, exclude: Path | None, folder_speakers: bool) -> Found:
    found = Found(candidates=[], rejected=[])
    transcripts, hidden = Transcripts(), 0
    for root, folders, files in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith(".") and Path(root, name) != exclude)
        transcripts.enter(Path(root), files)
        for name in sorted(files):
            suffix, path = Path(name).suffix.lower(), Path(root, name)
            if suffix in UNREAD_SUFFIXES:
                reason = f"{suffix} is not read: convert it to wav or flac"
                found.rejected.append(_rejected(folder, path, "unread format", reason))
            elif suffix in READ_SUFFIXES and name.startswith("."):
                hidden += 1
            elif suffix in READ_SUFFIXES:
                _add_file(folder, path, transcripts, found)
    if hidden:
        found.notes.append(f"{hidden} hidden sound files (names that begin with a dot) passed by")
    if transcripts.unused:
        names = ascii(", ".join(transcripts.unused[:3]))[1:-1]
        found.notes.append(f"{len(transcripts.unused)} text files belong to no recording ({names}, …)")
    if not found.candidates and not found.rejected:
        raise InputError(f"{folder} holds no recordings: give a folder of wav, flac, mp3, ogg, opus files, or a table")
    return _with_speakers(folder, found, folder_speakers)


def _add_file(folder: Path, path: Path, transcripts: Transcripts, found: Found) -> None:
    try:
        text = transcripts.of(path)
    except InputError as error:
        found.rejected.append(_rejected(folder, path, "unreadable transcript", str(error)))
        return
    found.candidates.append(Candidate(where=path.relative_to(folder).as_posix(), audio=path, text=text))


def _rejected(folder: Path, path: Path, kind: str, reason: str) -> Rejected:
    return Rejected(where=path.relative_to(folder).as_posix(), kind=kind, reason=reason)


def _with_speakers(folder: Path, found: Found, folder_speakers: bool) -> Found:
    """Name speakers and splits after sub-folders, by the rules at the top of this file."""
    parts = [candidate.audio.relative_to(folder).parts for candidate in found.candidates]
    first = Counter(part[0] for part in parts if len(part) > 1)
    if len(first) and all(name.lower() in SPLIT_NAMES for name in first) and all(len(part) > 1 for part in parts):
        found.notes.append(f"split taken from the folders {', '.join(sorted(first))}")
        splits = [SPLIT_NAMES[part[0].lower()] for part in parts]
        parts = [part[1:] for part in parts]
    else:
        splits = [None] * len(parts)  # type: ignore[list-item]
    speakers = _speakers(parts) if folder_speakers else [None] * len(parts)
    if any(speakers):
        found.notes.append("speakers taken from the names of sub-folders (folder_speakers=False if they are not)")
    candidates = [
        replace(candidate, speaker=speaker, split=split)
        for candidate, speaker, split in zip(found.candidates, speakers, splits, strict=True)
    ]
    return replace(found, candidates=candidates)


def _speakers(parts: list[tuple[str, ...]]) -> list[str | None]:
    libri = [re.match(r"(\d+)-(\d+)-\d+", part[-1]) for part in parts]
    if all(m and p[-3:-1] == m.groups() for m, p in zip(libri, parts, strict=True)):
        return [part[-3] for part in parts]
    folders = {part[:-1] for part in parts}
    if all(len(part) == 2 for part in parts) and len(folders) > 1:
        return [part[0] for part in parts]
    return [None] * len(parts)
