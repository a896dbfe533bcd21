"""What a report is made of. Records only: `page` draws them, `report` writes them."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import PurePosixPath
from typing import Any

import numpy as np
from numpy.typing import NDArray

from voder.evaluate.figures import Figure
from voder.evaluate.plots import Curve, Sound
from voder.metrics.codes import perplexity


@dataclass(frozen=True, kw_only=True)
class AudioItem:
    """One player.

    Raises:
        ValueError: the path is absolute or leaves the report's folder.
    """

    path: str
    """The file, relative to the report's folder, with forward slashes."""
    title: str
    """What one hears: original, through the codec, prompt, spoken."""
    text: str | None = None
    """The text wanted."""
    heard: str | None = None
    """The text that the judge heard."""
    correct: bool | None = None
    """Whether they are the same for the judge."""
    note: str = ""
    """One more line, such as how it stopped."""

    def __post_init__(self) -> None:
        path = PurePosixPath(self.path)
        if path.is_absolute() or ".." in path.parts or not path.parts:
            raise ValueError(f"audio {self.path!r} must be a file inside the report's folder, by its relative path")


@dataclass(frozen=True, kw_only=True)
class AudioRow:
    """Players side by side: original and through the codec, prompt and spoken, before and after."""

    items: tuple[AudioItem, ...]
    """The players, from left to right."""
    title: str = ""
    """What they share, such as the speaker."""


@dataclass(frozen=True, kw_only=True)
class Section:
    """Rows of players under one heading."""

    title: str
    """The heading."""
    rows: tuple[AudioRow, ...]
    """The rows."""
    note: str = ""
    """What to listen for, and who judged."""


@dataclass(frozen=True, kw_only=True)
class Change:
    """The same figure before and after, such as fine-tuning."""

    title: str
    """What was measured."""
    before: str
    """The name of the figure before."""
    after: str
    """The name of the figure after."""


@dataclass(frozen=True, kw_only=True)
class Spectrograms:
    """Sounds drawn side by side on one colour scale."""

    title: str
    """The heading."""
    sounds: tuple[Sound, ...]
    """The sounds, from left to right."""


