"""Run reference vectors against our implementation: `voder verify --fixtures DIR`.

A case is handled by the system, or by `voder.metrics`, whose `reference.py` lists its `kind`. Nothing is compared by
eye: every recorded output must come back, integers equal and floats within the recorded tolerance.
"""

import importlib
import importlib.util
import traceback
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, Protocol, runtime_checkable

import torch

from voder.fixtures import Runner, compare, find_cases, read_case

Status = Literal["pass", "fail", "skipped", "unhandled"]


@runtime_checkable
class Writable(Protocol):
    """Anything that takes text."""

    def write(self, text: str, /) -> object: ...


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What became of one case."""

    case: str
    status: Status
    error: float = 0.0
    """Absolute error of the output that comes closest to its tolerance."""
    tolerance: float = 0.0
    """That output's tolerance."""
    details: tuple[str, ...] = ()
    """Outputs that failed, the module that is missing, or the kind that nobody handles."""


@dataclass(frozen=True)
class VerifyResult:
    """All cases of a folder."""

    outcomes: tuple[Outcome, ...]

    def count(self, status: Status) -> int:
        """How many cases ended like this."""
        return sum(outcome.status == status for outcome in self.outcomes)

    @property
    def exit_code(self) -> int:
        """1 if any case failed."""
        return 1 if self.count("fail") else 0

    @property
    def closing_line(self) -> str:
        """The last line of the report."""
        statuses: tuple[tuple[Status, str], ...] = (
            ("pass", "passed"),
            ("fail", "failed"),
            ("skipped", "skipped"),
            ("unhandled", "unhandled"),
        )
        return ", ".join(f"{self.count(status)} {word}" for status, word in statuses)

    def print(self, out: Writable) -> None:
        """Write the table and the closing line."""
        rows = [("case", "largest error", "tolerance", "result")]
        rows += [(o.case, f"{o.error:.2g}", f"{o.tolerance:.2g}", o.status) for o in self.outcomes]
        width = max(len(row[0]) for row in rows)
        for row, outcome in zip(rows, (None, *self.outcomes), strict=True):
            out.write(f"{row[0]:<{width}}  {row[1]:>13}  {row[2]:>9}  {row[3]}\n")
            for detail in outcome.details if outcome else ():
                out.write(f"{'':<{width}}  {detail}\n")
        out.write(self.closing_line + "\n")


def runners() -> Mapping[str, Runner]:
    """Every kind that the measures or some system handle, with its runner."""
    from voder.metrics.reference import KINDS
    from voder.systems import SYSTEMS

    found: dict[str, Runner] = dict(KINDS)
    for name in SYSTEMS:
        module = f"voder.systems.{name}.reference"
        if importlib.util.find_spec(f"voder.systems.{name}") and importlib.util.find_spec(module):
            found |= importlib.import_module(module).KINDS
    return found


def verify_fixtures(folder: Path, *, kinds: Mapping[str, Runner] | None = None) -> VerifyResult:
    """Run every case under a folder.

    Args:
        folder: a folder of cases, or one case's JSON file.
        kinds: runners by kind; those of all systems if not given.

    Raises:
        InputError: nothing there is a case.
    """
    known = runners() if kinds is None else kinds
    return VerifyResult(tuple(_run(path, known) for path in find_cases(folder)))


def _run(path: Path, known: Mapping[str, Runner]) -> Outcome:
    case = read_case(path)
    runner = known.get(case.kind)
    if runner is None:
        return Outcome(case=case.name, status="unhandled", details=(f"no system handles {case.kind!r}",))
    torch.manual_seed(0)
    try:
        comparison = compare(case, runner(case))
    except ModuleNotFoundError as error:
        return Outcome(case=case.name, status="skipped", details=(f"needs the package {error.name}",))
    except Exception as error:  # one broken case must not hide the result of the others
        place = traceback.extract_tb(error.__traceback__)[-1]
        text = f"{type(error).__name__}: {error} ({Path(place.filename).name}:{place.lineno})"
        return Outcome(case=case.name, status="fail", error=float("inf"), details=(text,))
    return Outcome(
        case=case.name,
        status="fail" if comparison.problems else "pass",
        error=comparison.error,
        tolerance=comparison.tolerance,
        details=comparison.problems,
    )
