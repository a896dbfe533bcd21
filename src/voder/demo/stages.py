"""Stages that are done once: a stage that ended is reused, an interrupted one is begun again.

Every stage's result is a JSON record in `FOLDER/stages/`, written when the stage has ended, together with the
settings it was made with. Training inside a stage resumes by itself, from its run folder.
"""

import json
import resource
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from voder.files import write_text


class Stages:
    """Runs named stages in order and remembers their results on disk."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder / "stages"
        self.folder.mkdir(parents=True, exist_ok=True)
        self.records: list[dict[str, Any]] = []

    def run(self, name: str, settings: dict[str, Any], work: Callable[[], dict[str, Any]], *, title: str) -> Any:
        """Return the stage's result: from disk when the same stage ended before, else by doing the work."""
        file = self.folder / f"{name}.json"
        record = _read(file)
        wanted = json.loads(json.dumps(settings))
        if record is None or record["settings"] != wanted:
            print(f"== {title}", file=sys.stderr, flush=True)  # noqa: T201
            started = time.monotonic()
            result = work()
            record = {
                "name": name,
                "title": title,
                "settings": wanted,
                "seconds": round(time.monotonic() - started, 1),
                "peak_memory_mb": round(peak_memory_mb()),
                "result": json.loads(json.dumps(result)),
            }
            write_text(file, json.dumps(record, indent=1, ensure_ascii=False))
        else:
            print(f"== {title}: done before, reused", file=sys.stderr, flush=True)  # noqa: T201
        self.records.append(record)
        return record["result"]


def _read(file: Path) -> dict[str, Any] | None:
    return json.loads(file.read_text(encoding="utf-8")) if file.is_file() else None


def peak_memory_mb() -> float:
    """The largest memory this process has held so far."""
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / 2**20 if sys.platform == "darwin" else peak / 2**10
