"""A run folder: made once, resumed by the same command, and able to say what made it.

RUN/config.yaml       the resolved configuration
RUN/run.json          system, seed, command, versions, git commit, hashes and licences of the data
RUN/metrics.jsonl     the log; RUN/tensorboard/ the same
RUN/samples/          what the task wrote to listen to
RUN/checkpoints/, RUN/trainer/   see voder.train.state
"""

import json
import platform
import shutil
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from types import FrameType
from typing import Any

import torch

from voder import checkpoint, hub
from voder.config import from_dict, read_yaml, to_dict, to_yaml
from voder.data.randomness import fold
from voder.devices import check_precision, resolve_device
from voder.errors import CheckpointError, ConfigError
from voder.files import named_os_errors, only_writer, write_text
from voder.train import distributed
from voder.train.hooks import JsonLines, Keeper, Progress, TensorBoard
from voder.train.loop import Loop, State
from voder.train.state import load_companions, remove_interrupted_writes, restore, resumable_step
from voder.train.task import Task


@dataclass(frozen=True, kw_only=True)
class RunRequest:
    """What `voder train` was asked for."""

    system: str
    config: Any
    """The resolved run configuration (model, task, loop)."""
    data: Path
    output: Path
    seed: int = 0
    device: str = "auto"
    start: Path | None = None
    """Checkpoint to fine-tune from."""
    fresh: bool = False
    """Delete what an earlier run left in `output`."""
    command: str = ""


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)  # noqa: T201


def train(request: RunRequest, *, say: Callable[[str], None] = _say) -> State:
    """Run or resume a training run.

    Raises:
        ConfigError: the run folder holds a run with other settings.
        CheckpointError: the start checkpoint is of another system or does not fit.
        ResourceError: the device is absent.
    """
    device = distributed.local_device(resolve_device(request.device))
    check_precision(device, request.config.loop.precision)
    with named_os_errors(request.output):
        existed = request.output.exists()
    world = distributed.join(device)
    try:
        with _terminated_like_interrupted(), distributed.named_losses_of_others(world):
            return _train_in(world, request, device, say)
    finally:
        distributed.leave()
        if not existed and world.is_main:
            with suppress(OSError):  # refused before anything was written: leave no empty folder
                request.output.rmdir()


def _train_in(world: distributed.World, request: RunRequest, device: torch.device, say: Callable[[str], None]) -> State:
    # one process at a time writes a run folder; the main rank stands for all
    with only_writer(request.output) if world.is_main else nullcontext():
        if world.is_main:
            if request.fresh:
                _remove_run(request.output)
            remove_interrupted_writes(request.output)  # before the others look: never a file being written
        distributed.barrier(world)
        loop, model_config, provenance = _prepare(request, device, world, say)
        loop.hooks = _hooks(request, loop, model_config, provenance, say)
        return _run(request, loop, say if world.is_main else lambda _: None)


@contextmanager
def _terminated_like_interrupted() -> Iterator[None]:
    """SIGTERM, which clusters send, ends what is outside the loop as Ctrl-C does: a sentence, nothing half-written."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    ours = threading.current_thread() is threading.main_thread() and signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    if ours:
        signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        if ours:
            signal.signal(signal.SIGTERM, signal.SIG_DFL)


RUN_NAMES = ("config.yaml", "run.json", "metrics.jsonl", "tensorboard", "samples", "checkpoints", "trainer")
"""What a run leaves in its folder, and all that --fresh deletes."""


def _remove_run(folder: Path) -> None:
    with named_os_errors(folder):
        for path in (folder / name for name in RUN_NAMES):
            if path.is_dir():
                shutil.rmtree(path)
            else:
                path.unlink(missing_ok=True)


def _prepare(
    request: RunRequest, device: torch.device, world: distributed.World, say: Callable[[str], None]
) -> tuple[Loop, Any, dict[str, Any]]:
    """Build model, task and loop; load what they start from; write the run's description."""
    system = hub.find(request.system)
    task_class: type[Task] = system.task()
    start = hub.locate(request.start) if request.start else None
    start_config = _start_config(system, start)
    model_config = task_class.fit_config(request.config.model, request.config.task, request.data, start_config)
    torch.manual_seed(fold(request.seed, "weights"))
    model = system.build(model_config)
    if start:
        state = task_class.adapt_state(checkpoint.load_state(start), start_config, model_config)
        checkpoint.load_into(model, state, start)
    model.train()
    if not request.config.loop.cuts(world):
        model.to(device)
    task = task_class(model, request.config.task, request.data, seed=request.seed)
    loop = Loop(task, request.config.loop, seed=request.seed, device=device, world=world)
    if start and (absent := load_companions(loop, checkpoint.resolve(start))):
        say(f"{start} has no {', '.join(absent)}: starting with fresh ones")
    provenance = _provenance(request, task, device, start)
    resolved = type(request.config)(model=model_config, task=request.config.task, loop=request.config.loop)
    if world.is_main:
        _write_description(request, resolved, provenance)
    distributed.barrier(world)
    return loop, model_config, provenance


