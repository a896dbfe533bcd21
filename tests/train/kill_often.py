"""A codec and a language model in training, killed again and again at random moments, and compared with a whole run.

    python kill_often.py FOLDER SEED KILLS

Each run starts, gets SIGKILL after a random time, is started again by the same command, and so on until it ends; then
the next begins, until there were KILLS of them per system. It prints where they fell and what differed, as JSON.
"""

import importlib
import json
import mmap
import os
import shutil
import signal
import sys
import time
import traceback
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch
import toys

from voder.evaluate.bench import Bench
from voder.train.run import train

LENGTHS = {"loop__steps": 12, "loop__save_every": 2, "loop__evaluate_every": 6, "loop__log_every": 5, "loop__keep": 2}
SYSTEMS: dict[str, dict[str, Any]] = {
    "encodec": {},
    "valle": {"loop__ema_decay": 0.9, "loop__accumulate": 2},
}
"""A codec with discriminators, and a language model over its tokens with averages and accumulation."""

PHASES = {
    "a step": ("voder.train.loop", "Loop._step"),
    "an evaluation": ("voder.train.loop", "Loop.evaluate"),
    "samples": ("voder.train.hooks", "Keeper._write_samples"),
    "a save": ("voder.train.hooks", "save"),
    "the mark of the best": ("voder.train.hooks", "mark_best"),
    "pruning": ("voder.train.hooks", "prune"),
    "restoring": ("voder.train.run", "restore"),
}
"""What a process is in, as told to the one that kills it."""


class Board:
    """One line that a process writes and its parent reads after its death."""

    def __init__(self) -> None:
        self.memory = mmap.mmap(-1, 64)

    def write(self, text: str) -> None:
        """Replace the line."""
        self.memory[:] = text.encode().ljust(64)

    def read(self) -> str:
        """The line."""
        return bytes(self.memory).decode().strip()


def tell(board: Board) -> None:
    """Let every phase of this process show on the board."""
    for phase, (module, path) in PHASES.items():
        owner: Any = importlib.import_module(module)
        *outer, name = path.split(".")
        for each in outer:
            owner = getattr(owner, each)
        setattr(owner, name, _telling(getattr(owner, name), phase, board))


def _telling(function: Callable[..., Any], phase: str, board: Board) -> Callable[..., Any]:
    def told(*args: Any, **kwargs: Any) -> Any:
        before = board.read()
        board.write(phase)
        result = function(*args, **kwargs)
        board.write(before if before in PHASES else "between steps")
        return result

    return told


def forked(work: Callable[[], Any]) -> int:
    """Do something in a process of its own; its id."""
    if (child := os.fork()) == 0:
        status = 1
        try:
            work()
            status = 0
        except BaseException:
            traceback.print_exc()
        finally:
            os._exit(status)
    return child


def run(system: str, data: Path, output: Path, board: Board) -> None:
    """What the command line does."""
    torch.set_num_threads(1)
    board.write("the setup")
    tell(board)
    train(toys.request(system, output, data=data, **LENGTHS, **SYSTEMS[system]), say=lambda text: None)


def ended_within(child: int, seconds: float) -> bool:
    """Wait for a process so long; kill it then. True when it had ended well by itself."""
    end = time.monotonic() + seconds
    while time.monotonic() < end:
        pid, status = os.waitpid(child, os.WNOHANG)
        if pid:
            assert status == 0, "a run that was not killed has failed"
            return True
        time.sleep(0.001)
    os.kill(child, signal.SIGKILL)
    status = os.waitpid(child, 0)[1]
    return os.waitstatus_to_exitcode(status) == 0  # it ended in this very moment


def kill_often(system: str, data: Path, folder: Path, rng: np.random.Generator, kills: int) -> dict[str, Any]:
    """Kill runs of a system so often; where, how long it took and what differed from a whole run."""
    board, started = Board(), time.monotonic()
    whole = folder / "whole"
    assert ended_within(forked(lambda: run(system, data, whole, board)), 600)
    duration = time.monotonic() - started
    fell: Counter[str] = Counter()
    different: list[str] = []
    runs = 0
    while fell.total() < kills:
        output = folder / f"killed-{runs}"
        while not ended_within(forked(lambda output=output: run(system, data, output, board)), _delay(rng, duration)):
            early = "" if any(output.glob("checkpoints/step-*")) else ", before the first checkpoint"
            fell[f"{board.read()}{early}"] += 1
        different += [f"{output.name}: {name}" for name in toys.differences(whole, output)]
        shutil.rmtree(output)
        runs += 1
    minutes = (time.monotonic() - started) / 60
    return {"kills": fell.total(), "runs": runs, "fell": dict(fell), "minutes": minutes, "different": different}


def _delay(rng: np.random.Generator, duration: float) -> float:
    """Short and long ones alike, so that some fall into the setup and some lives are long enough to get on."""
    return float(duration * rng.uniform(0.0, 1.0))


def main(folder: Path, seed: int, kills: int) -> None:
    """Make the data in a process of its own, so that none here has threads when it forks; then kill."""
    toys.install()
    for name in ("torch.utils.tensorboard", "torch._dynamo", "rich.console", "voder.systems.encodec.train"):
        importlib.import_module(name)
    bench = folder / "bench"
    assert ended_within(forked(lambda: [Bench(bench).data(system) for system in SYSTEMS]), 600)
    rng = np.random.default_rng(seed)
    reports = {}
    for system in SYSTEMS:
        data = Bench(bench).data(system)
        reports[system] = kill_often(system, data, folder / system, rng, kills)
        sys.stderr.write(f"{system}: {json.dumps(reports[system])}\n")
    sys.stdout.write(json.dumps(reports))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
