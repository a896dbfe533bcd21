"""What there is, and what comes from elsewhere: list, papers, fetch, convert, export."""

import argparse
import contextlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

from voder.config import to_yaml
from voder.verbs.common import note


def run_list(args: argparse.Namespace, command: list[str]) -> int:
    """Show what there is."""
    from voder import hub
    from voder.systems import SYSTEMS

    if args.anatomy:
        return _list_anatomy(args.system)
    if args.system:
        return _list_system(args.system)
    width = max(map(len, SYSTEMS))
    for name, line in SYSTEMS.items():
        print(f"{name:<{width}}  {line}")
        print(f"{'':<{width}}  {', '.join(hub.find(name).roles) or 'no role'}")
    print(f"\nbundled checkpoints: {', '.join(hub.bundled_names()) or 'none'}")
    print("`voder list SYSTEM` shows presets, stages and settings; `voder list --anatomy` the parts")
    return 0


def _list_system(name: str) -> int:
    from voder import hub
    from voder.conversion import layouts
    from voder.evaluate.plan import count_parameters
    from voder.systems import SYSTEMS

    system = hub.find(name)
    print(f"{name}: {SYSTEMS[name]}\nroles: {', '.join(system.roles)}")
    for preset in system.presets:
        default = ", the default" if preset == system.default_preset else ""
        print(f"  {name}/{preset}  {count_parameters(system, preset):,} parameters{default}")
    for stage, value in system.stages.items():
        print(f"  --stage {stage}  {value.summary}")
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
    from voder.fetch import fetch

    if not args.names:
        return _list_published()
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


def _list_published() -> int:
    from voder.fetch import list_published
    from voder.published import spell_size

    for offer in list_published():
        row = offer.published
        place = "here" if offer.here else spell_size(row.num_bytes())
        sources = " or ".join(row.sources) or "by hand"
        print(f"{row.name:<24} {row.system:<15} {place:>7}  {sources:<10}  {row.licence}")
        more = f", with {' and '.join(row.needs.values())}" if row.needs else ""
        print(f"  {row.what}{more}")
    return 0


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
