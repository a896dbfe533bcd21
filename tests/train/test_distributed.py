"""Many workers are one: two gloo processes take the same steps as one process on the same global batch."""

import itertools
import json
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import load_file

from voder import hub
from voder.evaluate.bench import Bench
from voder.train.distributed import World, local_device, share_gradients, sum_in_place
from voder.train.state import remove_interrupted_writes, resumable_step

pytestmark = pytest.mark.timeout(300)  # two processes that wait for one another are slow on a busy machine
LAST = "checkpoints/step-00000012/model.safetensors"


KILL = {"function": "voder.train.loop:Loop._step", "call": 7}
"""Two steps past the first checkpoint."""

WAYS: dict[str, dict[str, Any]] = {
    "one": {},
    "two": {"world": 2},
    "cut": {"world": 2, "loop__sharding": "full"},
}
"""Ways to run the same thing: alone, whole models on two processes, and models cut in two."""

KINDS: dict[str, dict[str, Any]] = {
    "lm": {"system": "toylm", "loop__max_grad_norm": 0.2},
    "uneven": {"system": "toylm", "loop__accumulate": 1, "task__batch_size": 5, "task__frozen": True},
    "gan": {"system": "toygan", "loop__max_grad_norm": 0.2},
}
"""What is run: accumulation and clipping; rows that two does not divide and frozen parameters; two phases."""

