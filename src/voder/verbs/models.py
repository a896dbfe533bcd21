"""What there is: list."""

import argparse
from pathlib import Path

from voder.config import to_yaml


def run_list(args: argparse.Namespace, command: list[str]) -> int:
    """Show what there is."""
    from voder.systems import SYSTEMS

    if args.system:
        return _list_system(args.system)
    width = max(map(len, SYSTEMS))
    for name, line in SYSTEMS.items():
        print(f"{name:<{width}}  {line}")
    bundled = Path(__file__).parent / "bundled"
    found = sorted(str(path.parent.relative_to(bundled)) for path in bundled.glob("*/*/config.json"))
    print(f"\nbundled checkpoints: {', '.join(found) or 'none'}")
    print("`voder list SYSTEM` shows presets and settings")
    return 0


def _list_system(name: str) -> int:
    from voder import hub
    from voder.systems import SYSTEMS

    system = hub.find(name)
    print(f"{name}: {SYSTEMS[name]}\nroles: {', '.join(system.roles)}")
    for preset in system.presets:
        parameters = sum(p.numel() for p in hub.build(f"{name}/{preset}").parameters())
        default = ", the default" if preset == system.default_preset else ""
        print(f"  {name}/{preset}  {parameters:,} parameters{default}")
    print(f"\nsettings of {name}/{system.default_preset}:\n")
    print(to_yaml(system.preset(system.default_preset)), end="")
    return 0
