"""Saving and restoring a run: a checkpoint to load, and beside it the trainer state to go on from.

    RUN/checkpoints/step-00001000/   a loadable checkpoint (exported weights, companions, parts)
    RUN/trainer/step-00001000.pt     optimisers, raw weights where they differ, averages, evaluations
    RUN/checkpoints/best.json        the checkpoint with the lowest score

The trainer state is written first, so every checkpoint that exists can be resumed from.
"""

import json
import os
import pickle
import shutil
import zipfile
from pathlib import Path
from typing import Any

import torch

from voder import checkpoint
from voder.errors import CheckpointError, ResourceError
from voder.files import atomic_path, folder_written_atomically, remove_leftovers, write_text
from voder.train.loop import Loop


def step_name(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def save(loop: Loop, run: Path, *, system: str, model_config: Any, provenance: dict[str, Any]) -> None:
    """Write the checkpoint and trainer state of the loop's current step."""
    name = step_name(loop.state.step)
    for folder in (run / "checkpoints", run / "trainer"):
        folder.mkdir(parents=True, exist_ok=True)
    _save_trainer(loop, run / "trainer" / f"{name}.pt")
    with loop.exported_weights() as model:
        _save_checkpoint(loop, model, run / "checkpoints" / name, system, model_config, provenance)


def prune(run: Path, keep: int) -> None:
    """Drop all but the newest `keep` checkpoints and the best."""
    best = best_checkpoint(run)
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    for old in names[:-keep]:
        (run / "trainer" / f"{old}.pt").unlink(missing_ok=True)
        if old != best:
            shutil.rmtree(run / "checkpoints" / old)


def _save_checkpoint(
    loop: Loop,
    model: torch.nn.Module,
    folder: Path,
    system: str,
    model_config: Any,
    provenance: dict[str, Any],
) -> None:
    progress = {"step": loop.state.step, "evaluations": loop.state.evaluations[-1:]}
    with folder_written_atomically(folder) as temporary:
        inner = temporary / "inner"
        checkpoint.save(
            inner,
            system=system,
            config=model_config,
            state=model.state_dict(),
            parts=loop.task.parts(),
            provenance=provenance | progress,
        )
        if loop.task.companions:
            (inner / "companions").mkdir()
        for name, module in loop.task.companions.items():
            checkpoint.save_tensors(inner / "companions" / f"{name}.safetensors", module.state_dict())
        for path in inner.iterdir():
            os.rename(path, temporary / path.name)
        inner.rmdir()


def _save_trainer(loop: Loop, file: Path) -> None:
    state = {
        "step": loop.state.step,
        "evaluations": loop.state.evaluations,
        "best_score": loop.state.best_score,
        "best_step": loop.state.best_step,
        "recent": {"sums": loop.state.recent.sums, "counts": loop.state.recent.counts},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in loop.optimizers.items()},
    }
    if loop.averages:
        state["model"] = loop.task.model.state_dict()
        state["averages"] = {"values": loop.averages.values, "steps": loop.averages.steps}
    with atomic_path(file) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise ResourceError(f"cannot write {file} ({error}); free space or choose another folder") from error


def best_checkpoint(run: Path) -> str | None:
    """The name of the best checkpoint of a run, if one was marked."""
    file = run / "checkpoints" / "best.json"
    return checkpoint.named_in(file) if file.is_file() else None


def mark_best(run: Path, step: int, score: float) -> None:
    """Name the checkpoint of `step` as the best."""
    record = {"checkpoint": step_name(step), "score": score}
    write_text(run / "checkpoints" / "best.json", json.dumps(record))


def remove_interrupted_writes(run: Path) -> None:
    """Delete what a killed writer of this run left; only for the one process that writes it."""
    for folder in (run, run / "checkpoints", run / "trainer"):
        remove_leftovers(folder)


def resumable_step(run: Path) -> int | None:
    """The newest step that has both a checkpoint and trainer state."""
    steps = sorted((run / "checkpoints").glob("step-*"), reverse=True)
    whole = [
        p for p in steps if (p / checkpoint.CONFIG_FILE).is_file() and (run / "trainer" / f"{p.name}.pt").is_file()
    ]
    return int(whole[0].name.removeprefix("step-")) if whole else None


def restore(loop: Loop, run: Path, step: int) -> None:
    """Put the loop where it was at `step`.

    Raises:
        CheckpointError: the trainer state is damaged or of another configuration.
    """
    name = step_name(step)
    file = run / "trainer" / f"{name}.pt"
    try:
        state = torch.load(file, map_location="cpu", weights_only=True)
    except (OSError, RuntimeError, EOFError, ValueError, pickle.UnpicklingError, zipfile.BadZipFile) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); delete it to go on from an earlier step") from error
    if not isinstance(state, dict) or state.get("step") != step:
        raise CheckpointError(f"{file} is not the trainer state of step {step}; delete it to go on from an earlier one")
    folder = run / "checkpoints" / name
    weights = state["model"] if "model" in state else checkpoint.load_state(folder)
    checkpoint.load_into(loop.task.model, weights, folder)
    load_companions(loop, folder)
    try:
        for key, optimizer in loop.optimizers.items():
            optimizer.load_state_dict(state["optimizers"][key])
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{file} is of another configuration ({error}); start afresh with --fresh") from error
    if loop.averages:
        loop.averages.values = {k: v.to(loop.device) for k, v in state["averages"]["values"].items()}
        loop.averages.steps = state["averages"]["steps"]
    loop.state.step = state["step"]
    loop.state.evaluations = state["evaluations"]
    loop.state.best_score, loop.state.best_step = state["best_score"], state["best_step"]
    loop.state.recent.sums, loop.state.recent.counts = state["recent"]["sums"], state["recent"]["counts"]


def load_companions(loop: Loop, folder: Path) -> list[str]:
    """Load the companions (discriminator) that a checkpoint has; returns the names of those it lacks."""
    absent = []
    for name, module in loop.task.companions.items():
        file = folder / "companions" / f"{name}.safetensors"
        if file.is_file():
            checkpoint.load_into(module, checkpoint.load_tensors(file), file)
        else:
            absent.append(name)
    return absent
