"""Write an evaluation as two files in a folder: `report.json` for programs and `report.html` for people.

The page is one file without scripts or anything from the network; it refers only to the recordings beside it.

    report = Report(title=…, headline=…, figures=(Figure(name=…, value=…),), environment=environment(), …)
    page = write_report(folder, report)
"""

import json
import os
import platform
import sys
from importlib.metadata import version
from pathlib import Path

from voder.evaluate.figures import Figure
from voder.evaluate.page import render
from voder.evaluate.plots import Curve, Sound
from voder.evaluate.records import (
    AudioItem,
    AudioRow,
    Change,
    CodebookUsage,
    Command,
    Environment,
    Report,
    Section,
    Source,
    Spectrograms,
    Stage,
    Table,
)
from voder.files import write_text

__all__ = [
    "AudioItem",
    "AudioRow",
    "Change",
    "CodebookUsage",
    "Command",
    "Curve",
    "Environment",
    "Figure",
    "Report",
    "Section",
    "Sound",
    "Source",
    "Spectrograms",
    "Stage",
    "Table",
    "environment",
    "peak_memory_mb",
    "write_report",
]


def write_report(folder: Path, report: Report) -> Path:
    """Write `report.json` and `report.html` into `folder`, each atomically, and return the page's path.

    Raises:
        ValueError: the report names a recording that is not in the folder.
        ResourceError: the folder cannot be written.
    """
    if missing := [item.path for item in report.items() if not (folder / item.path).is_file()]:
        raise ValueError(f"the report names {missing[0]}, which is not in {folder}; write the recordings first")
    page = render(report)
    text = json.dumps(report.to_dict(), indent=2, ensure_ascii=False, allow_nan=False)
    write_text(folder / "report.json", text + "\n")
    write_text(folder / "report.html", page)
    return folder / "report.html"


def environment() -> Environment:
    """Return the versions and the machine of this process."""
    import torch

    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return Environment(
        voder=version("voder"),
        torch=torch.__version__,
        python=platform.python_version(),
        threads=torch.get_num_threads(),
        machine=f"{_processor()}, {cores} core{'s' if cores > 1 else ''}, {platform.system()}",
    )


def _processor() -> str:
    listing = Path("/proc/cpuinfo")
    if listing.is_file():
        for line in listing.read_text(encoding="utf-8", errors="replace").splitlines():
            if line.startswith("model name"):
                return " ".join(line.partition(":")[2].split())
    return platform.processor() or platform.machine()


def peak_memory_mb() -> float:
    """Return the largest resident memory that this process, or one child that has ended, held so far (10^6 bytes)."""
    import resource

    unit = 1 if sys.platform == "darwin" else 1024  # ru_maxrss is in bytes there, in KiB elsewhere
    who = (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    return max(resource.getrusage(one).ru_maxrss for one in who) * unit / 1e6
