"""lhotse's manifests, which lifeiteng/vall-e is trained on: recordings, supervisions and cuts, read and written.

    recordings.jsonl.gz     sound files: id, sources, sampling_rate, num_samples, duration
    supervisions.jsonl.gz   what is said where: recording_id, start, duration, text, speaker, language
    cuts.jsonl.gz           stretches of recordings with both inside; phonemes under supervisions[0].custom.tokens.text

Read are cuts of one recording (`MonoCut`, or `MultiCut` over all its channels) whose sound lies in a file. Features
that were stored beside cuts are left out: tokens are made by `voder tokenize`. Nothing of lhotse is needed.
"""

import gzip
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from voder.audio.io import probe_length
from voder.data.manifest import Utterance, json_line, load_object
from voder.errors import ManifestError
from voder.files import atomic_path

_DIGITS = 9
"""Decimals of a second, as lhotse rounds."""


@dataclass(frozen=True, kw_only=True)
class Cut:
    """A stretch of a recording and what is said in it."""

    utterance: Utterance
    phonemes: tuple[str, ...] | None = None
    """Where the manifest has them."""


def _is_recording(row: Mapping[str, Any]) -> bool:
    return isinstance(row.get("sources"), list) and "sampling_rate" in row


def read_cuts(file: Path) -> Iterator[Cut]:
    """Yield the cuts of a file, or whole recordings if it lists those.

    Raises:
        ManifestError: a line that is no such cut, or whose sound is in no file; says which.
    """
    for number, row in _rows(file):
        try:
            yield cut_of(row, file.parent)
        except ManifestError as error:
            raise ManifestError(f"{file} line {number}: {error}") from None


def read_supervised(recordings: Path, supervisions: Path) -> Iterator[Cut]:
    """Yield the stretches that the supervisions of some recordings name, in the order of the supervisions.

    Raises:
        ManifestError: a bad line, or a recording that is not listed; says which.
    """
    known = {str(row.get("id")): row for _, row in _rows(recordings)}
    for number, said in _rows(supervisions):
        where = f"{supervisions} line {number}"
        recording = known.get(str(said.get("recording_id")))
        if recording is None:
            raise ManifestError(f"{where}: {recordings.name} lists no recording {said.get('recording_id')!r}")
        try:
            row = {
                "id": said.get("id"),
                "start": said.get("start", 0.0),
                "duration": said.get("duration"),
                "channel": said.get("channel", 0),
                "recording": recording,
                "supervisions": [{**said, "start": 0.0}],
            }
            yield cut_of(row, recordings.parent)
        except ManifestError as error:
            raise ManifestError(f"{where}: {error}") from None


def cut_of(row: Mapping[str, Any], folder: Path) -> Cut:
    """Translate one cut or recording; paths are relative to `folder`. Errors give the reason alone."""
    if _is_recording(row):
        row = {"id": row.get("id"), "start": 0.0, "duration": row.get("duration"), "recording": row, "supervisions": []}
    kind = row.get("type", "MonoCut")
    if kind not in ("MonoCut", "MultiCut"):
        raise ManifestError(f"a {kind} has no recording of its own; write it to a file first (lhotse: save_audio)")
    recording = row.get("recording")
    if not isinstance(recording, Mapping):
        raise ManifestError("the cut has no recording: its sound cannot be found")
    audio, channels = _source(recording)
    _check_channels(row, channels)
    rate = int(_number(recording, "sampling_rate"))
    start, count = round(_number(row, "start") * rate), round(_number(row, "duration") * rate)
    if rate < 1 or count < 1:
        raise ManifestError(f"sampling_rate {rate} and duration {row.get('duration')} must be more than 0")
    said = [each for each in row.get("supervisions", []) if isinstance(each, Mapping)]
    utterance = Utterance(
        id=str(row.get("id") or audio),
        audio=folder / audio,
        duration_s=count / rate,
        num_samples=count,
        sample_rate_hz=rate,
        channels=channels,
        start_sample=start,
        text=_joined(said),
        speaker=_shared(said, "speaker"),
        language=_shared(said, "language"),
    )
    return Cut(utterance=utterance, phonemes=_phonemes(said))


def _source(recording: Mapping[str, Any]) -> tuple[str, int]:
    """The file and its number of channels."""
    sources = recording.get("sources")
    if not isinstance(sources, list) or len(sources) != 1 or not isinstance(sources[0], Mapping):
        raise ManifestError("the recording must have one source: its channels lie in one file")
    source = sources[0]
    if source.get("type") != "file" or not isinstance(source.get("source"), str):
        raise ManifestError(f"the recording's source is of type {source.get('type')!r}; only files are read")
    channels = source.get("channels", [0])
    if not isinstance(channels, list) or not channels:
        raise ManifestError("the recording's source names no channels")
    return source["source"], len(channels)


def _check_channels(row: Mapping[str, Any], channels: int) -> None:
    wanted = row.get("channel", list(range(channels)))
    count = len(wanted) if isinstance(wanted, list) else 1
    if count != channels:
        raise ManifestError(
            f"the cut takes {count} of {channels} channels of its file; split the channels into files first"
        )


