"""Two systems that train in a moment, for tests of the engine: a language model and a GAN.

As a script it runs scenarios, each in a process of its own, and kills some of them where they say:

    python toys.py '[{"system": "toylm", "output": "a", "kill": {"function": "os.replace", "call": 3}}, …]'

It prints one exit status per scenario and process. Processes are forked, so torch is imported once.
"""

import importlib
import json
import os
import signal
import socket
import subprocess
import sys
import traceback
from collections.abc import Iterator
from contextlib import suppress
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
from voder import hub
from voder.data.randomness import generator
from voder.train import LoopConfig, Loss, OptimizerConfig, ScheduleConfig, Task, TensorBatch
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
    interrupt_at: int = -1
    """Send Ctrl-C to oneself within this step."""


@dataclass
class Rows(TensorBatch):
    """Token rows and how many of each count."""

    tokens: Tensor
    lengths: Tensor


@dataclass
class Points(TensorBatch):
    """What the GAN imitates."""

    points: Tensor


class ToyLm(nn.Module):
    """Predicts the next token of a row from this one."""

    def __init__(self, config: ToyConfig) -> None:
        super().__init__()
        self.table = nn.Embedding(VOCABULARY, config.width)
        self.hidden = nn.Linear(config.width, config.width)
        self.out = nn.Linear(config.width, VOCABULARY)
        self.rare = nn.Parameter(torch.zeros(config.width))  # used by batches that hold a row beginning with 0
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, tokens: Tensor) -> Tensor:
        x = self.table(tokens)
        if bool((tokens[:, 0] == 0).any()):
            x = x + self.rare * (tokens[:, :1] == 0)[..., None]
        return self.out(self.dropout(F.gelu(self.hidden(x))))


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

    def forward(self, noise: Tensor) -> Tensor:
        return self.net(noise)


class ToyGanTask(ToyTask):
    """Points on a circle; losses draw noise and drop units, so they lean on the loop's seeding."""

    def __init__(self, model: nn.Module, config: ToyTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.judge = nn.Sequential(nn.Linear(2, 8), nn.ReLU(), nn.Dropout(0.2), nn.Linear(8, 1))

    @property
    def optimised(self) -> dict[str, nn.Module]:
        return {"discriminator": self.judge, "generator": self.model}

    @property
    def companions(self) -> dict[str, nn.Module]:
        return {"discriminator": self.judge}

    def batch(self, step: int, rank: int, world: int) -> Points:
        angles = generator(self.seed, "angles", step).uniform(0, 6.28, self.config.batch_size)[rank::world]
        return Points(points=torch.from_numpy(np.stack([np.cos(angles), np.sin(angles)], 1).astype(np.float32)))

    def losses(self, batch: Points, step: int) -> Iterator[tuple[str, Loss]]:
        self.interrupt(step)
        fake = self.model(torch.randn(len(batch.points), 4))
        real, false = self.judge(batch.points), self.judge(fake.detach())
        yield "discriminator", Loss(value=F.softplus(-real).mean() + F.softplus(false).mean())
        yield "generator", Loss(value=F.softplus(-self.judge(fake)).mean(), logs={"radius": fake.norm(dim=1).mean()})

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
    config = SYSTEMS[name].preset("tiny")
    dotted = {key: changes.pop(key) for key in list(changes) if "__" in key}
    for key, value in dotted.items():
        part, _, field = key.partition("__")
        config = replace(config, **{part: replace(getattr(config, part), **{field: value})})
    return RunRequest(system=name, config=config, data=Path("nowhere"), output=output, device="cpu", **changes)


def kill_at(function: str, call: int, when: str = "before") -> None:
    """Arrange for SIGKILL before or after the `call`-th call of a function, `module:name` or `module:class.name`."""
    module_name, _, path = function.partition(":")
    owner: Any = importlib.import_module(module_name)
    *outer, name = path.split(".")
    for each in outer:
        owner = getattr(owner, each)
    original, calls = getattr(owner, name), [0]

    def counted(*args: Any, **kwargs: Any) -> Any:
        calls[0] += 1
        if calls[0] == call and when == "before":
            os.kill(os.getpid(), signal.SIGKILL)
        result = original(*args, **kwargs)
        if calls[0] == call:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    setattr(owner, name, counted)


def _child(scenario: dict[str, Any]) -> None:
    torch.set_num_threads(1)
    if "kill" in scenario:
        kill_at(**scenario.pop("kill"))
    output = Path(scenario.pop("output"))
    train(request(scenario.pop("system"), output, **scenario), say=lambda text: None)


def _free_port() -> int:
    """A port below those that the kernel lends, so that nobody takes it between this look and its use."""
    for port in range(10_000 + os.getpid() % 20_000, 32_000):
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port
    raise OSError("no free port")


def run_scenarios(scenarios: list[dict[str, Any]]) -> list[list[int]]:
    """Run scenarios one after another; the statuses of their processes (negative: the signal that killed it)."""
    for slow in ("torch.utils.tensorboard", "torch._dynamo", "rich.console"):  # so that the forked processes have them
        importlib.import_module(slow)

    statuses = []
    for scenario in scenarios:
        world = scenario.pop("world", 1)
        port = _free_port()
        children = []
        for rank in range(world):
            if (child := os.fork()) == 0:
                status = 1
                try:
                    os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(world), "LOCAL_RANK": str(rank)}
                    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
                    _child(dict(scenario))
                    status = 0
                except BaseException:
                    traceback.print_exc()
                finally:
                    sys.stderr.flush()
                    os._exit(status)
            children.append(child)
        statuses.append([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children])
    return statuses


def in_processes(scenarios: list[dict[str, Any]], folder: Path) -> list[list[int]]:
    """Run scenarios from a fresh interpreter, their outputs under `folder`."""
    done = subprocess.run(
        [sys.executable, "-W", "error", __file__, json.dumps(scenarios)],
        cwd=folder,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    assert done.returncode == 0, done.stderr
    sys.stderr.write(done.stderr)  # shown by pytest beside a status that was not expected
    return json.loads(done.stdout)


if __name__ == "__main__":
    install()
    sys.stdout.write(json.dumps(run_scenarios(json.loads(sys.argv[1]))))