def _run(request: RunRequest, loop: Loop, say: Callable[[str], None]) -> State:
    step = resumable_step(request.output)
    if step is not None:
        restore(loop, request.output, step)
        say(f"going on at step {step} of {loop.config.steps} in {request.output}")
    else:
        say(_first_batch(loop))
    state = loop.fit()
    if state.stop_reason != "end":
        say(f"stopped at step {state.step} ({state.stop_reason}); saved: run the same command to go on")
    return state


def _first_batch(loop: Loop) -> str:
    """What the model is and what it will see first: the check that catches most data mistakes."""
    parameters = sum(p.numel() for p in loop.task.model.parameters() if p.requires_grad)
    batch = loop.task.batch(0, loop.world.rank, loop.world.size)
    with loop.gathered_weights(), loop.gathered_precision():
        described = loop.task.describe(batch)
    return f"{parameters:,} parameters to train on {loop.device}\n{described}"


def _hooks(
    request: RunRequest, loop: Loop, model_config: Any, provenance: dict[str, Any], say: Callable[[str], None]
) -> list[Any]:
    every = request.config.loop.log_every
    keeper = Keeper(
        lambda: loop,
        request.output,
        system=request.system,
        model_config=model_config,
        provenance=provenance,
        warn=lambda text: say(f"warning: {text}"),
    )
    if not loop.world.is_main:
        return [keeper] if loop.sharding else []
    return [
        JsonLines(request.output / "metrics.jsonl", every),
        TensorBoard(request.output / "tensorboard", every),
        Progress(request.system),
        keeper,
    ]


def _start_config(system: hub.System, start: Path | None) -> Any | None:
    if start is None:
        return None
    found = checkpoint.read(start)
    if found.system != system.name:
        raise CheckpointError(f"--from {start} is a {found.system} checkpoint; {system.name} is being trained")
    return from_dict(system.model_config, found.config, where=str(found.folder / checkpoint.CONFIG_FILE))


def _write_description(request: RunRequest, resolved: Any, provenance: Mapping[str, Any]) -> None:
    """Write config.yaml and run.json, or check that they are those of this very run."""
    output = request.output
    with named_os_errors(output):
        output.mkdir(parents=True, exist_ok=True)
    described = output / "config.yaml"
    if described.is_file():
        _refuse_other_run(read_yaml(described), to_dict(resolved), output)
        _refuse_other_origin(output, provenance)
        return
    if any(output.glob("checkpoints/*")):
        raise ConfigError(f"{output} has checkpoints but no config.yaml; choose another folder with -o, or --fresh")
    write_text(output / "run.json", json.dumps(provenance, indent=1, ensure_ascii=False))
    write_text(described, to_yaml(resolved))


LENGTHS_OF_RUN = ("loop.minutes", "loop.log_every", "loop.keep", "loop.sharding")
"""Settings that may differ when a run is resumed: they change no weight."""


ORIGIN = ("system", "seed", "start", "data", "tokenizer")
"""What else decides a run's weights, by its name in run.json."""


def _refuse_other_origin(output: Path, provenance: Mapping[str, Any]) -> None:
    file = output / "run.json"
    try:
        before = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise ConfigError(f"{file} cannot be read ({error}); choose another folder with -o, or --fresh") from error
    now = json.loads(json.dumps(provenance))
    _refuse_other_run({n: before.get(n) for n in ORIGIN}, {n: now.get(n) for n in ORIGIN}, output)


def _refuse_other_run(before: Any, now: Any, output: Path) -> None:
    different = [n for n in _differences(before, now, "") if n not in LENGTHS_OF_RUN]
    if different:
        raise ConfigError(
            f"{output} holds a run with another {', '.join(different[:5])}; give the same settings to go on, "
            "another folder with -o, or --fresh to start over"
        )


def _differences(before: Any, now: Any, path: str) -> list[str]:
    if isinstance(before, dict) and isinstance(now, dict):
        names = [*now, *(name for name in before if name not in now)]
        return [d for n in names for d in _differences(before.get(n), now.get(n), f"{path}.{n}" if path else n)]
    return [] if before == now else [path]


def _provenance(request: RunRequest, task: Task, device: torch.device, start: Path | None) -> dict[str, Any]:
    return {
        "system": request.system,
        "seed": request.seed,
        "command": request.command,
        "device": str(device),
        "threads": torch.get_num_threads(),
        "start": {"name": str(request.start), "identity": checkpoint.identity(start)} if start else None,
        "versions": {name: version(name) for name in ("voder", "torch", "numpy", "transformers")},
        "python": platform.python_version(),
        "git_commit": _git_commit(),
        **task.provenance(),
    }


def _git_commit() -> str | None:
    """The commit of the source tree that voder runs from, when there is one."""
    root = Path(__file__).resolve().parents[3]
    if not (root / ".git").exists():
        return None
    done = subprocess.run(["git", "-C", str(root), "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip() if done.returncode == 0 else None
