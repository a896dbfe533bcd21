"""Schedules, optimisers and averages as values."""

import pytest
import torch
from torch import nn

from voder.config import from_dict
from voder.errors import ConfigError
from voder.train.optim import Averages, OptimizerConfig, ScheduleConfig, set_learning_rate


def test_warm_up_rises_in_a_line_and_the_peak_follows_it() -> None:
    schedule = ScheduleConfig(shape="cosine", warmup_steps=4)
    assert [schedule.factor(step, 100) for step in range(5)] == pytest.approx([0.2, 0.4, 0.6, 0.8, 1.0])


@pytest.mark.parametrize(
    ("shape", "middle", "last"), [("cosine", 0.55, 0.1), ("linear", 0.55, 0.1), ("constant", 1, 1)]
)
def test_decay_reaches_the_final_ratio(shape: str, middle: float, last: float) -> None:
    schedule = from_dict(ScheduleConfig, {"shape": shape, "warmup_steps": 10, "final_ratio": 0.1})
    assert schedule.factor(10, 110) == pytest.approx(1.0)
    assert schedule.factor(60, 110) == pytest.approx(middle)
    assert schedule.factor(110, 110) == pytest.approx(last)
    assert schedule.factor(1000, 110) == pytest.approx(last)


def test_cosine_and_linear_differ_between() -> None:
    cosine, linear = (ScheduleConfig(shape=s, warmup_steps=0) for s in ("cosine", "linear"))
    assert cosine.factor(25, 100) > linear.factor(25, 100) + 0.05


def test_a_run_shorter_than_its_warm_up_keeps_rising() -> None:
    schedule = ScheduleConfig(warmup_steps=100)
    factors = [schedule.factor(step, 5) for step in range(5)]
    assert factors == sorted(factors)
    assert factors[-1] < 0.1


@pytest.mark.parametrize("name", ["adamw", "adam", "sgd"])
def test_weight_decay_takes_matrices_only(name: str) -> None:
    module = nn.Sequential(nn.Linear(2, 3), nn.LayerNorm(3))
    optimizer = from_dict(OptimizerConfig, {"name": name, "weight_decay": 0.5}).build(module)
    decays = {p.ndim: group["weight_decay"] for group in optimizer.param_groups for p in group["params"]}
    assert decays == {2: 0.5, 1: 0.0}


def test_adamw_decays_apart_from_the_gradient_and_adam_does_not() -> None:
    moved = []
    for name in ("adamw", "adam"):
        module = nn.Linear(1, 1, bias=False)
        nn.init.ones_(module.weight)
        optimizer = from_dict(OptimizerConfig, {"name": name, "weight_decay": 0.5, "learning_rate": 0.1}).build(module)
        module.weight.grad = torch.zeros(1, 1)
        optimizer.step()
        moved.append(float(module.weight.detach()))
    assert moved == pytest.approx([0.95, 0.9], abs=1e-3)


def test_every_option_of_the_optimiser_acts() -> None:
    def trained(**options: object) -> float:
        torch.manual_seed(0)
        module = nn.Linear(4, 1)
        optimizer = from_dict(OptimizerConfig, {"learning_rate": 0.1, **options}).build(module)
        for step in range(5):
            optimizer.zero_grad()
            module(torch.ones(2, 4) * (step + 1)).square().mean().backward()
            optimizer.step()
        return float(module.weight.detach().sum())

    base = trained()
    for options in (
        {"name": "sgd"},
        {"learning_rate": 0.3},
        {"betas": [0.1, 0.99]},
        {"betas": [0.9, 0.5]},
        {"weight_decay": 1.0},
    ):
        assert trained(**options) != base, options


def test_frozen_parameters_are_not_stepped_and_all_frozen_is_refused() -> None:
    module = nn.Linear(2, 2)
    module.weight.requires_grad_(False)
    optimizer = OptimizerConfig().build(module)
    assert [p for group in optimizer.param_groups for p in group["params"]] == [module.bias]
    with pytest.raises(ConfigError, match="nothing to train"):
        OptimizerConfig().build(module.requires_grad_(False))


@pytest.mark.parametrize(
    ("cls", "values", "name"),
    [
        (OptimizerConfig, {"learning_rate": 0.0}, "learning_rate"),
        (OptimizerConfig, {"learning_rate": float("nan")}, "learning_rate"),
        (OptimizerConfig, {"betas": [0.9, 1.0]}, "betas"),
        (OptimizerConfig, {"weight_decay": -1.0}, "weight_decay"),
        (OptimizerConfig, {"name": "adamv"}, "adamv"),
        (ScheduleConfig, {"warmup_steps": -1}, "warmup_steps"),
        (ScheduleConfig, {"final_ratio": 1.5}, "final_ratio"),
    ],
)
def test_senseless_constants_are_refused_by_name(cls: type, values: dict[str, object], name: str) -> None:
    with pytest.raises(ConfigError, match=name):
        from_dict(cls, values)


def test_the_rate_is_set_for_all_groups() -> None:
    optimizer = OptimizerConfig().build(nn.Linear(2, 2))
    set_learning_rate(optimizer, 0.125)
    assert {group["lr"] for group in optimizer.param_groups} == {0.125}


def test_averages_move_fast_first_and_swap_back_exactly() -> None:
    module = nn.Linear(1, 1, bias=False)
    nn.init.zeros_(module.weight)
    averages = Averages(module, 0.999)
    nn.init.ones_(module.weight)
    averages.update(module)
    assert float(averages.values["weight"]) == pytest.approx(1 - 1 / 11)
    averages.swap(module)
    assert float(module.weight.detach()) == pytest.approx(1 - 1 / 11)
    averages.swap(module)
    assert float(module.weight.detach()) == 1.0
