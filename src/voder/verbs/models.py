"""What there is, and what comes from elsewhere: list, papers, fetch, convert, export."""

import argparse
import contextlib
import sys
import textwrap
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from voder.config import to_yaml
from voder.verbs.common import ROLES, note

if TYPE_CHECKING:
    from voder.fetch import Offer

_COLUMNS = 100
"""How wide a list may be."""


def run_list(args: argparse.Namespace, command: list[str]) -> int:
    """Show what there is."""
    from voder.fetch import list_published
    from voder.systems import SYSTEMS

    if args.anatomy:
        return _list_anatomy(args.system)
    if args.system:
        return _list_system(args.system)
    offers = list_published()
    width = max(map(len, SYSTEMS))
    for name, line in SYSTEMS.items():
        rows = [offer for offer in offers if offer.published.system == name]
        lines = [line, f"{_roles(name)} | {_state(name, rows)}"]
        if rows:
            lines.append(", ".join(f"{o.published.name} ({_size(o)}, {o.published.licence})" for o in rows))
        for number, each in enumerate(line for text in lines for line in _wrapped(text, _COLUMNS - width - 2)):
            print(f"{'' if number else name:<{width}}  {each}")
    print("\n`voder list SYSTEM` shows presets, stages, weights and settings; `voder list --anatomy` the parts")
    return 0


def _size(offer: "Offer") -> str:
    """How much has to be downloaded for something, with all that it is put together with."""
    from voder import hub
    from voder.published import spell_size

    row = offer.published
    total = sum(each.num_bytes() for each in (row, *hub.parts_of(row)))
    return f"{spell_size(total)} with its parts" if row.needs else spell_size(total)


def _wrapped(text: str, width: int) -> list[str]:
    return textwrap.wrap(text, width, break_on_hyphens=False, break_long_words=False)


def _roles(name: str) -> str:
    """What a system can be, and the verbs that work with it."""
    from voder import hub

    roles = hub.find(name).roles
    verbs = [verb for verb, wanted in ROLES.items() if set(wanted) & set(roles)]
    return f"{', '.join(roles)} | {', '.join(verbs) or 'a part of other systems'}"


def _state(name: str, rows: Sequence["Offer"]) -> str:
    """What can be used of a system now, and otherwise what must be done first."""
    from voder import hub

    bundled = [each for each in hub.bundled_names() if each.startswith(f"{name}/")]
    here = [row.published.name for row in rows if row.here]
    parts = [f"{kind}: {', '.join(names)}" for kind, names in (("bundled", bundled), ("here", here)) if names]
    return "; ".join(parts) or ("to fetch" if rows else "none published, to train")


def _list_system(name: str) -> int:
    from voder import hub
    from voder.conversion import layouts
    from voder.evaluate.plan import count_parameters
    from voder.fetch import list_published
    from voder.systems import SYSTEMS

    system = hub.find(name)
    rows = [offer for offer in list_published() if offer.published.system == name]
    print(f"{name}: {SYSTEMS[name]}\n{_roles(name)} | {_state(name, rows)}")
    for preset in system.presets:
        default = ", the default" if preset == system.default_preset else ""
        print(f"  {name}/{preset}  {count_parameters(system, preset):,} parameters{default}")
    for stage, value in system.stages.items():
        print(f"  --stage {stage}  {value.summary}")
    if rows:
        print("published weights (`voder fetch NAME`):")
        _print_offers(rows)
    if known := layouts(name):
        print(f"layouts to export: {', '.join(f'{layout} ({what})' for layout, what in known.items())}")
    print(f"\nsettings of {name}/{system.default_preset}:\n")
    print(to_yaml(system.preset(system.default_preset)), end="")
    return 0


def _list_anatomy(name: str | None) -> int:
    from voder import hub
    from voder.systems import SYSTEMS

    if name:
        hub.find(name)
    for each in [name] if name else SYSTEMS:
        system = hub.find(each)
        if system.anatomy is None:
            continue
        print(f"{each}/{system.default_preset}")
        for part, what in system.anatomy(system.preset(system.default_preset).model).items():
            print(f"  {part:<17} {what}")
    return 0


def run_fetch(args: argparse.Namespace, command: list[str]) -> int:
    """List what can be had, or bring it."""
    from voder.fetch import fetch, list_published

    if not args.names:
        _print_offers(list_published())
        return 0
    for name in args.names:
        with _download_shown(name) as progress:
            folder = fetch(
                name,
                via=args.via,
                source_folder=Path(args.source) if args.source else None,
                fresh=args.fresh,
                say=note,
                progress=progress,
            )
        print(folder)
    return 0


def _print_offers(offers: Sequence["Offer"]) -> None:
    from voder.published import spell_size

    width = max(len(offer.published.name) for offer in offers)
    for offer in offers:
        row = offer.published
        place = "here" if offer.here else spell_size(row.num_bytes())
        sources = " or ".join(row.sources) or "by hand"
        print(f"{row.name:<{width}} {row.system:<15} {place:>7}  {sources:<10}  {row.licence}")
        print(f"  {row.what}")
        if row.needs:
            print(f"  {_size(offer)}: {', '.join(row.needs.values())}")


@contextlib.contextmanager
def _download_shown(name: str) -> Iterator[Callable[[int, int], None]]:
    """A bar with rate and time left on a terminal; nothing elsewhere."""
    if not sys.stderr.isatty():
        yield lambda done, total: None
        return
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TextColumn, TimeRemainingColumn, TransferSpeedColumn

    columns = (TextColumn(name), BarColumn(), DownloadColumn(), TransferSpeedColumn(), TimeRemainingColumn())
    with Progress(*columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(name, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def run_papers(args: argparse.Namespace, command: list[str]) -> int:
    """List the literature."""
    from voder.evaluate.papers import describe

    print(describe(args.query))
    return 0


def run_convert(args: argparse.Namespace, command: list[str]) -> int:
    """Turn a foreign checkpoint into ours."""
    from voder.conversion import convert

    output = Path(args.output)
    system, coverage = convert(Path(args.source), output, system=args.system, more=args.more)
    note(coverage.summary())
    print(f"{output}: {system}")
    return 0


def run_export(args: argparse.Namespace, command: list[str]) -> int:
    """Write a checkpoint of ours in a foreign layout."""
    from voder.conversion import export

    output = Path(args.output)
    if absent := export(args.model, output, args.layout):
        note(f"without a place in that layout: {', '.join(absent)}")
    print(output)
    return 0
