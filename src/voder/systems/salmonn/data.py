"""Examples to learn from, and how recordings are cut.

They are the authors' `{"annotation": [{"path", "text", "task", "Q"?, "expand_wav"?}]}`, or a folder of `voder prepare`,
whose transcripts are answers. Where the original trusts that every file is 16 kHz, other rates are resampled here.
"""

import hashlib
import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from voder.audio.io import AudioClip, read_audio
from voder.config import nearest
from voder.data.manifest import Manifest, Utterance
from voder.errors import ManifestError
from voder.files import write_text
from voder.systems.salmonn.config import SAMPLE_RATE_HZ, WINDOW_S
from voder.systems.salmonn.prompts import PROMPTS

MAX_SAMPLES = WINDOW_S * SAMPLE_RATE_HZ
_GAP = 1600
"""Zeros before every further clip of an example: 0.1 s."""


@dataclass(frozen=True, kw_only=True)
class Example:
    """One line of an annotation file."""

    path: str
    """The recording."""
    text: str
    """The answer."""
    task: str
    """Which pool of prompts asks for it (asr, audiocaption, QA, …)."""
    question: str = ""
    """Fills the slot of prompts that have one."""
    expand_wav: tuple[str, ...] = ()
    """Recordings that follow the first."""
    utterance: Utterance | None = None
    """Where the recording is a stretch of a file that a manifest lists."""

    def read(self, folder: Path) -> Float32[np.ndarray, " sample"]:
        """The example's sound at 16 kHz, joined, filled up and cut; paths are below `folder`.

        Raises:
            AudioError: a recording cannot be read.
        """
        if self.utterance is not None:
            clips = [self.utterance.read(sample_rate_hz=SAMPLE_RATE_HZ, channels=1)]
        else:
            paths = [folder / path for path in (self.path, *self.expand_wav)]
            clips = [read_audio(path, sample_rate_hz=SAMPLE_RATE_HZ, channels=1) for path in paths]
        return prepare([clip.samples.T for clip in clips])

    def clip(self, folder: Path) -> AudioClip:
        """The same as a clip."""
        return AudioClip(self.read(folder)[None], SAMPLE_RATE_HZ)


@dataclass(frozen=True)
class Examples:
    """What a file or manifest holds."""

    source: Path
    folder: Path
    """What relative paths start from."""
    rows: list[Example]

    @property
    def sha256(self) -> str:
        """Of the file."""
        return hashlib.sha256(self.source.read_bytes()).hexdigest()

    def of_tasks(self, tasks: Sequence[str]) -> list[Example]:
        """Those of some tasks, with something to answer."""
        return [row for row in self.rows if row.task in tasks and row.text.strip()]


def open_examples(data: Path, split: str) -> Examples:
    """Open `SPLIT.jsonl` of `voder prepare`, or `SPLIT.json` of the authors.

    Raises:
        ManifestError: neither or both are there, one is damaged, or a task is not known.
    """
    manifest, annotation = data / f"{split}.jsonl", data / f"{split}.json"
    if manifest.is_file() and annotation.is_file():
        raise ManifestError(f"{data} has both {manifest.name} and {annotation.name}; move one of them away")
    if annotation.is_file():
        rows = read_annotation(annotation)
        for number, row in enumerate(rows):
            if row.task not in PROMPTS:
                raise ManifestError(
                    f"{annotation}, example {number}: no task {row.task!r}{nearest(row.task, list(PROMPTS))}"
                )
            if row.task.endswith("QA") and not row.question:
                raise ManifestError(f"{annotation}, example {number}: the task {row.task} needs a question under 'Q'")
        return Examples(annotation, data, rows)
    spoken = [Example(path=str(u.audio), text=u.text or "", task="asr", utterance=u) for u in Manifest.open(manifest)]
    return Examples(manifest, data, spoken)


def prepare(clips: Sequence[Float32[np.ndarray, "_ _"]]) -> Float32[np.ndarray, " joined"]:
    """Join an example's 16 kHz recordings `[sample, channel]`, 0.1 s of silence between; 1 to 30 s of channel 0."""
    parts = [clips[0][:, 0]]
    for clip in clips[1:]:
        parts += [np.zeros(_GAP, np.float32), clip[:, 0]]
    joined = np.concatenate(parts)[:MAX_SAMPLES]
    return np.pad(joined, (0, max(0, SAMPLE_RATE_HZ - len(joined))))


def read_annotation(file: Path) -> list[Example]:
    """Read an annotation file.

    Raises:
        ManifestError: not JSON, or an example without path, text or task; says which.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        rows = content["annotation"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ManifestError(f"{file} is no SALMONN annotation: it must be JSON with a list 'annotation'") from error
    return [_example(row, f"{file}, example {number}") for number, row in enumerate(rows)]


def _example(row: Any, where: str) -> Example:
    missing = [
        key for key in ("path", "text", "task") if not isinstance(row, dict) or not isinstance(row.get(key), str)
    ]
    if missing:
        raise ManifestError(f"{where}: {', '.join(missing)} must be given as text")
    return Example(
        path=row["path"],
        text=row["text"],
        task=row["task"],
        question=str(row.get("Q", "")),
        expand_wav=tuple(str(path) for path in row.get("expand_wav", ())),
    )


def write_annotation(file: Path, examples: Iterable[Example]) -> None:
    """Write examples as the authors' code reads them."""
    rows = []
    for example in examples:
        row: dict[str, Any] = {"path": example.path, "text": example.text, "task": example.task}
        if example.question:
            row["Q"] = example.question
        if example.expand_wav:
            row["expand_wav"] = list(example.expand_wav)
        rows.append(row)
    write_text(file, json.dumps({"annotation": rows}, ensure_ascii=False, indent=1))
