"""Two systems that train in a moment, for tests of the engine: a language model and a GAN.

As a script it runs scenarios, each in a process of its own, and kills some of them where they say:

    python toys.py '[{"system": "toylm", "output": "a", "events": [{"function": "os:replace", "call": 3}]}, …]'

It prints one exit status per scenario and process. Processes are forked, so torch is imported once.
"""

import errno
import fcntl
import importlib
import json
import os
import re
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from importlib.machinery import ModuleSpec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

import voder.systems
from voder import exits, hub
from voder.data.randomness import generator
from voder.errors import VoderError
from voder.train import LoopConfig, Loss, OptimizerConfig, ScheduleConfig, State, Task, TensorBatch, freeze_all_but
from voder.train.loop import Loop
from voder.train.pieces import local
from voder.train.run import RunRequest, train

VOCABULARY = 11


@dataclass(frozen=True, kw_only=True)
class ToyConfig:
    """Both models."""

    width: int = 8
    dropout: float = 0.25


@dataclass(frozen=True, kw_only=True)
class ToyTaskConfig:
    """Both tasks."""

    batch_size: int = 6
    frozen: bool = False
    """Train all but the first layer of the language model."""
    nan_at: int = -1
    """Make the loss of this step not a number."""
    interrupt_at: int = -1
    """Send Ctrl-C to oneself within this step."""


@dataclass
class Rows(TensorBatch):
    """Token rows and how many of each count."""

    tokens: Tensor
    lengths: Tensor


@dataclass
class Points(TensorBatch):
    """What the GAN imitates, and what it starts from."""

    points: Tensor
    noise: Tensor


class ToyLm(nn.Module):
    """Predicts the next token of a row from this one."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, config.width)
        layers = (nn.Sequential(nn.LayerNorm(config.width), nn.Linear(config.width, config.width)) for _ in range(2))
        self.layers = nn.ModuleList(layers)
        self.out = nn.Linear(config.width, VOCABULARY)
        self.rare = nn.Parameter(torch.zeros(config.width))  # used by batches that hold a row beginning with 0
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        if bool((tokens[:, 0] == 0).any()):
            x = x + self.rare * (tokens[:, :1] == 0)[..., None]
        for layer in self.layers:
            x = x + F.gelu(layer(x))
        return self.out(self.dropout(x))


class ToyTask(Task):
    """What both share."""

    interrupted = False

    def interrupt(self, step: int) -> None:
        """Press Ctrl-C, once, where the settings say so."""
        if step == self.config.interrupt_at and not self.interrupted:
            self.interrupted = True
            os.kill(os.getpid(), signal.SIGINT)


class ToyLmTask(ToyTask):
    """Rows of a small Markov chain."""

    def __init__(self, model: nn.Module, config: ToyTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        if config.frozen:
            freeze_all_but(model, ("table", "layers.1", "out", "rare"))

    def batch(self, step: int, rank: int, world: int) -> Rows:
        rng = generator(self.seed, "rows", step)
        tokens = rng.integers(0, VOCABULARY, (self.config.batch_size, 9))
        tokens[:, 1:] = (tokens[:, :1] + 3 * np.arange(1, 9)) % VOCABULARY
        lengths = rng.integers(3, 10, self.config.batch_size)
        return Rows(tokens=torch.from_numpy(tokens[rank::world]), lengths=torch.from_numpy(lengths[rank::world]))

    def losses(self, batch: Rows, step: int) -> Iterator[tuple[str, Loss]]:
        self.interrupt(step)
        logits = self.model(batch.tokens[:, :-1])
        counted = torch.arange(8)[None] < batch.lengths[:, None] - 1
        value = F.cross_entropy(logits[counted], batch.tokens[:, 1:][counted])
        if step == self.config.nan_at:
            value = value * float("nan")
        yield "model", Loss(value=value, weight=float(counted.sum()), logs={"rows": float(len(batch.tokens))})

    def evaluate(self) -> dict[str, float]:
        batch = self.batch(10**6, 0, 1)
        logits = self.model(batch.tokens[:, :-1])
        return {"score": F.cross_entropy(logits.flatten(0, 1), batch.tokens[:, 1:].flatten())}

    def samples(self, folder: Path) -> None:
        (folder / "rows.txt").write_text(str(self.batch(0, 0, 1).tokens.tolist()))

    def describe(self, batch: Rows) -> str:
        return f"first row {batch.tokens[0].tolist()}, {int(batch.lengths[0]) - 1} carry loss"


class ToyGan(nn.Module):
    """Makes points from noise."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.net = nn.Sequential(nn.Linear(4, config.width), nn.ReLU(), nn.Linear(config.width, 2))
        self.dropout = config.dropout

    def forward(self, noise: Tensor) -> Tensor:
        return self.net(noise)


