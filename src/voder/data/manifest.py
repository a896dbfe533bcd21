"""Lists of recordings: one JSON object a line, checked line by line, read lazily.

Keys written: id, audio (relative to the manifest's folder where the two share more than the root), duration (s),
num_samples, sample_rate (Hz), channels, text, speaker, language, licence, source, and start_sample where a recording
is cut from a longer file.
Keys also read: NeMo's audio_filepath, offset (s), lang; path, audio_path; license.
In memory stay the byte offset and the duration of each line, whatever the size of the corpus.
"""

import hashlib
import json
import math
import os
from array import array
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

import numpy as np
from jaxtyping import Float64

from voder.audio.io import MAX_CHANNELS, MAX_RATE_HZ, MIN_RATE_HZ, AudioClip, probe_audio, read_audio
from voder.errors import ManifestError
from voder.files import atomic_path, relative_to_folder

if TYPE_CHECKING:
    Integers: TypeAlias = array[int]
    Floats: TypeAlias = array[float]
else:  # Python 3.11's array takes no subscript at run time
    Integers = Floats = array

MAX_LINE_BYTES = 2**20
MAX_DURATION_S = 7 * 24 * 3600.0
_NAMED_BAD_LINES = 20

_ALIASES = {
    "audio": ("audio", "audio_filepath", "path", "audio_path"),
    "duration": ("duration", "duration_s"),
    "sample_rate": ("sample_rate", "sample_rate_hz", "sampling_rate"),
    "language": ("language", "lang"),
    "licence": ("licence", "license"),
}


@dataclass(frozen=True, kw_only=True)
class Utterance:
    """One recording, or a stretch of one."""

    id: str
    """unique within a manifest"""
    audio: Path
    """the sound file"""
    duration_s: float
    """length in seconds"""
    num_samples: int
    """length in samples at the file's own rate"""
    sample_rate_hz: int
    """the file's own rate"""
    channels: int
    """the file's own channels"""
    text: str | None = None
    """what is said; None where nobody wrote it down"""
    speaker: str | None = None
    """who speaks"""
    language: str | None = None
    """language tag, such as en"""
    licence: str | None = None
    """the recording's licence"""
    source: str | None = None
    """the corpus it comes from"""
    start_sample: int = 0
    """where the stretch begins, at the file's own rate"""

    def read(self, *, sample_rate_hz: int | None = None, channels: int | None = None) -> AudioClip:
        """Read exactly this stretch of the file; errors as in `read_audio`."""
        # a clip that begins its file is read to the file's end, so that a damaged end shows
        count = self.num_samples if self.start_sample else None
        clip = read_audio(self.audio, start_sample=self.start_sample, num_samples=count)
        if clip.num_samples > self.num_samples:
            clip = AudioClip(np.ascontiguousarray(clip.samples[:, : self.num_samples]), clip.sample_rate_hz)
        clip = clip if channels is None else clip.with_channels(channels)
        return clip if sample_rate_hz is None else clip.at_rate(sample_rate_hz)


class BadLine(NamedTuple):
    """A line of a manifest that cannot be used."""

    line: int
    reason: str


