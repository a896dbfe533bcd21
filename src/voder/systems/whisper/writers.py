"""Transcripts as files: plain text, WebVTT, SubRip, tab-separated milliseconds, JSON with the original's names."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

Format = Literal["txt", "vtt", "srt", "tsv", "json"]
FORMATS: tuple[Format, ...] = ("txt", "vtt", "srt", "tsv", "json")


@dataclass(frozen=True)
class Line:
    """A text and when it is said."""

    start_s: float
    end_s: float
    text: str


def format_timestamp(seconds: float, *, hours: bool = False, decimal_mark: str = ".") -> str:
    """`[hh:]mm:ss.mmm`; the hours are left out below one unless always wanted.

    Raises ValueError for times before 0.
    """
    if seconds < 0:
        raise ValueError(f"{seconds} s is before the beginning")
    milliseconds = round(seconds * 1000)
    whole_s, rest = divmod(milliseconds, 1000)
    whole_minutes, s = divmod(whole_s, 60)
    h, minutes = divmod(whole_minutes, 60)
    front = f"{h:02d}:" if hours or h else ""
    return f"{front}{minutes:02d}:{s:02d}{decimal_mark}{rest:03d}"


def write_txt(segments: Sequence[Line]) -> str:
    """One segment a line."""
    return "".join(segment.text.strip() + "\n" for segment in segments)


def write_tsv(segments: Sequence[Line]) -> str:
    """Start and end in milliseconds, text without tabs."""
    rows = (
        f"{round(1000 * s.start_s)}\t{round(1000 * s.end_s)}\t{s.text.strip().replace(chr(9), ' ')}\n" for s in segments
    )
    return "start\tend\ttext\n" + "".join(rows)


def write_vtt(segments: Sequence[Line]) -> str:
    """WebVTT."""
    cues = (f"{format_timestamp(s.start_s)} --> {format_timestamp(s.end_s)}\n{_cue(s.text)}\n\n" for s in segments)
    return "WEBVTT\n\n" + "".join(cues)


def write_srt(segments: Sequence[Line]) -> str:
    """SubRip."""

    def time(seconds: float) -> str:
        return format_timestamp(seconds, hours=True, decimal_mark=",")

    return "".join(
        f"{number}\n{time(s.start_s)} --> {time(s.end_s)}\n{_cue(s.text)}\n\n"
        for number, s in enumerate(segments, start=1)
    )


def _cue(text: str) -> str:
    """An arrow inside a cue would be read as a time."""
    return text.strip().replace("-->", "->")


def write_json(record: Mapping[str, Any]) -> str:
    """The whole record."""
    return json.dumps(record, ensure_ascii=False)


def write_transcript(record: Mapping[str, Any], format_: Format) -> str:
    """A file's content from a record with `text`, `segments` (start, end, text) and `language`."""
    if format_ == "json":
        return write_json(record)
    segments = [Line(s["start"], s["end"], s["text"]) for s in record["segments"]]
    return {"txt": write_txt, "vtt": write_vtt, "srt": write_srt, "tsv": write_tsv}[format_](segments)
