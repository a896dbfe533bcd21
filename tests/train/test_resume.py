"""A run that is stopped anywhere and started again ends as one that was not, bit for bit."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import toys

from voder.errors import CheckpointError
from voder.train.run import train

COMMIT_POINTS = {
    "before anything was saved": {"function": "voder.train.hooks:save", "call": 1},
    "with half of the trainer state": {"function": "torch:save", "call": 2, "when": "after"},
    "between trainer state and checkpoint": {"function": "voder.train.state:_save_checkpoint", "call": 2},
    "between checkpoint and best mark": {"function": "voder.train.hooks:mark_best", "call": 1},
    "before the oldest goes": {"function": "voder.train.hooks:prune", "call": 3},
    "in the samples": {"function": "voder.train.hooks:Keeper._write_samples", "call": 2},
    "in the log": {"function": "voder.train.hooks:JsonLines._write", "call": 4, "when": "after"},
    "after the last step": {"function": "voder.train.loop:Loop._step", "call": 12, "when": "after"},
    **{f"at replacement {n}": {"function": "os:replace", "call": n} for n in range(1, 9)},
    **{f"at renaming {n}": {"function": "os:rename", "call": n} for n in (1, 2, 3, 5)},
}
"""Where a run is killed: by function and how often that was called before."""

POINTS = {"toylm": list(range(len(COMMIT_POINTS))), "toygan": list(range(0, len(COMMIT_POINTS), 3))}
"""The GAN is killed at every third of them."""

CASES = [(system, number) for system, numbers in POINTS.items() for number in numbers]


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every run of this module: `whole` ones, and one per system and commit point that was killed there and resumed."""
    folder = tmp_path_factory.mktemp("runs")
    scenarios: list[dict[str, Any]] = []
    for system in toys.SYSTEMS:
        scenarios.append({"system": system, "output": f"{system}/whole"})
        for number in POINTS[system]:
            kill = list(COMMIT_POINTS.values())[number]
            output = f"{system}/killed-{number}"
            scenarios.append({"system": system, "output": output, "events": [kill]})
            scenarios.append({"system": system, "output": output})
    statuses = toys.in_processes(scenarios, folder)
    for scenario, status in zip(scenarios, statuses, strict=True):
        assert status == ([-9] if "events" in scenario else [0]), scenario
    return folder


def assert_same(first: Path, second: Path) -> None:
    """Two runs ended in the same state."""
    assert toys.differences(first, second) == []


@pytest.mark.parametrize(("system", "number"), CASES, ids=[f"{s} {list(COMMIT_POINTS)[n]}" for s, n in CASES])
def test_a_killed_and_resumed_run_equals_a_whole_one(runs: Path, system: str, number: int) -> None:
    assert_same(runs / system / "whole", runs / system / f"killed-{number}")


def test_the_comparison_sees_another_seed(runs: Path, tmp_path: Path) -> None:
    toys.install()
    train(toys.request("toylm", tmp_path / "other", seed=1), say=lambda text: None)
    with pytest.raises(AssertionError):
        assert_same(runs / "toylm" / "whole", tmp_path / "other")


@pytest.mark.parametrize("system", list(toys.SYSTEMS))
@pytest.mark.parametrize("step", [0, 3, 7, 11])
def test_ctrl_c_saves_at_once_and_the_same_command_goes_on(runs: Path, system: str, step: int, tmp_path: Path) -> None:
    toys.install()
    told: list[str] = []
    request = toys.request(system, tmp_path / "run")
    interrupted = replace(request, config=replace(request.config, task=toys.ToyTaskConfig(interrupt_at=step)))
    loop_stopped = train(interrupted, say=told.append)
    assert (loop_stopped.step, loop_stopped.stop_reason) == (step + 1, "interrupted" if step < 11 else "end")
    # interrupt_at is the test's own setting: make it the one of the uninterrupted run before going on
    described = tmp_path / "run" / "config.yaml"
    described.write_text(described.read_text().replace(f"interrupt_at: {step}", "interrupt_at: -1"))
    assert train(request, say=told.append).stop_reason == "end"
    if step < 11:
        assert any(f"stopped at step {step + 1}" in line for line in told)
        assert any(f"going on at step {step + 1} of 12" in line for line in told)
    metrics = [(run / "metrics.jsonl").read_text() for run in (runs / system / "whole", tmp_path / "run")]
    assert metrics[0] == metrics[1]
    last = "checkpoints/step-00000012/model.safetensors"
    assert (runs / system / "whole" / last).read_bytes() == (tmp_path / "run" / last).read_bytes()


def test_running_out_of_minutes_saves_and_going_on_ends_the_same(runs: Path, tmp_path: Path) -> None:
    toys.install()
    hurried = toys.request("toygan", tmp_path / "run", loop__minutes=1e-9)
    assert train(hurried, say=lambda text: None).stop_reason == "minutes"
    assert train(toys.request("toygan", tmp_path / "run"), say=lambda text: None).stop_reason == "end"
    assert_same(runs / "toygan" / "whole", tmp_path / "run")


def test_a_finished_run_is_left_as_it_is(tmp_path: Path) -> None:
    toys.install()
    request = toys.request("toylm", tmp_path / "run")
    train(request, say=lambda text: None)
    before = toys.result(tmp_path / "run")
    assert train(request, say=lambda text: None).step == 12
    assert toys.result(tmp_path / "run") == before


def test_damaged_trainer_state_is_named_and_the_earlier_step_serves(runs: Path, tmp_path: Path) -> None:
    toys.install()
    request = toys.request("toylm", tmp_path / "run")
    train(request, say=lambda text: None)
    newest = tmp_path / "run" / "trainer" / "step-00000012.pt"
    newest.write_bytes(newest.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match=r"step-00000012\.pt cannot be read .* delete it"):
        train(request, say=lambda text: None)
    newest.unlink()
    told: list[str] = []
    train(request, say=told.append)
    assert any("going on at step 8 of 12" in line for line in told)
    last = "checkpoints/step-00000012/model.safetensors"
    assert (runs / "toylm" / "whole" / last).read_bytes() == (tmp_path / "run" / last).read_bytes()


def test_averaged_weights_are_exported_and_raw_ones_go_on(runs: Path) -> None:
    run = runs / "toylm" / "whole"
    trainer = torch.load(run / "trainer" / "step-00000012.pt", weights_only=True)
    from safetensors.torch import load_file

    exported = load_file(run / "checkpoints" / "step-00000012" / "model.safetensors")
    assert torch.equal(exported["out.weight"], trainer["averages"]["values"]["out.weight"])
    assert not torch.equal(exported["out.weight"], trainer["model"]["out.weight"])


def test_best_names_the_lowest_score(runs: Path) -> None:
    for system in toys.SYSTEMS:
        run = runs / system / "whole"
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
        scores = {line["step"]: line["valid/score"] for line in lines if "valid/score" in line}
        best = json.loads((run / "checkpoints" / "best.json").read_text())
        assert best["checkpoint"] == f"step-{min(scores, key=scores.__getitem__):08d}"