CHANGES = [*itertools.permutations(WAYS, 2), ("two", "two")]
"""A run that was killed in the first way and goes on in the second."""


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Every kind in every way, without dropout, whose random numbers differ per rank."""
    folder = tmp_path_factory.mktemp("worlds")
    common: dict[str, Any] = {"model__dropout": 0.0, "loop__log_every": 1, "measure": True}
    scenarios = [
        {**common, **how, **what, "output": f"{kind}-{way}"}
        for kind, what in KINDS.items()
        for way, how in WAYS.items()
    ]
    lm = {**common, **KINDS["lm"]}
    half = {**lm, "loop__precision": "bf16"}
    scenarios += [{**half, **WAYS[way], "output": f"bf16-{way}"} for way in ("one", "cut")]
    scenarios += [{**lm, **how, "events": [KILL], "output": f"{way}-killed"} for way, how in WAYS.items()]
    for before, after in CHANGES:
        scenarios.append({**lm, **WAYS[after], "begun": f"{before}-killed", "output": f"{before}-then-{after}"})
    gan = {**common, **KINDS["gan"]}
    scenarios.append({**gan, **WAYS["cut"], "events": [KILL], "output": "gan-killed"})
    scenarios.append({**gan, **WAYS["one"], "begun": "gan-killed", "output": "gan-goes-on"})
    expected = [[-9 if "events" in s else 0] * s.get("world", 1) for s in scenarios]
    assert toys.in_processes(scenarios, folder) == expected
    return folder


def metrics(run: Path) -> list[dict[str, float]]:
    """The log of a run."""
    return [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]


def assert_equal(first: Path, second: Path, *, step: int = 12) -> None:
    """Two runs ended in the same weights, and said the same on their way, within what sums in another order differ."""
    names = [path.relative_to(first) for path in (first / "checkpoints" / f"step-{step:08d}").rglob("*.safetensors")]
    assert names
    for name in names:
        expected, got = load_file(first / name), load_file(second / name)
        assert expected.keys() == got.keys()
        for key, weights in expected.items():
            torch.testing.assert_close(got[key], weights, rtol=0, atol=1e-6)
    for alone, shared in zip(metrics(first), metrics(second), strict=True):
        assert alone["step"] == shared["step"]
        for name in set(alone) - {"model/rows"}:
            assert shared[name] == pytest.approx(alone[name], abs=3e-6, rel=1e-5), name


@pytest.mark.parametrize("kind", list(KINDS))
@pytest.mark.parametrize("way", ["two", "cut"])
def test_the_same_global_batch_gives_the_same_steps(runs: Path, kind: str, way: str) -> None:
    assert_equal(runs / f"{kind}-one", runs / f"{kind}-{way}")


@pytest.mark.parametrize(("before", "after"), CHANGES)
def test_a_run_goes_on_in_another_way(runs: Path, before: str, after: str) -> None:
    assert_equal(runs / "lm-one", runs / f"{before}-then-{after}")


def test_a_cut_discriminator_goes_on_whole(runs: Path) -> None:
    assert_equal(runs / "gan-one", runs / "gan-goes-on")


@pytest.mark.parametrize("kind", list(KINDS))
def test_cut_models_hold_half_of_everything_on_each_process(runs: Path, kind: str) -> None:
    sizes = [json.loads((runs / f"{kind}-cut" / f"bytes-{rank}.json").read_text()) for rank in range(2)]
    for name, (whole, here) in sizes[0].items():
        assert here + sizes[1][name][1] == whole, name
    totals = [sum(here for _, here in own.values()) for own in sizes]
    whole = sum(whole for whole, _ in sizes[0].values())
    assert whole / 2 <= totals[0] < 0.6 * whole  # rows that two does not divide fall to the first
    alone = json.loads((runs / f"{kind}-two" / "bytes-1.json").read_text())
    assert sum(here for _, here in alone.values()) == whole


def test_checkpoints_of_cut_models_are_plain(runs: Path) -> None:
    toys.install()
    for way in ("one", "cut"):
        model = hub.load(runs / f"lm-{way}")
        assert type(model) is toys.ToyLm
        assert {type(p.data) for p in model.parameters()} == {torch.Tensor}
        state = torch.load(runs / f"lm-{way}" / "trainer" / "step-00000012.pt", weights_only=True)
        assert {type(v) for own in state["optimizers"]["model"]["state"].values() for v in own.values()} == {
            torch.Tensor
        }


def test_frozen_parameters_are_left_as_they_were(runs: Path) -> None:
    for way in WAYS:
        folders = [runs / f"uneven-{way}" / "checkpoints" / step for step in ("step-00000008", "step-00000012")]
        first, last = (load_file(folder / "model.safetensors") for folder in folders)
        frozen = {name for name in last if name.startswith("layers.0.")}
        assert {name for name in last if torch.equal(first[name], last[name])} == frozen
        trainer = torch.load(runs / f"uneven-{way}" / "trainer" / "step-00000012.pt", weights_only=True)
        assert set(last) - set(trainer["averages"]["values"]) == frozen


def test_bf16_gathers_what_autocast_casts_and_steps_in_fp32(runs: Path) -> None:
    exact, alone, cut = (load_file(runs / run / LAST) for run in ("lm-one", "bf16-one", "bf16-cut"))
    for name, weights in alone.items():
        assert cut[name].dtype == torch.float32
        assert not torch.equal(cut[name], exact[name])
        torch.testing.assert_close(cut[name], weights, rtol=0, atol=0.03)  # gradients of half a batch, rounded to bf16


def test_the_same_weights_are_not_those_of_half_the_batch(runs: Path) -> None:
    lm, uneven = load_file(runs / "lm-one" / LAST), load_file(runs / "uneven-one" / LAST)
    assert not torch.allclose(lm["out.weight"], uneven["out.weight"], atol=1e-4)


def test_two_killed_workers_go_on_as_two(runs: Path) -> None:
    whole, stopped = runs / "lm-two", runs / "two-then-two"
    assert (whole / LAST).read_bytes() == (stopped / LAST).read_bytes()
    assert (whole / "metrics.jsonl").read_text() == (stopped / "metrics.jsonl").read_text()


def test_a_real_system_takes_the_same_steps(bench: Bench, tmp_path: Path) -> None:
    """VALL-E draws its rows per rank: alone, one process takes those of both."""
    common = {"system": "valle", "data": str(bench.data("valle")), "loop__steps": 3, "loop__log_every": 1}
    alone = {**common, "ranks": 2, "loop__accumulate": 2, "output": "one"}
    scenarios = [alone, *({**common, **WAYS[way], "output": way} for way in ("two", "cut"))]
    assert toys.in_processes(scenarios, tmp_path) == [[0], [0, 0], [0, 0]]
    for way in ("two", "cut"):
        assert_equal(tmp_path / "one", tmp_path / way, step=3)


def test_only_the_main_rank_writes(runs: Path) -> None:
    for way in ("two", "cut"):
        assert len(list((runs / f"lm-{way}" / "tensorboard").iterdir())) == 1


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
    for name in (".metrics.jsonl.7-0.tmp", "checkpoints/.step-00000004.7.tmp", "samples/step-00000004/.a.wav.7-1.tmp"):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text("half")
    assert resumable_step(tmp_path) is None
    assert len(list(tmp_path.rglob("*.tmp"))) == 3
    remove_interrupted_writes(tmp_path)
    assert not list(tmp_path.rglob("*.tmp"))
