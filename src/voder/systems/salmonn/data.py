"""The authors' training data: `{"annotation": [{"path", "text", "task", "Q"?, "expand_wav"?}]}`, and how clips are cut.

Where the original trusts that every file is 16 kHz, recordings are resampled here by whoever reads them.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float32

from voder.errors import ManifestError
from voder.files import write_text

SAMPLE_RATE_HZ = 16_000
MAX_SAMPLES = 30 * SAMPLE_RATE_HZ
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
