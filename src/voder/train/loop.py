"""The training loop: one for GANs, language models, recognisers and alignment stages alike.

A step is: for every phase that the Task yields, backward over all micro-batches, sum over ranks, divide by what
the losses are means of, clip, step. Everything random is a function of (seed, step, rank), so a run that was stopped
anywhere and resumed has the same losses and weights, bit for bit on the CPU. Several processes take shares of a global
batch, with whole parameters on each or a piece of every one (`loop.sharding`); their steps are those of one process.
"""

import math
import signal
import time
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from types import FrameType
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from voder.data.loader import Prefetcher
from voder.data.randomness import fold
from voder.devices import autocast
from voder.errors import ResourceError, TrainingError
from voder.train.distributed import World, broadcast_flag, share_gradients, sum_in_place
from voder.train.means import Means
from voder.train.optim import Averages, OptimizerConfig, ScheduleConfig, clip, gradients, set_learning_rate
from voder.train.task import Loss, Task

if TYPE_CHECKING:
    from voder.train.sharding import Sharding


@dataclass(frozen=True, kw_only=True)
class LoopConfig:
    """How long, how fast, how often."""

    steps: int
    """Optimiser steps of the whole run; the schedule is laid over them."""
    minutes: float | None = None
    """Stop earlier when this much time has passed in one go (the run can be resumed)."""
    accumulate: int = 1
    """Micro-batches per step."""
    max_grad_norm: float = 1.0
    """Gradients are scaled down to this norm, per phase."""
    optimizer: OptimizerConfig = field(default_factory=OptimizerConfig)
    """One optimiser of this kind per phase."""
    schedule: ScheduleConfig = field(default_factory=ScheduleConfig)
    """The learning rate over the steps."""
    precision: Literal["fp32", "bf16"] = "fp32"
    """bf16 runs the networks under autocast; quantisers and spectra stay in fp32."""
    sharding: Literal["none", "full"] = "none"
    """With several processes: `none` keeps all parameters on each, `full` (FSDP2) a piece of every parameter, gradient
    and moment, for models that are too large for one. The weights are the same; alone there is nothing to cut."""
    ema_decay: float | None = None
    """Evaluate and export an exponential moving average of the weights with this decay."""
    log_every: int = 20
    """Steps between lines of the log; each holds means over them."""
    evaluate_every: int = 500
    """Steps between evaluations (the last step is always evaluated)."""
    save_every: int = 500
    """Steps between checkpoints."""
    keep: int = 2
    """Newest checkpoints that stay, beside the best."""

    def __post_init__(self) -> None:
        for name in ("steps", "accumulate", "log_every", "evaluate_every", "save_every", "keep"):
            if getattr(self, name) < 1:
                raise ValueError(f"loop.{name} is {getattr(self, name)}; 1 or more is wanted")
        for name in ("minutes", "max_grad_norm"):
            value = getattr(self, name)
            if value is not None and not value > 0:
                raise ValueError(f"loop.{name} is {value}; more than 0 is wanted")
        if self.ema_decay is not None and not 0 < self.ema_decay < 1:
            raise ValueError(f"loop.ema_decay is {self.ema_decay}; a number between 0 and 1 is wanted, or null")

    def cuts(self, world: World) -> bool:
        """Whether parameters are cut into pieces: alone there is nothing to cut."""
        return self.sharding == "full" and world.size > 1


def cosine_loop(
    steps: int,
    *,
    learning_rate: float,
    every: int,
    warmup: int,
    betas: tuple[float, float],
    final_ratio: float = 0.0,
    name: Literal["adamw", "adam"] = "adamw",
    max_grad_norm: float = 1.0,
) -> LoopConfig:
    """A rate that rises, then falls as a cosine to a share of its peak; evaluated and saved `every` so many steps."""
    return LoopConfig(
        steps=steps,
        max_grad_norm=max_grad_norm,
        optimizer=OptimizerConfig(name=name, learning_rate=learning_rate, betas=betas),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=warmup, final_ratio=final_ratio),
        evaluate_every=every,
        save_every=every,
    )


def few_steps(learning_rate: float) -> LoopConfig:
    """For presets `tiny`: four steps, on the way to which everything that happens in a run happens twice."""
    return LoopConfig(
        steps=4,
        optimizer=OptimizerConfig(learning_rate=learning_rate),
        schedule=ScheduleConfig(warmup_steps=1),
        evaluate_every=2,
        save_every=2,
        log_every=1,
    )


@dataclass
class State:
    """Where a run stands: all that hooks may see."""

    step: int = 0
    """Steps done."""
    steps: int = 0
    """Steps of the whole run."""
    logs: dict[str, float] = field(default_factory=dict)
    """Figures of the step just done."""
    recent: Means = field(default_factory=Means)
    """The same since the last line of the log."""
    evaluations: list[dict[str, float]] = field(default_factory=list)
    """All evaluations so far, each with its step."""
    best_score: float = math.inf
    best_step: int | None = None
    """The step with the best score."""
    stop_reason: str | None = None
    """None while running; `end`, `minutes` or `interrupted`."""


