"""Recordings to transcripts in files: batches of files for any transcriber, options for those that have them, and the
formats of subtitles for those that say when.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, fields, is_dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

from voder.audio.io import AudioClip, read_audio
from voder.errors import ConfigError, InputError
from voder.files import write_text
from voder.roles import Transcriber, Transcript
from voder.systems.whisper.writers import FORMATS, Format, write_json, write_transcript

BATCH = 8
"""Files that are read and listened to together."""
TIMED: tuple[Format, ...] = ("vtt", "srt", "tsv")
"""Formats that need to know when something is said."""


@runtime_checkable
class Configurable(Protocol):
    """A transcriber with options (Whisper)."""

    def configured(self, **options: Any) -> Transcriber:
        """The same network with other options."""


@dataclass(frozen=True, kw_only=True)
class Heard:
    """What came of one file: a transcript, or the reason why there is none."""

    file: Path
    transcript: Transcript | None = None
    error: InputError | None = None


def configure(transcriber: Transcriber, options: Mapping[str, Any], name: str = "this model") -> Transcriber:
    """Set options; those that are None count as not given.

    Raises:
        ConfigError: a transcriber without options was given some, or an option is unknown or out of range.
    """
    given = {key: value for key, value in options.items() if value is not None}
    if not given:
        return transcriber
    if not isinstance(transcriber, Configurable):
        raise ConfigError(f"{name} takes no options for listening, and {', '.join(given)} was given: leave it out")
    return transcriber.configured(**given)


def check_formats(transcriber: Transcriber, formats: Sequence[str], name: str = "this model") -> tuple[Format, ...]:
    """The formats, if this transcriber can fill them.

    Raises:
        ConfigError: an unknown format, or one with times where nothing says when.
    """
    known: dict[str, Format] = {each: each for each in FORMATS}
    for format_ in formats:
        if format_ not in known:
            raise ConfigError(f"there is no format {format_!r}; transcripts are written as {', '.join(FORMATS)}")
        if format_ in TIMED and not isinstance(transcriber, Configurable):
            raise ConfigError(
                f"{name} does not say when something is said, so it cannot write {format_}; use txt or json"
            )
    return tuple(known[format_] for format_ in formats)


def transcribe_files(
    transcriber: Transcriber, files: Sequence[str | Path], *, batch_size: int = BATCH
) -> Iterator[Heard]:
    """Transcribe files in order, several at a time; one that cannot be read is reported and the others are done."""
    paths = [Path(file) for file in files]
    for start in range(0, len(paths), batch_size):
        batch = paths[start : start + batch_size]
        read: dict[Path, AudioClip | InputError] = {}
        for path in dict.fromkeys(batch):
            try:
                read[path] = read_audio(path)
            except InputError as problem:
                read[path] = problem
        clips = {path: clip for path, clip in read.items() if isinstance(clip, AudioClip)}
        found = dict(zip(clips, transcriber.transcribe_batch(list(clips.values())) if clips else [], strict=True))
        for path in batch:
            came = read[path]
            error = came if isinstance(came, InputError) else None
            yield Heard(file=path, transcript=found.get(path), error=error)


def record(transcript: Transcript) -> dict[str, Any]:
    """A transcript as JSON would say it: with segments, language and times where there are any."""
    own = getattr(transcript, "record", None)
    told: dict[str, Any] = own() if callable(own) else {"text": transcript.text}
    plain = {f.name: getattr(transcript, f.name) for f in fields(transcript)} if is_dataclass(transcript) else {}
    return {**told, **{key: plain[key] for key in ("heard_s", "truncated", "stop_reason") if key in plain}}


def shown(transcript: Transcript, format_: Format) -> str:
    """A transcript in one of the formats, ending with a newline."""
    told = record(transcript)
    if format_ == "json":
        return write_json(told) + "\n"
    if format_ == "txt" and "segments" not in told:
        return transcript.text + "\n"
    return write_transcript(told, format_)


def check_names(files: Sequence[str | Path], folder: Path) -> None:
    """Refuse files whose transcripts would overwrite one another in `folder`.

    Raises:
        ConfigError: two files differ only in their folder or suffix.
    """
    taken: dict[str, Path] = {}
    for file in map(Path, files):
        if (other := taken.setdefault(file.stem, file)) != file:
            raise ConfigError(f"{other} and {file} would both be written to {folder / file.stem}.*; give one at a time")


def write_files(transcript: Transcript, file: Path, folder: Path, formats: Sequence[Format]) -> list[Path]:
    """Write a file's transcript into `folder` under its name, once per format; each is whole or absent."""
    written = []
    for format_ in formats:
        target = folder / f"{file.stem}.{format_}"
        write_text(target, shown(transcript, format_))
        written.append(target)
    return written
