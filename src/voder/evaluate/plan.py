"""What a training run would be, said without building a weight: `voder train … --dry-run`."""

from dataclasses import dataclass
from typing import Any

import torch

from voder.hub import System
from voder.train.stages import Stage, learns

_BYTES = {"weight": 4, "gradient": 4, "adam": 8}
_GIGABYTE = 1e9


@dataclass(frozen=True, kw_only=True)
class Plan:
    """Counts of a run."""

    trained: int
    """Parameters that learn."""
    frozen: int
    """Parameters that stay as they are."""

    def memory_gb(self, *, shards: int = 1) -> float:
        """Weights, gradients and Adam's two averages in fp32, without activations, per GPU."""
        learnt = self.trained * sum(_BYTES.values())
        return (learnt + self.frozen * _BYTES["weight"]) / shards / _GIGABYTE


def count_parameters(system: System, preset: str) -> int:
    """Parameters of a preset's model."""
    plan = _count(system, system.preset(preset).model, None)
    return plan.trained + plan.frozen


def _count(system: System, model_config: Any, stage: Stage | None) -> Plan:
    """What learns in a stage; without one, all that the model itself does not keep frozen."""
    with torch.device("meta"):
        model = system.build(model_config)
    trained = frozen = 0
    for name, parameter in model.named_parameters():
        if parameter.requires_grad if stage is None else learns(name, stage.trained):
            trained += parameter.numel()
        else:
            frozen += parameter.numel()
    return Plan(trained=trained, frozen=frozen)


def _trained_unasked(system: System, task: Any) -> Stage | None:
    """The stage that a run trains without `--stage`: the one that its settings name, or the only one there is."""
    only = next(iter(system.stages.values())) if len(system.stages) == 1 else None
    return system.stages.get(getattr(task, "stage", ""), only)


def describe(system: System, config: Any, *, preset: str, stage_name: str | None) -> str:
    """The plan of a run as a page of text."""
    stage = system.stages[stage_name] if stage_name else None
    plan = _count(system, config.model, stage or _trained_unasked(system, config.task))
    loop, optimizer, schedule = config.loop, config.loop.optimizer, config.loop.schedule
    rates = f"learning rate {optimizer.learning_rate:g}, betas {optimizer.betas}, decay {optimizer.weight_decay:g}"
    alone, shared = plan.memory_gb(), plan.memory_gb(shards=8)
    rows = [
        ("trained", f"{plan.trained:,} parameters"),
        ("frozen", f"{plan.frozen:,} parameters"),
        ("optimiser", f"{optimizer.name}, {rates}"),
        ("schedule", f"{schedule.shape}, {schedule.warmup_steps:,} steps of warm-up"),
        ("steps", f"{loop.steps:,}, {loop.accumulate} micro-batches each, {loop.precision}"),
        ("memory", f"{alone:.2f} GB for weights, gradients and optimiser; {shared:.2f} GB a GPU when sharded over 8"),
    ]
    title = f"{system.name}/{preset}"
    if stage is not None:
        title += f", stage {stage_name}: {stage.summary} ({stage.section})"
        rows = _paper(stage) + rows + [("recalled", text) for text in stage.recalled]
    return "\n".join([title, *(f"  {name:<12}{text}" for name, text in rows)])


def _paper(stage: Stage) -> list[tuple[str, str]]:
    losses = ", ".join(f"{name} x {weight:g}" for name, weight in stage.losses.items())
    starts = "; ".join(stage.starts_from) or "random weights"
    return [("starts from", starts), ("data", stage.data), ("losses", losses or "as the task says")]