class Hook:
    """A side job of the loop: logging, saving, evaluating."""

    def on_start(self, state: State) -> None:
        """Before the first step of this process."""

    def on_step(self, state: State) -> None:
        """After every step."""

    def on_evaluate(self, state: State, figures: dict[str, float]) -> None:
        """After every evaluation."""

    def on_end(self, state: State) -> None:
        """After the last step, also of an interrupted run."""


class Loop:
    """Runs a Task. `fit` goes from `state.step` to `config.steps`."""

    def __init__(
        self,
        task: Task,
        config: LoopConfig,
        *,
        seed: int,
        device: torch.device,
        world: World | None = None,
        hooks: Sequence[Hook] = (),
    ) -> None:
        self.task, self.config, self.seed, self.device = task, config, seed, device
        self.world = world or World()
        self.hooks = list(hooks)
        self.sharding = self._shard() if config.cuts(self.world) else None
        for module in (task.model, *task.companions.values()):  # what is cut is there already, block by block
            module.to(device)
        self.optimizers = {name: config.optimizer.build(module) for name, module in task.optimised.items()}
        self.averages = Averages(task.model, config.ema_decay) if config.ema_decay else None
        self.state = State(steps=config.steps)

    def fit(self) -> State:
        """Train until the steps or minutes are over, or an interrupt; hooks save what there is."""
        started = time.monotonic()
        offset = self.state.step * self.config.accumulate
        with _interrupts() as interrupted:
            for hook in self.hooks:
                hook.on_start(self.state)
            with Prefetcher(self._make_batch, start=offset) as batches:
                while (reason := self._stop_reason(started, interrupted)) is None:
                    if self.state.step % self.config.log_every == 0:
                        self.state.recent.clear()
                    self.state.logs = self._step(batches)
                    self.state.recent.add(self.state.logs)
                    self.state.step += 1
                    for hook in self.hooks:
                        hook.on_step(self.state)
            self.state.stop_reason = reason
            for hook in self.hooks:
                hook.on_end(self.state)
        return self.state

    @contextmanager
    def averaged_weights(self) -> Iterator[None]:
        """The averages in place of the weights, if asked for; sharded ones stay so."""
        if self.averages:
            self.averages.swap(self.task.model)
        try:
            yield
        finally:
            if self.averages:
                self.averages.swap(self.task.model)

    @contextmanager
    def exported_weights(self) -> Iterator[nn.Module]:
        """The model as it is evaluated and exported: in evaluation mode, averaged if asked for, whole on every rank."""
        model = self.task.model
        with self.averaged_weights(), self.gathered_weights():
            model.eval()
            try:
                yield model
            finally:
                model.train()

    def gathered_weights(self) -> AbstractContextManager[None]:
        """Parameters whole on every rank, for what one rank does alone with the model; all must enter."""
        return self.sharding.gathered() if self.sharding else nullcontext()

    def gathered_precision(self) -> AbstractContextManager[Any]:
        """Autocast where blocks are gathered in bf16, for uses of the exported model that would run in fp32."""
        return autocast(self.device, self.config.precision) if self.sharding else nullcontext()

    def evaluate(self) -> dict[str, float]:
        """Run the task's evaluation on the exported weights and tell the hooks; other ranks only lend their pieces."""
        torch.manual_seed(fold(self.seed, "evaluate"))
        precision = autocast(self.device, self.config.precision)
        with self._named_memory_errors(), self.exported_weights(), torch.no_grad(), precision:
            if not self.world.is_main:
                return {}
            figures = {name: float(value) for name, value in self.task.evaluate().items()}
        self.state.evaluations.append({"step": self.state.step, **figures})
        for hook in self.hooks:
            hook.on_evaluate(self.state, figures)
        return figures

    def _shard(self) -> "Sharding":
        from voder.train.sharding import Sharding  # torch's part of it takes a second to import

        return Sharding(self.task, self.device, bf16=self.config.precision == "bf16")

    def _make_batch(self, index: int) -> Any:
        return self.task.batch(index, self.world.rank, self.world.size)

    def _stop_reason(self, started: float, interrupted: list[int]) -> str | None:
        if self.state.step >= self.config.steps:
            return "end"
        out_of_time = self.config.minutes is not None and time.monotonic() - started > 60 * self.config.minutes
        if broadcast_flag(bool(interrupted), self.world, self.device):
            return "interrupted"
        return "minutes" if broadcast_flag(out_of_time, self.world, self.device) else None

    def _step(self, batches: Prefetcher[Any]) -> dict[str, float]:
        step = self.state.step
        rate = self.config.optimizer.learning_rate * self.config.schedule.factor(step, self.config.steps)
        logs: dict[str, float] = {"learning_rate": rate}
        with self._named_memory_errors():
            streams = []
            for micro in range(self.config.accumulate):
                batch = batches.get(step * self.config.accumulate + micro)
                streams.append(self.task.losses(batch.to(self.device), step))
            phase_index = 0
            while phase := self._backward(streams, step, phase_index):
                name, total_weight, figures = phase
                logs |= self._apply(name, total_weight, figures, rate)
                phase_index += 1
            if self.sharding:
                self.sharding.end_step()
        if self.averages:
            self.averages.update(self.task.model)
        return logs

    def _backward(
        self, streams: Sequence[Iterator[tuple[str, Loss]]], step: int, phase_index: int
    ) -> tuple[str, float, dict[str, Tensor]] | None:
        """Backward one phase over all micro-batches; returns its name, summed weight and weighted figure sums."""
        name, weight, sums = "", 0.0, dict[str, Tensor]()
        for micro, stream in enumerate(streams):
            torch.manual_seed(fold(self.seed, step, micro, phase_index, self.world.rank))
            with autocast(self.device, self.config.precision):
                item = self.sharding.next_loss(stream) if self.sharding else next(stream, None)
            if item is None:
                continue
            name, loss = item
            (loss.value.float() * loss.weight).backward()  # type: ignore[no-untyped-call]
            weight += loss.weight
            for key, value in {"loss": loss.value, **loss.logs}.items():
                figure = torch.as_tensor(value, dtype=torch.float64, device=self.device).detach() * loss.weight
                sums[key] = sums[key] + figure if key in sums else figure
        return (name, weight, sums) if name else None

    def _apply(self, name: str, weight: float, sums: dict[str, Tensor], rate: float) -> dict[str, float]:
        """Sum over ranks, turn sums into means, clip, step."""
        module, optimizer = self.task.optimised[name], self.optimizers[name]
        if self.sharding:  # whose gradients are sums over ranks already
            self.sharding.settle_gradients(name)
        else:
            share_gradients(module, self.world)
            sum_in_place(gradients([module]), self.world)
        grads = gradients([module])
        totals = torch.stack([torch.tensor(weight, dtype=torch.float64, device=self.device), *sums.values()])
        sum_in_place([totals], self.world)
        total, *values = totals.tolist()
        means = {f"{name}/{key}": value / max(total, 1e-12) for key, value in zip(sums, values, strict=True)}
        if not math.isfinite(means[f"{name}/loss"]):
            raise TrainingError(self._not_finite(name, means))
        torch._foreach_mul_(grads, 1.0 / max(total, 1e-12))
        norm = clip(grads, self.config.max_grad_norm, sharded=self.sharding is not None)
        if not math.isfinite(norm):
            raise TrainingError(self._not_finite(f"gradient of {name}", means))
        set_learning_rate(optimizer, rate)
        optimizer.step()
        for each in self.optimizers.values():  # a generator's loss also leaves gradients in its discriminator
            each.zero_grad(set_to_none=True)
        return means | {f"{name}/grad_norm": norm}

    def _not_finite(self, what: str, means: dict[str, float]) -> str:
        detail = ", ".join(f"{key}={value:.4g}" for key, value in means.items())
        return (
            f"the {what} is not finite at step {self.state.step} ({detail}); lower loop.optimizer.learning_rate "
            "or loop.max_grad_norm and resume from the last checkpoint"
        )

    @contextmanager
    def _named_memory_errors(self) -> Iterator[None]:
        """Say which setting to lower when memory runs out, on the GPU or the CPU."""
        try:
            yield
        except (
            MemoryError,
            RuntimeError,
        ) as error:  # torch.OutOfMemoryError is a RuntimeError, the CPU's is a plain one
            out = isinstance(error, MemoryError | torch.OutOfMemoryError) or "allocate memory" in str(error)
            if not out:
                raise
            raise ResourceError(
                f"out of memory at step {self.state.step}: lower {self.task.batch_setting} (raise loop.accumulate to "
                "keep the batch of a step)"
            ) from error


@contextmanager
def _interrupts() -> Iterator[list[int]]:
    """Collect Ctrl-C and SIGTERM instead of dying in the middle of a step; a second one acts at once.

    Within `_ECHO_S` a second one is the first: torchrun sends its workers what the terminal has sent them already.
    """
    received: list[int] = []
    previous: dict[int, Any] = {}
    first_at = math.inf

    def note(number: int, frame: FrameType | None) -> None:
        nonlocal first_at
        if not received:
            received.append(number)
            first_at = time.monotonic()
        elif time.monotonic() - first_at > _ECHO_S:
            signal.signal(number, previous[number])
            signal.raise_signal(number)

    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            previous[number] = signal.signal(number, note)
    except ValueError:  # not the main thread: the caller's signals stay the caller's
        previous.clear()
    try:
        yield received
    finally:
        for before, handler in previous.items():
            signal.signal(before, handler)


_ECHO_S = 1.0
