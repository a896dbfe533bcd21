#!/usr/bin/env python
"""Measure a few steps of `voder train`: does the loss fall, and is a resumed run one that nobody stopped?

    python scripts/measure_training.py -o OUT [--steps 50] -- salmonn --preset small --data data/ task.lm=...

What stands behind `--` is given to `voder train` as it is. The run is trained to its end with a checkpoint halfway;
a copy of it, cut back to that checkpoint, goes on to the end. Prints and writes OUT/figures.json: every phase's loss
over the first and the last fifth of the steps, seconds a step, processor seconds, peak memory, and what differs
between the two runs (weights, optimiser states, logged figures; nothing may).
"""

import argparse
import json
import os
import shutil
import statistics
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from voder import checkpoint
from voder.train.state import step_name

_RUN = (
    "import json, resource, sys\n"
    "from voder.cli import main\n"
    "code = main(sys.argv[2:])\n"
    "used = resource.getrusage(resource.RUSAGE_SELF)\n"
    "open(sys.argv[1], 'w').write(json.dumps([used.ru_utime + used.ru_stime, used.ru_maxrss / 1024]))\n"
    "sys.exit(code)\n"
)


def main() -> None:
    """Train, resume halfway, compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--no-resume", action="store_true", help="train only")
    parser.add_argument("train", nargs="+", help="arguments of voder train, behind --")
    asked = parser.parse_args()
    asked.output.mkdir(parents=True, exist_ok=True)
    whole, resumed = asked.output / "whole", asked.output / "resumed"
    half = asked.steps // 2
    settings = [
        f"loop.steps={asked.steps}",
        f"loop.save_every={half}",
        f"loop.evaluate_every={asked.steps}",
        "loop.keep=2",
        "loop.log_every=1",
    ]
    arguments = [*asked.train, *settings]
    seconds, processor_seconds, peak_mb = _train(arguments, whole)
    figures: dict[str, Any] = {
        "command": "voder train " + " ".join(arguments),
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "load_average": round(os.getloadavg()[0], 1),
        "losses": _losses(whole, asked.steps),
        "seconds_a_step": _seconds_a_step(whole),
        "seconds_in_all": round(seconds),
        "processor_seconds_in_all": round(processor_seconds),
        "peak_memory_mb": round(peak_mb),
    }
    if not asked.no_resume:
        _cut_back(whole, resumed, half)
        _train(arguments, resumed)
        figures["resumed_at"] = half
        figures["different_when_resumed"] = _differences(whole, resumed, asked.steps)
    text = json.dumps(figures, indent=1)
    (asked.output / "figures.json").write_text(text + "\n", encoding="utf-8")
    sys.stdout.write(text + "\n")


def _train(arguments: list[str], run: Path) -> tuple[float, float, float]:
    """Seconds, seconds of processors (fair where others share them) and megabytes that it took."""
    taken = run.parent / f"{run.name}.taken"
    started = time.monotonic()
    subprocess.run([sys.executable, "-c", _RUN, str(taken), "train", *arguments, "-o", str(run)], check=True)
    processor_seconds, peak_mb = json.loads(taken.read_text(encoding="utf-8"))
    return time.monotonic() - started, processor_seconds, peak_mb


def _logged(run: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text(encoding="utf-8").splitlines()]


def _losses(run: Path, steps: int) -> dict[str, dict[str, float]]:
    """Of every phase: means over the first and the last fifth of its steps."""
    curves: dict[str, list[float]] = {}
    for row in _logged(run):
        for name, value in row.items():
            if name.endswith("/loss") and not name.startswith("valid/"):
                curves.setdefault(name.removesuffix("/loss"), []).append(value)
    ends = {}
    for name, curve in curves.items():
        few = max(1, len(curve) // 5)
        first, last = statistics.mean(curve[:few]), statistics.mean(curve[-few:])
        ends[name] = {"first": round(first, 4), "last": round(last, 4), "steps": len(curve)}
    return ends


def _seconds_a_step(run: Path) -> float:
    """The median, from the times at which steps were logged."""
    events = EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    times = [event.wall_time for event in events.Scalars("learning_rate")]
    return round(statistics.median(b - a for a, b in pairwise(times)), 2)


def _cut_back(whole: Path, copy: Path, step: int) -> None:
    """Make a copy of a run as it was at one of its checkpoints."""
    if copy.exists():
        shutil.rmtree(copy)
    shutil.copytree(whole, copy)
    kept = step_name(step)
    for folder in (copy / "checkpoints").glob("step-*"):
        if folder.name != kept:
            shutil.rmtree(folder)
    for file in (copy / "trainer").glob("step-*.pt"):
        if file.stem != kept:
            file.unlink()
    (copy / "checkpoints" / "best.json").unlink(missing_ok=True)


def _differences(one: Path, two: Path, steps: int) -> list[str]:
    """Names of whatever is not the same, bit for bit."""
    name = step_name(steps)
    states = [checkpoint.load_state(run / "checkpoints" / name) for run in (one, two)]
    found = [key for key in states[0] if not torch.equal(states[0][key], states[1][key])]
    trainers = [torch.load(run / "trainer" / f"{name}.pt", weights_only=True) for run in (one, two)]
    found += _unequal(trainers[0], trainers[1], "trainer")
    if _logged(one) != _logged(two):
        found.append("metrics.jsonl")
    return found


def _unequal(one: Any, two: Any, where: str) -> list[str]:
    if isinstance(one, torch.Tensor):
        return [] if isinstance(two, torch.Tensor) and torch.equal(one, two) else [where]
    if isinstance(one, dict):
        if not isinstance(two, dict) or one.keys() != two.keys():
            return [where]
        return [each for key in one for each in _unequal(one[key], two[key], f"{where}.{key}")]
    if isinstance(one, list | tuple):
        if not isinstance(two, list | tuple) or len(one) != len(two):
            return [where]
        pairs = enumerate(zip(one, two, strict=True))
        return [each for index, (a, b) in pairs for each in _unequal(a, b, f"{where}[{index}]")]
    return [] if one == two else [where]


if __name__ == "__main__":
    main()