class ToyGanTask(ToyTask):
    """Points on a circle; losses drop units, so they lean on the loop's seeding."""

    def __init__(self, model: nn.Module, config: ToyTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.judge = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(model.dropout), nn.Linear(8, 1))

    @property
    def optimised(self) -> dict[str, nn.Module]:
        return {"discriminator": self.judge, "generator": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        return {"discriminator": self.judge}

    def batch(self, step: int, rank: int, world: int) -> Points:
        rng = generator(self.seed, "angles", step)
        angles = rng.uniform(0, 6.28, self.config.batch_size)[rank::world]
        points = np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)
        noise = rng.standard_normal((self.config.batch_size, 4), dtype=np.float32)[rank::world]
        return Points(points=torch.from_numpy(points), noise=torch.from_numpy(noise))

    def losses(self, batch: Points, step: int) -> Iterator[tuple[str, Loss]]:
        self.interrupt(step)
        fake = self.model(batch.noise)
        real, false = self.judge(batch.points), self.judge(fake.detach())
        weight = float(len(batch.points))
        yield "discriminator", Loss(value=F.softplus(-real).mean() + F.softplus(false).mean(), weight=weight)
        value, radius = F.softplus(-self.judge(fake)).mean(), fake.norm(dim=1).mean()
        yield "generator", Loss(value=value, weight=weight, logs={"radius": radius})

    def evaluate(self) -> dict[str, float]:
        return {"score": float(self.model(torch.randn(64, 4)).norm(dim=1).sub(1).abs().mean())}


def tiny() -> hub.Preset:
    """Twelve steps with everything that must survive a stop: accumulation, dropout, averages, a schedule."""
    loop = LoopConfig(
        steps=12,
        accumulate=2,
        optimizer=OptimizerConfig(learning_rate=0.02, weight_decay=0.1),
        schedule=ScheduleConfig(warmup_steps=3),
        ema_decay=0.9,
        log_every=5,
        evaluate_every=6,
        save_every=4,
        keep=2,
    )
    return hub.Preset(model=ToyConfig(), task=ToyTaskConfig(), loop=loop)


def gan_tiny() -> hub.Preset:
    """The same without averages, so that the checkpoint's weights are the raw ones."""
    preset = tiny()
    return replace(preset, loop=replace(preset.loop, ema_decay=None))


def system(name: str, build: type, task: type, preset: Any) -> hub.System:
    """A toy system."""
    return hub.System(
        name=name,
        model_config=ToyConfig,
        build=build,
        task_config=ToyTaskConfig,
        task=lambda: task,
        presets={"tiny": preset},
        default_preset="tiny",
        roles=(),
    )


SYSTEMS = {
    "toylm": system("toylm", ToyLm, ToyLmTask, tiny),
    "toygan": system("toygan", ToyGan, ToyGanTask, gan_tiny),
}


def install() -> None:
    """Make the toys systems of voder in this process."""
    for name, toy in SYSTEMS.items():
        module = ModuleType(f"voder.systems.{name}")
        module.SYSTEM, module.__path__ = toy, []  # type: ignore[attr-defined]
        module.__spec__ = ModuleSpec(module.__name__, None, is_package=True)
        sys.modules[module.__name__] = module
        voder.systems.SYSTEMS[name] = "a toy"