def _number(row: Mapping[str, Any], key: str) -> float:
    value = row.get(key)
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < 1e12:
        raise ManifestError(f"{key} must be a number from 0, but is {str(value)[:40]}")
    return float(value)


def _joined(said: list[Mapping[str, Any]]) -> str | None:
    texts = [str(each["text"]).strip() for each in sorted(said, key=_start) if each.get("text")]
    return " ".join(texts) or None


def _start(said: Mapping[str, Any]) -> float:
    value = said.get("start", 0.0)
    return float(value) if isinstance(value, int | float) else 0.0


def _shared(said: list[Mapping[str, Any]], key: str) -> str | None:
    values = {str(each[key]) for each in said if each.get(key) is not None}
    return values.pop() if len(values) == 1 else None


def _phonemes(said: list[Mapping[str, Any]]) -> tuple[str, ...] | None:
    if len(said) != 1:
        return None
    custom = said[0].get("custom")
    tokens = custom.get("tokens") if isinstance(custom, Mapping) else None
    text = tokens.get("text") if isinstance(tokens, Mapping) else None
    return tuple(map(str, text)) if isinstance(text, list) else None


def write_cuts(file: Path, cuts: Iterable[Cut]) -> None:
    """Write cuts with their recordings and supervisions inside; compressed if the name ends in .gz.

    Raises:
        AudioError: a sound file cannot be read (its whole length is written beside).
    """
    rows = []
    for cut in cuts:
        each = cut.utterance
        recording = _recording(each)
        said = [_supervision(cut, recording=recording["id"], start=0)]
        channels: int | list[int] = 0 if each.channels == 1 else list(range(each.channels))
        rows.append(
            {
                "id": each.id,
                "start": round(each.start_sample / each.sample_rate_hz, _DIGITS),
                "duration": round(each.duration_s, _DIGITS),
                "channel": channels,
                "supervisions": said,
                "recording": recording,
                "type": "MonoCut" if each.channels == 1 else "MultiCut",
            }
        )
    _write(file, rows)


def write_supervised(recordings: Path, supervisions: Path, cuts: Iterable[Cut]) -> None:
    """Write the same as two lists: each sound file once, and what is said where.

    Raises:
        AudioError: a sound file cannot be read (its whole length is written).
    """
    listed: dict[str, dict[str, Any]] = {}
    said = []
    for cut in cuts:
        recording = _recording(cut.utterance)
        listed.setdefault(recording["id"], recording)
        said.append(_supervision(cut, recording=recording["id"], start=cut.utterance.start_sample))
    _write(recordings, listed.values())
    _write(supervisions, said)


def _recording(utterance: Utterance) -> dict[str, Any]:
    total = probe_length(utterance.audio)
    whole = utterance.num_samples == total
    source = {"type": "file", "channels": list(range(utterance.channels)), "source": str(utterance.audio)}
    return {
        "id": utterance.id if whole else utterance.audio.as_posix(),
        "sources": [source],
        "sampling_rate": utterance.sample_rate_hz,
        "num_samples": total,
        "duration": round(total / utterance.sample_rate_hz, _DIGITS),
        "channel_ids": list(range(utterance.channels)),
    }


def _supervision(cut: Cut, *, recording: str, start: int) -> dict[str, Any]:
    each = cut.utterance
    row: dict[str, Any] = {
        "id": each.id,
        "recording_id": recording,
        "start": round(start / each.sample_rate_hz, _DIGITS),
        "duration": round(each.duration_s, _DIGITS),
        "channel": 0 if each.channels == 1 else list(range(each.channels)),
    }
    row |= {key: value for key in ("text", "language", "speaker") if (value := getattr(each, key)) is not None}
    if cut.phonemes is not None:
        row["custom"] = {"tokens": {"text": list(cut.phonemes)}}
    return row


def _write(file: Path, rows: Iterable[Mapping[str, Any]]) -> None:
    text = "".join(map(json_line, rows)).encode("utf-8")
    with atomic_path(file) as temporary:
        # no time stamp, so that equal cuts give equal bytes
        temporary.write_bytes(gzip.compress(text, mtime=0) if file.suffix == ".gz" else text)


def _rows(file: Path) -> Iterator[tuple[int, dict[str, Any]]]:
    opened: Any = gzip.open if file.suffix == ".gz" else open
    try:
        with opened(file, "rb") as stream:
            for number, raw in enumerate(stream, 1):
                if raw.strip():
                    yield number, _object(raw, f"{file} line {number}")
    except (OSError, EOFError) as error:
        reason = getattr(error, "strerror", None) or str(error)
        raise ManifestError(f"{file} cannot be read: {reason}") from error


def _object(raw: bytes, where: str) -> dict[str, Any]:
    try:
        return load_object(raw)
    except ManifestError as error:
        raise ManifestError(f"{where}: {error}") from None
