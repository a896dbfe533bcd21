"""The loop: what a step is, and how it stops."""

import json
import signal
import threading
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.utils.parametrizations import weight_norm

from voder import checkpoint
from voder.config import from_dict, to_dict
from voder.errors import CheckpointError, ConfigError, ResourceError, TrainingError
from voder.train import (
    Hook,
    LoopConfig,
    Loss,
    OptimizerConfig,
    ScheduleConfig,
    State,
    Task,
    TensorBatch,
    freeze_all_but,
)
from voder.train import loop as loop_module
from voder.train.loop import Loop
from voder.train.optim import clip
from voder.train.run import train
from voder.train.sharding import exact_parts, without_shared
from voder.train.state import restore, save
from voder.train.task import default_blocks

CPU = torch.device("cpu")


def quiet(text: str) -> None:
    """Say nothing."""


@pytest.fixture(autouse=True)
def _toys() -> None:
    toys.install()


@dataclass
class Numbers(TensorBatch):
    """Targets."""

    values: Tensor


class Mean(Task):
    """One weight moves towards the mean of numbers; everything about a step can be computed by hand."""

    numbers: tuple[tuple[float, ...], ...] = ((1.0, 2.0, 3.0), (6.0,))

    def __init__(self, *, scale: float = 1.0) -> None:
        super().__init__(nn.Linear(1, 1, bias=False), None, Path("nowhere"), seed=0)
        torch.nn.init.zeros_(self.model.weight)
        self.scale = scale

    def batch(self, step: int, rank: int, world: int) -> Numbers:
        return Numbers(values=torch.tensor(self.numbers[step % len(self.numbers)]))

    def losses(self, batch: Numbers, step: int) -> Iterator[tuple[str, Loss]]:
        error = self.model.weight[0, 0] - batch.values
        loss = 0.5 * error.square().mean() * self.scale
        yield "model", Loss(value=loss, weight=float(len(batch.values)), logs={"target": batch.values.mean()})

    def evaluate(self) -> dict[str, float]:
        return {"score": weight_of(self)}


def weight_of(task: Task) -> float:
    """The one weight."""
    return float(task.model.weight.detach())


def sgd(steps: int = 1, **changes: Any) -> LoopConfig:
    """Plain gradient descent at rate 1."""
    constant = ScheduleConfig(shape="constant", warmup_steps=0)
    optimizer = OptimizerConfig(name="sgd", learning_rate=1.0, betas=(0.0, 0.0))
    return LoopConfig(**{"steps": steps, "optimizer": optimizer, "schedule": constant, "max_grad_norm": 1e9} | changes)


def test_accumulated_losses_are_means_over_all_items() -> None:
    task = Mean()
    loop = Loop(task, sgd(accumulate=2), seed=0, device=CPU)
    loop.fit()
    assert weight_of(task) == pytest.approx(3.0)  # of 1, 2, 3, 6; the mean of the means were 4
    assert loop.state.logs["model/target"] == pytest.approx(3.0)
    assert loop.state.logs["model/loss"] == pytest.approx(0.5 * (1 + 4 + 9 + 36) / 4)


def test_gradients_are_scaled_down_to_the_norm() -> None:
    task = Mean()
    loop = Loop(task, sgd(accumulate=2, max_grad_norm=0.25), seed=0, device=CPU)
    loop.fit()
    assert weight_of(task) == pytest.approx(0.25, abs=1e-5)
    assert loop.state.logs["model/grad_norm"] == pytest.approx(3.0)


def test_a_phase_leaves_no_gradient_to_the_next(tmp_path: Path) -> None:
    config = toys.SYSTEMS["toygan"].preset("tiny")
    task = toys.ToyGanTask(toys.ToyGan(config.model), config.task, tmp_path, seed=0)
    Loop(task, replace(config.loop, steps=1), seed=0, device=CPU).fit()
    assert all(p.grad is None for module in task.optimised.values() for p in module.parameters())


def test_randomness_in_losses_depends_on_seed_and_step_alone() -> None:
    drawn: list[float] = []

    class Drawing(Mean):
        def losses(self, batch: Numbers, step: int) -> Iterator[tuple[str, Loss]]:
            drawn.append(float(torch.rand(())))
            yield from super().losses(batch, step)

    for noise in range(2):
        torch.manual_seed(noise)
        Loop(Drawing(), sgd(steps=3), seed=7, device=CPU).fit()
    assert drawn[:3] == drawn[3:]
    assert len(set(drawn)) == 3


