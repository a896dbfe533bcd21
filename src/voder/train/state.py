"""Saving and restoring a run: a checkpoint to load, and beside it the trainer state to go on from.

    RUN/checkpoints/step-00001000/   a loadable checkpoint (exported weights, companions, parts)
    RUN/trainer/step-00001000.pt     optimisers, raw weights where they differ, averages, evaluations
    RUN/checkpoints/best.json        the checkpoint with the lowest score

The trainer state is written first, so every checkpoint that exists can be resumed from.
"""

import json
import pickle
import zipfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from voder import checkpoint
from voder.errors import CheckpointError, ResourceError
from voder.files import (
    atomic_path,
    named_os_errors,
    remove_folder,
    remove_leftovers,
    write_text,
)
from voder.train.loop import Loop
from voder.train.pieces import like, together


def step_name(step: int) -> str:
    """The name of a step's checkpoint."""
    return f"step-{step:08d}"


def save(loop: Loop, run: Path, *, system: str, model_config: Any, provenance: dict[str, Any]) -> None:
    """Write the checkpoint and trainer state of the loop's current step: the main rank does, sharded ones lend it."""
    name = step_name(loop.state.step)
    if loop.world.is_main:
        for folder in (run / "checkpoints", run / "trainer"):
            with named_os_errors(folder):
                folder.mkdir(parents=True, exist_ok=True)
    _save_trainer(loop, run / "trainer" / f"{name}.pt")
    with loop.averaged_weights():
        _save_checkpoint(loop, run / "checkpoints" / name, system, model_config, provenance)


def prune(run: Path, keep: int) -> None:
    """Drop all but the newest `keep` checkpoints and the best."""
    best = best_checkpoint(run)
    names = sorted(path.name for path in (run / "checkpoints").glob("step-*"))
    for old in names[:-keep]:
        (run / "trainer" / f"{old}.pt").unlink(missing_ok=True)
        if old != best:
            remove_folder(run / "checkpoints" / old)


def _save_checkpoint(
    loop: Loop,
    folder: Path,
    system: str,
    model_config: Any,
    provenance: dict[str, Any],
) -> None:
    progress = {"step": loop.state.step, "evaluations": loop.state.evaluations[-1:]}
    state = together(loop.task.saved_state(), keep=loop.world.is_main)
    companions = {n: together(m.state_dict(), keep=loop.world.is_main) for n, m in loop.task.companions.items()}
    if not loop.world.is_main:
        return
    checkpoint.save(
        folder,
        system=system,
        config=model_config,
        state=state,
        parts=loop.task.parts(),
        provenance=provenance | progress,
        borrowed=loop.task.borrowed(),
        companions=companions,
    )


def _save_trainer(loop: Loop, file: Path) -> None:
    state: dict[str, Any] = {
        "step": loop.state.step,
        "evaluations": loop.state.evaluations,
        "best_score": loop.state.best_score,
        "best_step": loop.state.best_step,
        "recent": {"sums": loop.state.recent.sums, "counts": loop.state.recent.counts},
        "optimizers": {name: optimizer.state_dict() for name, optimizer in loop.optimizers.items()},
    }
    if loop.averages:
        state["model"] = loop.task.saved_state()
        state["averages"] = {"values": loop.averages.values, "steps": loop.averages.steps}
    state = together(state, keep=loop.world.is_main)
    if not loop.world.is_main:
        return
    with atomic_path(file) as temporary:
        try:
            torch.save(state, temporary)
        except RuntimeError as error:  # what torch makes of a full disk
            raise ResourceError(
                f"cannot write {file}: it was cut short, as by a full disk; free space or choose another folder with -o"
            ) from error


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
    for folder in (run, run / "checkpoints", run / "trainer", *run.glob("samples/*")):
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
    weights = state["model"] | checkpoint.load_borrowed(folder) if "model" in state else checkpoint.load_state(folder)
    _load_weights(loop.task.model, weights, folder)
    load_companions(loop, folder)
    try:
        for key, optimizer in loop.optimizers.items():
            optimizer.load_state_dict(_cut_moments(optimizer, state["optimizers"][key]))
    except (KeyError, ValueError, IndexError, AttributeError) as error:
        raise CheckpointError(f"{file} is of another configuration ({error}); start afresh with --fresh") from error
    if loop.averages:
        averages = state["averages"]["values"]
        loop.averages.values = {k: like(averages[k].to(loop.device), v) for k, v in loop.averages.values.items()}
        loop.averages.steps = state["averages"]["steps"]
    loop.state.step = state["step"]
    loop.state.evaluations = state["evaluations"]
    loop.state.best_score, loop.state.best_step = state["best_score"], state["best_step"]
    loop.state.recent.sums, loop.state.recent.counts = state["recent"]["sums"], state["recent"]["counts"]


def load_companions(loop: Loop, folder: Path) -> list[str]:
    """Load the companions (discriminator) that a checkpoint has; returns the names of those it lacks."""
    absent = []
    for name, module in loop.task.companions.items():
        file = folder / checkpoint.COMPANIONS / f"{name}.safetensors"
        if file.is_file():
            _load_weights(module, checkpoint.load_tensors(file), file)
        else:
            absent.append(name)
    return absent


def _load_weights(module: nn.Module, state: dict[str, Tensor], where: Path) -> None:
    """Load whole weights into a module, which may be sharded."""
    own = module.state_dict()
    fitting = {n: like(v, own[n]) if n in own and v.shape == own[n].shape else v for n, v in state.items()}
    checkpoint.load_into(module, fitting, where)


def _cut_moments(optimizer: torch.optim.Optimizer, state: dict[str, Any]) -> dict[str, Any]:
    """Cut whole moments as the parameters that they belong to are cut."""
    parameters = [p for group in optimizer.param_groups for p in group["params"]]
    moments = {
        index: {k: like(v, parameters[index]) if v.shape == parameters[index].shape else v for k, v in own.items()}
        for index, own in state["state"].items()
    }
    return {**state, "state": moments}