class Manifest:
    """A manifest on disk: `m[i]` parses one line, `m.durations_s` is at hand."""

    def __init__(
        self,
        path: Path,
        offsets: Integers,
        durations: Floats,
        speakers: frozenset[str],
        bad: tuple[BadLine, ...],
    ) -> None:
        self.path = path
        self.folder = path.parent
        self.bad_lines = bad
        self._offsets = offsets
        self._durations = np.frombuffer(durations, dtype=np.float64) if durations else np.zeros(0)
        self._durations.flags.writeable = False
        self._speakers = tuple(sorted(speakers))

    @classmethod
    def open(cls, path: str | os.PathLike[str], *, skip_bad: bool = False) -> "Manifest":
        """Check every line and return the manifest.

        Raises ManifestError naming the bad lines with their reasons, or with `skip_bad` leaves them out and lists
        them all in `bad_lines`. Sound files are not opened.
        """
        path = Path(path)
        offsets, durations, hashes = array("q"), array("d"), array("Q")
        speakers: set[str] = set()
        bad: list[BadLine] = []
        for number, offset, raw in numbered_lines(path):
            try:
                record = parse_line(raw)
            except ManifestError as error:
                bad.append(BadLine(number, str(error)))
                continue
            offsets.append(offset)
            durations.append(record.duration_s)
            hashes.append(
                int.from_bytes(
                    hashlib.blake2b(record.id.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little"
                )
            )
            if record.speaker is not None:
                speakers.add(record.speaker)
        twice = _repeated(hashes)
        if twice:
            bad.extend(_name_repeats(path, offsets, twice))
            for index in sorted(twice, reverse=True):
                offsets.pop(index)
                durations.pop(index)
        bad.sort()
        if bad and not skip_bad:
            raise ManifestError(describe_bad_lines(path, bad, len(offsets) + len(bad)))
        return cls(path, offsets, durations, frozenset(speakers), tuple(bad))

    def __len__(self) -> int:
        return len(self._offsets)

    @property
    def durations_s(self) -> Float64[np.ndarray, " item"]:
        """Seconds of each recording."""
        return self._durations

    def __getitem__(self, index: int) -> Utterance:
        if not -len(self) <= index < len(self):
            raise IndexError(f"{self.path} has {len(self)} recordings, there is no number {index}")
        try:
            with open(self.path, "rb") as file:
                file.seek(self._offsets[index])
                record = parse_line(file.readline(MAX_LINE_BYTES + 1))
        except (OSError, ManifestError) as error:
            raise ManifestError(f"{self.path} has changed since it was opened: {error}") from error
        return record.utterance(self.folder)

    def __iter__(self) -> Iterator[Utterance]:
        return (self[index] for index in range(len(self)))

    def speakers(self) -> tuple[str, ...]:
        """Return the names of all speakers, sorted."""
        return self._speakers


@dataclass(frozen=True, kw_only=True)
class Record:
    """One checked line: what it says, before its sound file is looked at."""

    id: str
    audio: str
    duration_s: float
    num_samples: int | None
    sample_rate_hz: int | None
    channels: int | None
    start_sample: int | None
    offset_s: float
    texts: Mapping[str, str | None]

    @property
    def speaker(self) -> str | None:
        """Who speaks."""
        return self.texts["speaker"]

    def utterance(self, folder: Path) -> Utterance:
        """Return the utterance; a rate or channel count that the line leaves out is read from the sound file."""
        audio = Path(os.path.normpath(folder / self.audio))
        rate, channels = self.sample_rate_hz, self.channels
        if rate is None or channels is None:
            rate, channels = probe_audio(audio)
        count = self.num_samples if self.num_samples is not None else round(self.duration_s * rate)
        start = self.start_sample if self.start_sample is not None else round(self.offset_s * rate)
        return Utterance(
            id=self.id,
            audio=audio,
            duration_s=self.duration_s,
            num_samples=count,
            sample_rate_hz=rate,
            channels=channels,
            start_sample=start,
            text=self.texts["text"],
            speaker=self.texts["speaker"],
            language=self.texts["language"],
            licence=self.texts["licence"],
            source=self.texts["source"],
        )


def parse_line(raw: bytes) -> Record:
    """Check one line of a manifest; raises ManifestError with the reason alone."""
    row = load_object(raw)
    audio = _text(row, "audio")
    if audio is None:
        raise ManifestError("audio is missing")
    start, offset = _integer(row, "start_sample", 0, 2**53), _number(row, "offset", 0.0, MAX_DURATION_S)
    duration = _number(row, "duration", 0.0, MAX_DURATION_S)
    rate, count = _integer(row, "sample_rate", MIN_RATE_HZ, MAX_RATE_HZ), _integer(row, "num_samples", 1, 2**53)
    if count is not None and rate is not None:
        exact = count / rate
        if duration is not None and abs(duration - exact) > 0.01:
            raise ManifestError(f"duration {duration:g} contradicts num_samples {count} at {rate} Hz ({exact:g} s)")
        duration = exact
    if duration is None or duration == 0:
        raise ManifestError("duration is missing" if duration is None else "duration is 0")
    default = audio if not (start or offset) else f"{audio}@{start or offset}"
    return Record(
        id=_text(row, "id") or default,
        audio=audio,
        duration_s=duration,
        num_samples=count,
        sample_rate_hz=rate,
        channels=_integer(row, "channels", 1, MAX_CHANNELS),
        start_sample=start,
        offset_s=offset or 0.0,
        texts={key: _text(row, key) for key in ("text", "speaker", "language", "licence", "source")},
    )


def load_object(raw: bytes) -> dict[str, Any]:
    """Parse one line as a JSON object; raises ManifestError with the reason alone."""
    if len(raw) > MAX_LINE_BYTES:
        raise ManifestError(f"the line is longer than {MAX_LINE_BYTES} bytes")
    try:
        row = json.loads(raw.decode("utf-8-sig"))
    except UnicodeDecodeError as error:
        raise ManifestError(f"not UTF-8 at byte {error.start}") from None
    except (ValueError, RecursionError) as error:
        raise ManifestError(f"not JSON ({str(error) or 'nested too deeply'})") from None
    if not isinstance(row, dict):
        raise ManifestError(f"a JSON object is needed, not {type(row).__name__}")
    return row


def write_manifest(path: str | os.PathLike[str], utterances: Iterable[Utterance]) -> int:
    """Write a manifest, whole or not at all, and return the number of lines. Equal utterances give equal bytes."""
    path, count = Path(path), 0
    with atomic_path(path) as temporary, open(temporary, "wb") as file:
        for utterance in utterances:
            file.write(to_line(utterance, path.parent))
            count += 1
    return count


def to_line(utterance: Utterance, folder: Path) -> bytes:
    """Return one line of a manifest that lies in `folder`."""
    row = {
        "id": utterance.id,
        "audio": relative_to_folder(utterance.audio, folder),
        "duration": round(utterance.duration_s, 6),
        "num_samples": utterance.num_samples,
        "sample_rate": utterance.sample_rate_hz,
        "channels": utterance.channels,
        "text": utterance.text,
        "speaker": utterance.speaker,
        "language": utterance.language,
        "licence": utterance.licence,
        "source": utterance.source,
    }
    if utterance.start_sample:
        row["start_sample"] = utterance.start_sample
    return json_line(row).encode("utf-8")


def json_line(row: Mapping[str, Any]) -> str:
    """Return one JSON line, readable where it can be: names of files need not be UTF-8, but lines must."""
    line = json.dumps(row, ensure_ascii=False) + "\n"
    return line if not any("\ud800" <= character <= "\udfff" for character in line) else json.dumps(row) + "\n"


def numbered_lines(path: Path) -> Iterator[tuple[int, int, bytes]]:
    """Yield (line number from 1, byte offset, line) of each line that is not blank, in bounded memory."""
    try:
        with open(path, "rb") as file:
            number = offset = 0
            while raw := file.readline(MAX_LINE_BYTES + 1):
                number += 1
                whole = len(raw)
                while not raw.endswith(b"\n") and (rest := file.readline(MAX_LINE_BYTES)):
                    whole += len(rest)  # an overlong line: walk to its end without keeping it
                    if rest.endswith(b"\n"):
                        break
                if raw.strip():
                    yield number, offset, raw if whole <= MAX_LINE_BYTES else raw.ljust(MAX_LINE_BYTES + 1)
                offset += whole
    except OSError as error:
        raise ManifestError(f"{path} cannot be read: {error.strerror}") from error


def _value(row: Mapping[str, Any], key: str) -> Any:
    return next((row[name] for name in _ALIASES.get(key, (key,)) if row.get(name) is not None), None)


def _text(row: Mapping[str, Any], key: str) -> str | None:
    value = _value(row, key)
    if isinstance(value, int) and not isinstance(value, bool) and key in ("id", "speaker"):
        value = str(value)
    if value is not None and not isinstance(value, str):
        raise ManifestError(f"{key} must be text, but is {type(value).__name__}")
    if value is None:
        return None
    check_characters(key, value)
    return value.strip() or None


def check_characters(key: str, value: str) -> None:
    """Raise ManifestError for a zero character, and for half a character anywhere but in a file's name."""
    if "\0" in value:
        raise ManifestError(f"{key} holds a zero character")
    if key not in ("audio", "id") and any("\ud800" <= character <= "\udfff" for character in value):
        raise ManifestError(f"{key} holds half a character (a lone surrogate)")


def _number(row: Mapping[str, Any], key: str, low: float, high: float) -> float | None:
    value = _value(row, key)
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ManifestError(f"{key} must be a number, but is {type(value).__name__}")
    if not (math.isfinite(value) if isinstance(value, float) else True) or not low <= value <= high:
        raise ManifestError(f"{key} must lie between {low:g} and {high:g}, but is {str(value)[:40]}")
    return float(value)


def _integer(row: Mapping[str, Any], key: str, low: int, high: int) -> int | None:
    value = _number(row, key, low, high)
    if value is not None and value != int(value):
        raise ManifestError(f"{key} must be a whole number, but is {value}")
    return None if value is None else int(value)


def _repeated(hashes: Integers) -> set[int]:
    """Return the positions of all but the first of equal hashes."""
    _, first = np.unique(np.frombuffer(hashes, dtype=np.uint64) if hashes else [], return_index=True)
    return set(range(len(hashes))) - set(first.tolist()) if len(first) < len(hashes) else set()


def _name_repeats(path: Path, offsets: Integers, repeated: set[int]) -> Iterator[BadLine]:
    wanted = {offsets[index] for index in repeated}
    for number, offset, raw in numbered_lines(path):
        if offset in wanted:
            yield BadLine(number, f"id {parse_line(raw).id!r} stands on an earlier line too")


def describe_bad_lines(path: Path, bad: list[BadLine], total: int) -> str:
    named = "; ".join(f"line {line}: {reason}" for line, reason in bad[:_NAMED_BAD_LINES])
    more = f"; and {len(bad) - _NAMED_BAD_LINES} more" if len(bad) > _NAMED_BAD_LINES else ""
    return f"{path} has {len(bad)} bad lines of {total}: {named}{more}"
