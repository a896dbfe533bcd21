"""Figures and checks: eval, demo, doctor, verify."""

import argparse
import json
import shlex
import sys
from pathlib import Path

from voder import exits
from voder.errors import ConfigError
from voder.verbs.common import machine, note


def run_eval(args: argparse.Namespace, command: list[str]) -> int:
    """Measure a model."""
    from voder.evaluate.run import EvaluationRequest, evaluate

    with machine(args) as device:
        figures, page = evaluate(
            EvaluationRequest(
                model=args.model,
                data=Path(args.data),
                split=args.split,
                judge=args.judge,
                limit=args.limit,
                seed=args.seed,
                output=Path(args.output) if args.output else None,
                device=device,
                command=shlex.join(["voder", *command]),
            ),
            say=note,
        )
    width = max(len(figure.name) for figure in figures)
    for figure in figures:
        beside = "" if figure.originals is None else f"   (originals {figure.shown(figure.originals)})"
        count = "" if figure.n is None else f"   n {figure.n}"
        print(f"{figure.name:<{width}}  {figure.shown()}{count}{beside}")
    if page is not None:
        print(page)
    return 0


def run_demo(args: argparse.Namespace, command: list[str]) -> int:
    """The main job on bundled recordings."""
    from voder.demo.run import run_demo as demo

    page = demo(
        Path(args.output),
        from_scratch=args.from_scratch,
        fresh=args.fresh,
        seed=args.seed,
        second_judge=args.second_judge,
        command=shlex.join(["voder", *command]),
    )
    print(page)
    return 0


def run_doctor(args: argparse.Namespace, command: list[str]) -> int:
    """Describe the installation."""
    from voder.evaluate.doctor import describe, examine

    facts = examine()
    print(json.dumps(facts, indent=1, ensure_ascii=False) if args.json else describe(facts))
    return 0


def run_verify(args: argparse.Namespace, command: list[str]) -> int:
    """Check reference vectors, or the equalities of one system or all."""
    if args.fixtures:
        from voder.evaluate.verify import runners, verify_fixtures

        kinds = {kind: run for kind, run in runners().items() if args.system in (None, kind.partition("/")[0])}
        if not kinds:
            raise ConfigError(f"{args.system} runs no reference vectors; leave it out to run those of all systems")
        result = verify_fixtures(Path(args.fixtures), kinds=kinds)
        result.print(sys.stdout)
        return exits.FAILED if result.count("fail") else 0
    return _verify_equalities(args)


PRESETS_BY_PAPER = {"fsq": "encodec/fsq_tiny"}
"""Papers that are presets of another system's folder, as `voder verify NAME` calls them."""


def _verify_equalities(args: argparse.Namespace) -> int:
    import tempfile

    from voder import hub
    from voder.evaluate.bench import Bench, tiny_presets
    from voder.evaluate.equalities import check
    from voder.systems import SYSTEMS

    asked = PRESETS_BY_PAPER.get(args.system, args.system)
    if asked:
        hub.find(asked.partition("/")[0])
    names = [asked] if asked else tiny_presets(SYSTEMS)
    print(f"{'system':<16} {'equality':<30} {'largest':>9} {'tolerated':>9}")
    results = []
    with tempfile.TemporaryDirectory(prefix="voder-verify-") as folder:
        bench = Bench(Path(folder), seed=args.seed)
        for name in names:
            for equality in check(name, bench):
                results.append(equality.holds)
                numbers = f"{equality.difference:>9.2g} {equality.tolerance:>9.2g}"
                print(f"{name:<16} {equality.name:<30} {numbers}  {'pass' if equality.holds else 'FAIL'}", flush=True)
    print(f"{sum(results)} passed, {len(results) - sum(results)} failed")
    return 0 if all(results) else exits.FAILED
