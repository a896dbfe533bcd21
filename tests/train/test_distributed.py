"""Many workers are one: two gloo processes take the same steps as one process on the same global batch."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import load_file

from voder.train.distributed import World, local_device, share_gradients, sum_in_place
from voder.train.state import remove_interrupted_writes, resumable_step

LAST = "checkpoints/step-00000012/model.safetensors"


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The toy language model without dropout on one process and on two; rows, and so weights, differ per rank."""
    folder = tmp_path_factory.mktemp("worlds")
    settings: dict[str, Any] = {"system": "toylm", "model__dropout": 0.0, "loop__accumulate": 1, "loop__log_every": 1}
    uneven = {"task__batch_size": 5}
    scenarios = [
        {**settings, "output": "one"},
        {**settings, "output": "two", "world": 2},
        {**settings, **uneven, "output": "uneven-one"},
        {**settings, **uneven, "output": "uneven-two", "world": 2},
        {**settings, "output": "stopped", "world": 2, "kill": {"function": "voder.train.loop:Loop._step", "call": 7}},
        {**settings, "output": "stopped", "world": 2},
        {**settings, "output": "two-then-one", "world": 2, "loop__minutes": 1e-9},
        {**settings, "output": "two-then-one"},
    ]
    statuses = toys.in_processes(scenarios, folder)
    assert statuses == [[0], [0, 0], [0], [0, 0], [-9, -9], [0, 0], [0, 0], [0]]
    return folder


def metrics(run: Path) -> list[dict[str, float]]:
    """The log of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(("one", "two"), [("one", "two"), ("uneven-one", "uneven-two"), ("one", "two-then-one")])
def test_the_same_global_batch_gives_the_same_steps(runs: Path, one: str, two: str) -> None:
    expected, got = load_file(runs / one / LAST), load_file(runs / two / LAST)
    for name, weights in expected.items():
        torch.testing.assert_close(got[name], weights, rtol=0, atol=1e-6)
    for alone, shared in zip(metrics(runs / one), metrics(runs / two), strict=True):
        assert alone["step"] == shared["step"]
        for name in set(alone) - {"model/rows"}:
            assert shared[name] == pytest.approx(alone[name], abs=2e-6), name


def test_the_same_weights_are_not_those_of_half_the_batch(runs: Path) -> None:
    whole, uneven = load_file(runs / "one" / LAST), load_file(runs / "uneven-one" / LAST)
    assert not torch.allclose(whole["out.weight"], uneven["out.weight"], atol=1e-4)


def test_two_killed_workers_go_on_as_two(runs: Path) -> None:
    assert (runs / "two" / LAST).read_bytes() == (runs / "stopped" / LAST).read_bytes()
    assert (runs / "two" / "metrics.jsonl").read_text() == (runs / "stopped" / "metrics.jsonl").read_text()


def test_only_the_main_rank_writes(runs: Path) -> None:
    assert len(list((runs / "two" / "tensorboard").iterdir())) == 1


def test_alone_nothing_is_summed() -> None:
    tensor = torch.ones(3)
    sum_in_place([tensor], World())
    assert tensor.tolist() == [1, 1, 1]
    module = torch.nn.Linear(2, 2)
    share_gradients(module, World())
    assert module.weight.grad is None


def test_each_process_takes_its_own_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "3")
    assert local_device(torch.device("cuda")) == torch.device("cuda", 3)
    assert local_device(torch.device("cuda", 1)) == torch.device("cuda", 1)
    assert local_device(torch.device("cpu")) == torch.device("cpu")


def test_looking_for_a_step_removes_nothing(tmp_path: Path) -> None:
    """What another rank may be writing at this moment stays: only the main rank cleans, before the others look."""
    (tmp_path / "checkpoints").mkdir()
    for name in (".metrics.jsonl.7-0.tmp", "checkpoints/.step-00000004.7.tmp"):
        (tmp_path / name).write_text("half")
    assert resumable_step(tmp_path) is None
    assert len(list(tmp_path.rglob("*.tmp"))) == 2
    remove_interrupted_writes(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