@pytest.mark.parametrize(("scale", "what"), [(float("nan"), "the model"), (float("inf"), "the model")])
def test_a_loss_that_is_not_finite_stops_by_name(scale: float, what: str) -> None:
    with pytest.raises(TrainingError, match=rf"{what} is not finite at step 0 \(model/loss=.*learning_rate"):
        Loop(Mean(scale=scale), sgd(), seed=0, device=CPU).fit()


def test_a_gradient_that_is_not_finite_stops_by_name() -> None:
    class Root(Mean):
        def losses(self, batch: Numbers, step: int) -> Iterator[tuple[str, Loss]]:
            yield "model", Loss(value=self.model.weight.abs().sqrt().sum())

    with pytest.raises(TrainingError, match="the gradient of model is not finite at step 0"):
        Loop(Root(), sgd(), seed=0, device=CPU).fit()


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory"),
        MemoryError(),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory"),
    ],
)
def test_out_of_memory_names_the_batch_setting(error: Exception) -> None:
    class Greedy(Mean):
        batch_setting = "task.max_frames"

        def losses(self, batch: Numbers, step: int) -> Iterator[tuple[str, Loss]]:
            raise error
            yield

    with pytest.raises(ResourceError, match=r"out of memory at step 0: lower task\.max_frames"):
        Loop(Greedy(), sgd(), seed=0, device=CPU).fit()


def test_out_of_memory_in_an_evaluation_is_named_too_and_other_errors_are_not() -> None:
    for error, expected in ((MemoryError(), ResourceError), (RuntimeError("a shape"), RuntimeError)):

        class Judged(Mean):
            def evaluate(self, error: Exception = error) -> dict[str, float]:
                raise error

        with pytest.raises(expected):
            Loop(Judged(), sgd(), seed=0, device=CPU).evaluate()


def test_an_error_of_the_data_reaches_the_caller_and_the_thread_ends() -> None:
    class Broken(Mean):
        def batch(self, step: int, rank: int, world: int) -> Numbers:
            if step == 2:
                raise ConfigError("the third batch is bad")
            return super().batch(step, rank, world)

    before = threading.active_count()
    with pytest.raises(ConfigError, match="third batch"):
        Loop(Broken(), sgd(steps=9), seed=0, device=CPU).fit()
    assert threading.active_count() == before


def test_bf16_runs_under_autocast_and_weights_stay_fp32() -> None:
    seen: list[torch.dtype] = []

    class Watching(Mean):
        def losses(self, batch: Numbers, step: int) -> Iterator[tuple[str, Loss]]:
            seen.append((self.model(torch.ones(1, 1))).dtype)
            yield from super().losses(batch, step)

    for precision in ("fp32", "bf16"):
        task = Watching()
        Loop(task, sgd(precision=precision), seed=0, device=CPU).fit()
        assert task.model.weight.dtype == torch.float32
    assert seen == [torch.float32, torch.bfloat16]


def test_averages_serve_evaluation_and_raw_weights_training() -> None:
    task = Mean()
    loop = Loop(task, sgd(steps=2, accumulate=2, ema_decay=0.5), seed=0, device=CPU)
    loop.fit()
    assert weight_of(task) == pytest.approx(3.0)
    # two updates towards 3 from 0, the first with rate 10/11, the second with 10/12
    expected = 3 - 3 * (1 - 10 / 11) * (1 - 10 / 12)
    assert loop.evaluate()["score"] == pytest.approx(expected)
    assert weight_of(task) == pytest.approx(3.0)
    assert task.model.training


def test_a_second_interrupt_acts_at_once_unless_it_is_the_echo_of_the_first(monkeypatch: pytest.MonkeyPatch) -> None:
    before = signal.getsignal(signal.SIGINT)
    with loop_module._interrupts() as received:
        for number in (signal.SIGINT, signal.SIGINT, signal.SIGTERM):
            signal.raise_signal(number)
        assert received == [signal.SIGINT]
        monkeypatch.setattr(loop_module, "_ECHO_S", -1.0)
        with pytest.raises(KeyboardInterrupt):
            signal.raise_signal(signal.SIGINT)
    assert signal.getsignal(signal.SIGINT) is before


