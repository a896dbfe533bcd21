"""What there is, and what comes from elsewhere: list, papers, convert, export."""

import argparse
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
