"""Side jobs of the loop: the log on disk, the line on the terminal, TensorBoard, evaluation, checkpoints, samples."""

import json
import math
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch

from voder.files import named_os_errors, write_text
from voder.train.loop import Hook, Loop, State
from voder.train.means import Means
from voder.train.state import mark_best, prune, save, step_name


class JsonLines(Hook):
    """`metrics.jsonl`: one line per `log_every` steps and per evaluation. Resuming cuts lines past the step."""

    def __init__(self, file: Path, log_every: int) -> None:
        self.file, self.log_every = file, log_every

    def on_start(self, state: State) -> None:
        if self.file.exists():
            with named_os_errors(self.file):
                lines = self.file.read_text(encoding="utf-8").splitlines(keepends=True)
            kept = [line for line in lines if line.endswith("\n") and json.loads(line)["step"] <= state.step]
            write_text(self.file, "".join(kept if state.step else []))

    def on_step(self, state: State) -> None:
        if state.step % self.log_every == 0 or state.step == state.steps:
            self._write({"step": state.step, **state.recent.means()})

    def on_evaluate(self, state: State, figures: dict[str, float]) -> None:
        self._write({"step": state.step, **{f"valid/{name}": value for name, value in figures.items()}})

    def _write(self, record: dict[str, float]) -> None:
        rounded = {k: _rounded(v) for k, v in record.items()}
        with named_os_errors(self.file), open(self.file, "a", encoding="utf-8") as file:
            file.write(json.dumps(rounded) + "\n")


def _rounded(value: float) -> float | None:
    """Six digits; null for what JSON has no number for."""
    if isinstance(value, int):
        return value
    return float(f"{value:.6g}") if math.isfinite(value) else None


class TensorBoard(Hook):
    """The same figures as TensorBoard scalars."""

    def __init__(self, folder: Path, log_every: int) -> None:
        self.folder, self.log_every = folder, log_every
        self.writer: Any = None

    def on_start(self, state: State) -> None:
        from torch.utils.tensorboard import SummaryWriter

        with named_os_errors(self.folder):
            self.writer = SummaryWriter(str(self.folder), purge_step=state.step or None)

    def on_step(self, state: State) -> None:
        if state.step % self.log_every == 0 or state.step == state.steps:
            self._add(state.recent.means(), state.step)

    def on_evaluate(self, state: State, figures: dict[str, float]) -> None:
        self._add({f"valid/{name}": value for name, value in figures.items()}, state.step)

    def on_end(self, state: State) -> None:
        with named_os_errors(self.folder):
            self.writer.close()

    def _add(self, figures: Mapping[str, float], step: int) -> None:
        with named_os_errors(self.folder):
            for name, value in figures.items():
                self.writer.add_scalar(name, value, step)


class Progress(Hook):
    """A live line on a terminal: step, losses, steps per second, time left. Silent elsewhere but for evaluations."""

    def __init__(self, label: str) -> None:
        from rich.console import Console

        self.console = Console(stderr=True)
        self.label, self.means = label, Means()
        self.started, self.first_step, self.shown = 0.0, 0, 0.0

    def on_start(self, state: State) -> None:
        self.started, self.first_step = time.monotonic(), state.step

    def on_step(self, state: State) -> None:
        self.means.add({k: v for k, v in state.logs.items() if k.endswith("/loss")})
        now = time.monotonic()
        if not self.console.is_terminal or (now - self.shown < 1.0 and state.step < state.steps):
            return
        self.shown = now
        rate = (state.step - self.first_step) / max(1e-9, now - self.started)
        left = (state.steps - state.step) / max(1e-9, rate)
        losses = "  ".join(f"{name} {value:.3f}" for name, value in self.means.means().items())
        self.means.clear()
        line = f"{self.label} {state.step}/{state.steps}  {losses}  {rate:.1f} steps/s  {_clock(left)} left"
        print(f"\r\x1b[2K{line[: self.console.width - 1]}", end="", file=sys.stderr, flush=True)  # noqa: T201

    def on_evaluate(self, state: State, figures: dict[str, float]) -> None:
        shown = "  ".join(f"{name} {value:.4g}" for name, value in figures.items())
        start = "\r\x1b[2K" if self.console.is_terminal else ""
        print(f"{start}{self.label} step {state.step}: {shown}", file=sys.stderr, flush=True)  # noqa: T201


def _clock(seconds: float) -> str:
    return f"{int(seconds) // 60}:{int(seconds) % 60:02d}"


class Keeper(Hook):
    """Evaluates and saves on schedule; keeps the best; writes samples to listen to at every evaluation.

    Order matters: a marked checkpoint always exists, and what comes before saving is done again after a kill. Of
    several ranks the main one writes; where parameters are sharded, the others have a Keeper too and lend their pieces.
    """

    def __init__(
        self,
        loop: Callable[[], Loop],
        run: Path,
        *,
        system: str,
        model_config: Any,
        provenance: dict[str, Any],
        warn: Callable[[str], None],
    ) -> None:
        self.loop, self.run, self.system, self.model_config = loop, run, system, model_config
        self.provenance, self.warn = provenance, warn
        self.saved: int | None = None

    @property
    def _writes(self) -> bool:
        return self.loop().world.is_main

    def on_start(self, state: State) -> None:
        self.saved = state.step or None
        if not self._writes:
            return
        # the mark follows the checkpoint, so a kill can fall between them
        if state.best_step is not None and (self.run / "checkpoints" / step_name(state.best_step)).is_dir():
            mark_best(self.run, state.best_step, state.best_score)
        if state.step:
            prune(self.run, self.loop().config.keep)

    def on_step(self, state: State) -> None:
        config = self.loop().config
        last = state.step == state.steps
        evaluate = last or state.step % config.evaluate_every == 0
        improved = False
        if evaluate:
            figures = self.loop().evaluate()
            self._write_samples(state)
        if evaluate and self._writes:
            score = figures.get("score", -float(state.step))
            improved = math.isfinite(score) and score <= state.best_score
            if improved:
                state.best_score, state.best_step = score, state.step
            for warning in self.loop().task.warnings():
                self.warn(warning)
        if evaluate or state.step % config.save_every == 0:
            self._save()
            if improved:
                mark_best(self.run, state.step, state.best_score)
            if self._writes:
                prune(self.run, config.keep)

    def on_end(self, state: State) -> None:
        if state.stop_reason != "end" and self.saved != state.step:
            self._save()

    def _save(self) -> None:
        loop = self.loop()
        save(
            loop,
            self.run,
            system=self.system,
            model_config=self.model_config,
            provenance=self.provenance,
        )
        self.saved = loop.state.step

    def _write_samples(self, state: State) -> None:
        folder = self.run / "samples" / f"step-{state.step:08d}"
        loop = self.loop()
        with loop.exported_weights(), torch.no_grad(), loop.gathered_precision():
            if self._writes:
                with named_os_errors(folder):
                    folder.mkdir(parents=True, exist_ok=True)
                    loop.task.samples(folder)