def test_hooks_see_every_step_and_the_end() -> None:
    seen: list[tuple[str, int]] = []

    class Watch(Hook):
        def on_start(self, state: State) -> None:
            seen.append(("start", state.step))

        def on_step(self, state: State) -> None:
            seen.append(("step", state.step))

        def on_end(self, state: State) -> None:
            seen.append((str(state.stop_reason), state.step))

    Loop(Mean(), sgd(steps=2), seed=0, device=CPU, hooks=[Watch()]).fit()
    assert seen == [("start", 0), ("step", 1), ("step", 2), ("end", 2)]


@pytest.mark.parametrize(
    "setting",
    [
        "steps",
        "accumulate",
        "log_every",
        "evaluate_every",
        "save_every",
        "keep",
        "max_grad_norm",
        "minutes",
        "ema_decay",
    ],
)
def test_senseless_lengths_are_refused_by_name(setting: str) -> None:
    values = {**to_dict(sgd()), setting: 0}
    with pytest.raises(ConfigError, match=rf"loop\.{setting} is 0"):
        from_dict(LoopConfig, values)


@pytest.mark.parametrize(
    ("change", "name"),
    [
        ({"loop__accumulate": 1}, "loop.accumulate"),
        ({"task__batch_size": 3}, "task.batch_size"),
        ({"model__width": 4}, "model.width"),
        ({"seed": 5}, "seed"),
    ],
)
def test_a_folder_with_another_run_is_refused_by_name(tmp_path: Path, change: dict[str, Any], name: str) -> None:
    train(toys.request("toylm", tmp_path / "run", loop__steps=2), say=quiet)
    before = (tmp_path / "run" / "config.yaml").read_text()
    with pytest.raises(ConfigError, match=rf"another {name};.*--fresh"):
        train(toys.request("toylm", tmp_path / "run", loop__steps=2, **change), say=quiet)
    assert (tmp_path / "run" / "config.yaml").read_text() == before


def test_lengths_of_a_run_may_change(tmp_path: Path) -> None:
    train(toys.request("toylm", tmp_path / "run", loop__minutes=1e-9), say=quiet)
    state = train(toys.request("toylm", tmp_path / "run", loop__minutes=5.0, loop__keep=1), say=quiet)
    assert state.stop_reason == "end"
    assert len(list((tmp_path / "run" / "trainer").iterdir())) == 1


def test_fresh_starts_over_and_touches_nothing_else(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toys.request("toylm", run, loop__steps=6), say=quiet)
    (run / "notes.txt").write_text("mine")
    told: list[str] = []
    train(toys.request("toylm", run, loop__steps=2, seed=3, fresh=True), say=told.append)
    assert (run / "notes.txt").read_text() == "mine"
    assert [p.name for p in (run / "checkpoints").glob("step-*")] == ["step-00000002"]
    assert json.loads((run / "run.json").read_text())["seed"] == 3
    assert "first row" in told[0]


def test_the_run_says_what_made_it(tmp_path: Path) -> None:
    run = tmp_path / "run"
    train(toys.request("toylm", run, loop__steps=2, seed=4, command="voder train toylm"), say=quiet)
    record = json.loads((run / "run.json").read_text())
    assert record["command"] == "voder train toylm"
    assert record["seed"] == 4
    assert set(record["versions"]) >= {"voder", "torch", "numpy"}
    provenance = json.loads((run / "checkpoints" / "step-00000002" / "config.json").read_text())["provenance"]
    assert provenance["step"] == 2
    assert provenance["seed"] == 4


def test_one_process_at_a_time_writes_a_run(tmp_path: Path) -> None:
    from voder.files import only_writer

    with only_writer(tmp_path / "run"), pytest.raises(ResourceError, match="being written by another process"):
        train(toys.request("toylm", tmp_path / "run"), say=quiet)


def test_fine_tuning_starts_from_the_weights_of_a_checkpoint(tmp_path: Path) -> None:
    train(toys.request("toygan", tmp_path / "first", loop__steps=2), say=quiet)
    train(
        toys.request("toygan", tmp_path / "second", start=tmp_path / "first", loop__steps=1, loop__max_grad_norm=1e-12),
        say=quiet,
    )
    name = "model.safetensors"
    first = load_file(tmp_path / "first" / "checkpoints" / "step-00000002" / name)
    second = load_file(tmp_path / "second" / "checkpoints" / "step-00000001" / name)
    for key, value in first.items():
        torch.testing.assert_close(second[key], value, rtol=0, atol=0.02)
    assert json.loads((tmp_path / "second" / "run.json").read_text())["start"]["identity"]