def request(name: str, output: Path, **changes: Any) -> RunRequest:
    """What `voder train NAME -o OUTPUT` asks for; `changes` are fields of the request or dotted settings."""
    config = (SYSTEMS.get(name) or hub.find(name)).preset("tiny")
    data = Path(changes.pop("data", "nowhere"))
    dotted = {key: changes.pop(key) for key in list(changes) if "__" in key}
    for key, value in dotted.items():
        part, _, field = key.partition("__")
        config = replace(config, **{part: replace(getattr(config, part), **{field: value})})
    return RunRequest(system=name, config=config, data=data, output=output, device="cpu", **changes)


def result(run: Path) -> dict[str, Any]:
    """All that must be equal of two runs: names and bytes of the checkpoints, the log, names of the rest."""
    files: dict[str, Any] = {}
    for path in sorted(p for p in (run / "checkpoints").rglob("*") if p.is_file()):
        files[str(path.relative_to(run))] = path.read_bytes()
        if path.name == "config.json":  # the source tree may be at another commit by the time a run goes on
            files[str(path.relative_to(run))] = re.sub(rb'"git_commit": ".*"', b"", path.read_bytes())
    files["metrics"] = (run / "metrics.jsonl").read_text()
    files["samples"] = sorted(str(p.relative_to(run)) for p in (run / "samples").rglob("*"))
    files["trainer"] = sorted(p.name for p in (run / "trainer").iterdir())
    return files


def same_state(first: Any, second: Any) -> bool:
    """Compare nested trainer state, tensors bit for bit."""
    if isinstance(first, Tensor):
        return torch.equal(first, second)
    if isinstance(first, dict):
        return first.keys() == second.keys() and all(same_state(first[k], second[k]) for k in first)
    if isinstance(first, list | tuple):
        return len(first) == len(second) and all(map(same_state, first, second))
    return bool(first == second)


def differences(first: Path, second: Path) -> list[str]:
    """What differs between two runs that should have ended in the same state."""
    expected, got = result(first), result(second)
    names = sorted(expected.keys() ^ got.keys()) or [name for name in expected if expected[name] != got[name]]
    trainer = [torch.load(run / "trainer" / expected["trainer"][-1], weights_only=True) for run in (first, second)]
    return names if same_state(*trainer) else [*names, "trainer state"]


def happen_at(function: str, call: int, when: str = "before", what: str = "SIGKILL", pause_s: float = 0.0) -> None:
    """Arrange for a signal, or a full disk (ENOSPC), before or after the `call`-th call of a function, and a pause.

    A function is `module:name` or `module:class.name`.
    """
    module_name, _, path = function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    original, calls = getattr(owner, name), [0]

    def happen() -> None:
        time.sleep(pause_s)
        if what == "ENOSPC":
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        os.kill(os.getpid(), getattr(signal, what))

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and when == "before":
            happen()
        result = original(*args, **kwargs)
        if calls[0] == call and when == "after":
            happen()
        return result

    setattr(owner, name, counted)


def measure_bytes(output: Path) -> None:
    """Arrange for every rank to write down what it holds when its run ends: bytes of each tensor, whole and here."""

    def measured(loop: Loop) -> State:
        state = fit(loop)
        held = {f"{n}.weight": p for name, m in loop.task.optimised.items() for n, p in m.named_parameters(name)}
        held |= {f"{n}.average": v for n, v in (loop.averages.values if loop.averages else {}).items()}
        for name, optimizer in loop.optimizers.items():
            for number, own in enumerate(optimizer.state.values()):
                held |= {f"{name}.{number}.{k}": v for k, v in own.items() if v.ndim}
        sizes = {name: (value.nbytes, local(value.detach()).nbytes) for name, value in held.items()}
        (output / f"bytes-{loop.world.rank}.json").write_text(json.dumps(sizes))
        return state

    fit, Loop.fit = Loop.fit, measured  # type: ignore[method-assign]