@dataclass(frozen=True, kw_only=True, eq=False)
class CodebookUsage:
    """How much of each codebook a codec uses."""

    title: str
    """Whose codes, counted over what."""
    codes: NDArray[np.integer[Any]]
    """Codes [codebook, frame], all frames one after the other."""
    codebook_size: int
    """How many codes each codebook has."""

    def counts(self) -> NDArray[np.integer[Any]]:
        """How often each code occurs, [codebook, code]."""
        return np.stack([np.bincount(book, minlength=self.codebook_size) for book in self.codes])

    def perplexity(self) -> NDArray[np.floating[Any]]:
        """How many codes, used equally often, would say as much: [codebook]."""
        return perplexity(self.codes, self.codebook_size)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: used, total and perplexity of each codebook."""
        rows = [
            {"used": int((counts > 0).sum()), "total": self.codebook_size, "perplexity": round(float(spread), 2)}
            for counts, spread in zip(self.counts(), self.perplexity(), strict=True)
        ]
        return {"title": self.title, "codebooks": rows}


@dataclass(frozen=True, kw_only=True)
class Table:
    """A small table, such as bit rate against quality."""

    title: str
    """The heading."""
    columns: tuple[str, ...]
    """Names of the columns, units included."""
    rows: tuple[tuple[str | int | float | None, ...], ...]
    """Cells; None is a dash."""
    note: str = ""
    """One line below."""

    def __post_init__(self) -> None:
        if any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"table {self.title!r} has {len(self.columns)} columns and a row of another length")
        if any(isinstance(cell, float) and not math.isfinite(cell) for row in self.rows for cell in row):
            raise ValueError(f"table {self.title!r} has a number that is not finite; give None")


@dataclass(frozen=True, kw_only=True)
class Stage:
    """One step of the run."""

    name: str
    """What was done."""
    duration_s: float
    """How long it took, when it ran."""
    steps: int | None = None
    """Training steps made."""
    reused: bool = False
    """Whether an earlier run had finished it."""
    command: str = ""
    """The command that does the same."""
    note: str = ""
    """One line, such as why it stopped early."""


@dataclass(frozen=True, kw_only=True)
class Source:
    """Data or weights that others made."""

    name: str
    """What it is called."""
    credit: str
    """Who made it."""
    licence: str
    """Its licence."""
    url: str = ""
    """Where it is kept."""


@dataclass(frozen=True, kw_only=True)
class Command:
    """A command to type."""

    line: str
    """The command."""
    note: str = ""
    """What it makes."""


@dataclass(frozen=True, kw_only=True)
class Environment:
    """What a run ran on."""

    voder: str
    """Version of voder."""
    torch: str
    """Version of torch."""
    python: str
    """Version of Python."""
    threads: int
    """Threads that torch used."""
    machine: str
    """Processor, number of cores and system, in short."""


@dataclass(frozen=True, kw_only=True)
class Report:
    """All that a report says.

    Raises:
        ValueError: two figures have one name, or `key_figures` or `changes` name a figure that is not there.
    """

    title: str
    """Two or three words above the headline."""
    headline: str
    """One sentence: what happened."""
    command: str
    """The command that made it."""
    seed: int
    """The seed of everything random."""
    environment: Environment
    """Versions and machine; see `report.environment()`."""
    duration_s: float
    """Wall time of the command."""
    peak_memory_mb: float
    """Largest memory held; see `report.peak_memory_mb()`."""
    bundled: bool
    """Whether the checkpoints were bundled ones (or trained in this run)."""
    figures: tuple[Figure, ...]
    """Every figure."""
    costs: tuple[Figure, ...] = ()
    """Wall time and memory against their limits: kept apart, since they differ from run to run."""
    key_figures: tuple[str, ...] = ()
    """Names of the three or four figures (or costs) to show first."""
    stages: tuple[Stage, ...] = ()
    """What the run did, in order."""
    listen: tuple[Section, ...] = ()
    """What one can hear."""
    changes: tuple[Change, ...] = ()
    """Before and after."""
    curves: tuple[Curve, ...] = ()
    """Training curves."""
    spectrograms: tuple[Spectrograms, ...] = ()
    """Pictures of sounds."""
    codebooks: tuple[CodebookUsage, ...] = ()
    """Codebook usage."""
    tables: tuple[Table, ...] = ()
    """Bit rate and quality, and the like."""
    sources: tuple[Source, ...] = ()
    """Credit and licences."""
    own_recordings: tuple[Command, ...] = ()
    """The same commands for the reader's recordings."""
    notes: tuple[str, ...] = ()
    """What a reader should know before trusting the figures."""
    extra: dict[str, Any] = field(default_factory=dict)
    """More JSON values for `report.json`, such as hashes."""

    def __post_init__(self) -> None:
        names = [figure.name for figure in (*self.figures, *self.costs)]
        if len(set(names)) != len(names):
            raise ValueError(f"two figures are called {next(n for n in names if names.count(n) > 1)!r}")
        asked = [*self.key_figures, *(name for change in self.changes for name in (change.before, change.after))]
        if unknown := [name for name in asked if name not in names]:
            raise ValueError(f"no figure is called {unknown[0]!r}; the report has {', '.join(names)}")

    def figure(self, name: str) -> Figure:
        """Return a figure or cost by name."""
        return next(figure for figure in (*self.figures, *self.costs) if figure.name == name)

    def items(self) -> Iterator[AudioItem]:
        """Every player of every section."""
        return (item for section in self.listen for row in section.rows for item in row.items)

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values: everything but pictures and curves (the runs' `metrics.jsonl` hold those)."""
        made = {
            **asdict(self.environment),
            "command": self.command,
            "seed": self.seed,
            "duration_s": round(self.duration_s, 2),
            "peak_memory_mb": round(self.peak_memory_mb, 1),
            "bundled": self.bundled,
            "headline": self.headline,
            "figures": [figure.to_dict() for figure in self.figures],
            "costs": [figure.to_dict() for figure in self.costs],
            "codebooks": [usage.to_dict() for usage in self.codebooks],
        }
        for name in ("tables", "stages", "changes", "sources", "own_recordings"):
            records: Sequence[Any] = getattr(self, name)
            made[name] = [asdict(record) for record in records]
        made["audio"] = [
            {"section": section.title, "row": row.title, **asdict(item)}
            for section in self.listen
            for row in section.rows
            for item in row.items
        ]
        made["notes"] = list(self.notes)
        if taken := sorted(made.keys() & self.extra.keys()):
            raise ValueError(f"`extra` cannot name {taken[0]!r}, which report.json already holds")
        return {**made, **self.extra}