def test_fine_tuning_from_another_system_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    train(toys.request("toygan", tmp_path / "first", loop__steps=2), say=quiet)
    with pytest.raises(CheckpointError, match=r"is a toygan checkpoint; toylm is being trained"):
        train(toys.request("toylm", tmp_path / "second", start=tmp_path / "first"), say=quiet)
    assert not (tmp_path / "second").exists()


class Borrowing(Mean):
    """A base that a part holds, and one weight on top."""

    def __init__(self, base: Path) -> None:
        super().__init__()
        self.base = base
        self.model.base = nn.Linear(2, 2)
        self.model.base.load_state_dict(load_file(base / "model.safetensors"))
        freeze_all_but(self.model, ("weight",))

    def parts(self) -> dict[str, Path]:
        return {"base": self.base}

    def borrowed(self) -> dict[str, str]:
        return {f"base.{name}": f"base/{name}" for name in ("weight", "bias")}


@pytest.mark.parametrize("ema_decay", [None, 0.5])
def test_a_frozen_base_is_saved_once_and_comes_back(tmp_path: Path, ema_decay: float | None) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_file(nn.Linear(2, 2).state_dict(), base / "model.safetensors")
    loop = Loop(Borrowing(base), sgd(steps=2, ema_decay=ema_decay), seed=0, device=CPU)
    loop.fit()
    save(loop, tmp_path / "run", system="toy", model_config=toys.ToyConfig(), provenance={})
    folder = tmp_path / "run" / "checkpoints" / "step-00000002"
    assert set(load_file(folder / "model.safetensors")) == {"weight"}
    trainer = torch.load(tmp_path / "run" / "trainer" / "step-00000002.pt", weights_only=True)
    assert set(trainer.get("model", {"weight"})) == {"weight"}
    assert set(trainer.get("averages", {"values": {"weight"}})["values"]) == {"weight"}
    assert set(checkpoint.load_state(folder)) == {"weight", "base.weight", "base.bias"}
    task = Borrowing(base)
    again = Loop(task, sgd(steps=2, ema_decay=ema_decay), seed=0, device=CPU)
    nn.init.zeros_(task.model.base.weight)
    restore(again, tmp_path / "run", 2)
    assert weight_of(task) == weight_of(loop.task)
    assert torch.equal(task.model.base.weight, load_file(base / "model.safetensors")["weight"])


def test_blocks_are_the_entries_of_lists_unless_a_weight_is_shared_with_something_outside() -> None:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.embed = nn.Embedding(3, 3)
            self.layers = nn.ModuleList([nn.Sequential(nn.Linear(3, 3), nn.ReLU()), nn.ReLU(), nn.Linear(3, 3)])
            self.groups = nn.ModuleList([nn.ModuleList([nn.Linear(3, 3)])])
            self.heads = nn.ModuleList([nn.Linear(3, 3, bias=False)])
            self.heads[0].weight = self.embed.weight

    net = Net()
    found = default_blocks({"model": net, "part": net.layers[0]})
    assert default_blocks({"bundle": nn.ModuleList([net])}) == found
    assert found == [net.layers[0], net.layers[2], net.groups[0][0], net.heads[0]]
    assert without_shared(found, {"model": net}) == found[:3]


def test_clipping_scales_to_the_norm_over_all() -> None:
    grads = [torch.tensor([3.0]), torch.tensor([[4.0]])]
    assert clip(grads, 1.0, sharded=False) == pytest.approx(5.0)
    assert [float(g) for g in grads] == pytest.approx([0.6, 0.8])
    assert clip(grads, 9.0, sharded=False) == pytest.approx(1.0)
    assert [float(g) for g in grads] == pytest.approx([0.6, 0.8])


def test_norms_and_scales_in_a_block_stay_exact() -> None:
    block = nn.Sequential(nn.Linear(3, 3), nn.LayerNorm(3), weight_norm(nn.Conv1d(3, 3, 1)))
    assert exact_parts(block) == [block[2].parametrizations.weight, block[2], block[1]]
    block.scale = nn.Parameter(torch.ones(1))
    assert exact_parts(block)[-1] is block
    assert exact_parts(nn.Sequential(nn.Linear(3, 3), nn.Embedding(3, 3))) == []