def play_ranks(system: str, ranks: int) -> None:
    """Let one process take the batches of several ranks as its micro-batches, for tasks that draw them per rank."""
    task: Any = hub.find(system).task()
    batch = task.batch
    task.batch = lambda self, step, rank, world: batch(self, step // ranks, step % ranks, ranks)


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _child(scenario: dict[str, Any]) -> int:
    """Do what a scenario says, and end as the command line ends; the exit code."""
    torch.set_num_threads(1)
    if "said" in scenario:
        said = os.open(f"{scenario.pop('said')}-{os.environ['RANK']}", os.O_WRONLY | os.O_CREAT, 0o644)
        os.dup2(said, sys.stderr.fileno())
    if "largest_file" in scenario:
        largest = scenario.pop("largest_file")
        resource.setrlimit(resource.RLIMIT_FSIZE, (largest, resource.RLIM_INFINITY))
    if scenario.pop("as_nobody", False) and os.getuid() == 0:  # whom no permission bit binds
        os.setuid(65534)
    if scenario.pop("measure", False):
        measure_bytes(Path(scenario["output"]))
    if "ranks" in scenario:
        play_ranks(scenario["system"], scenario.pop("ranks"))
    at = scenario.pop("at_rank", None)
    for event in scenario.pop("events", ()):
        if at is None or os.environ["RANK"] == str(at):
            happen_at(**event)
    output = Path(scenario.pop("output"))
    try:
        state = train(request(scenario.pop("system"), output, **scenario), say=_say)
    except VoderError as error:
        _say(f"voder: {error}")
        return exits.USER
    except KeyboardInterrupt:
        _say("voder: interrupted")
        return exits.INTERRUPTED
    return exits.INTERRUPTED if state.stop_reason == "interrupted" else 0


@contextmanager
def _free_port() -> Iterator[int]:
    """A port below those that the kernel lends, kept from other tests that run beside this one, while it is used."""
    for port in range(10_000 + os.getpid() % 20_000, 32_000):
        with _lock(f"voder-test-port-{port}") as is_ours:
            if is_ours and _is_free(port):
                yield port
                return
    raise OSError("no free port")


@contextmanager
def _lock(name: str) -> Iterator[bool]:
    """Hold a name of this machine; False when another process does."""
    path = Path(tempfile.gettempdir(), name)
    with open(path, "w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            yield False
            return
        try:
            yield True
        finally:
            path.unlink(missing_ok=True)


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)  # as the store does that will listen there
        return probe.connect_ex(("127.0.0.1", port)) != 0


def run_scenarios(scenarios: list[dict[str, Any]]) -> list[list[int]]:
    """Run scenarios one after another; the statuses of their processes (negative: the signal that killed it)."""
    slow = ["torch.utils.tensorboard", "torch._dynamo", "rich.console"]
    if any(scenario.get("loop__sharding") == "full" for scenario in scenarios):
        slow.append("voder.train.sharding")
    for name in slow:  # so that the forked processes have them
        importlib.import_module(name)

    return [_run_scenario(dict(scenario)) for scenario in scenarios]


def _run_scenario(scenario: dict[str, Any]) -> list[int]:
    world = scenario.pop("world", 1)
    if "begun" in scenario:  # by another scenario
        if Path(scenario["begun"]).exists():
            shutil.copytree(scenario["begun"], scenario["output"])
        del scenario["begun"]
    if "change" in scenario:  # a setting of the test's own that the run began with
        described = Path(scenario["output"], "config.yaml")
        described.write_text(described.read_text().replace(*scenario.pop("change")))
    with _free_port() as port:
        children = []
        for rank in range(world):
            if (child := os.fork()) == 0:
                status = 1
                try:
                    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                    status = _child(dict(scenario))
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        return [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]


def in_processes(scenarios: list[dict[str, Any]], folder: Path) -> list[list[int]]:
    """Run scenarios from a fresh interpreter, their outputs under `folder`; what they said is in `folder/said`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, json.dumps(scenarios)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    (folder / "said").write_text(done.stderr)
    sys.stderr.write(done.stderr)  # shown by pytest beside a status that was not expected
    return json.loads(done.stdout)


if __name__ == "__main__":
    install()
    sys.stdout.write(json.dumps(run_scenarios(json.loads(sys.argv[1]))))
