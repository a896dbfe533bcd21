"""Whatever stops a run, it says so in one sentence, leaves nothing half-written, and the same command goes on."""

import json
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
import toys
from safetensors.torch import load_file

from voder import checkpoint

pytestmark = pytest.mark.timeout(300)  # many short processes, slow on a busy machine

MOMENTS = {
    "in the setup": ("voder.train.run:_write_description", 1),
    "in data loading": ("__main__:ToyLmTask.batch", 15),
    "in a step": ("voder.train.loop:Loop._step", 6),
    "in the trainer state": ("torch:save", 1),
    "in a checkpoint": ("safetensors.torch:serialize_file", 2),
    "in an evaluation": ("voder.train.loop:Loop.evaluate", 1),
    "in the samples": ("voder.train.hooks:Keeper._write_samples", 1),
    "in the log": ("voder.train.hooks:JsonLines._write", 2),
}
"""Where Ctrl-C is pressed: a function, and which call of it."""

FULL = {
    "the trainer state": ("os:fsync", 4),
    "the weights": ("safetensors.torch:serialize_file", 2),
    "the description": ("pathlib:Path.write_text", 3),
    "the log": ("json:dumps", 9),
    "the mark of the best": ("os:replace", 6),
}
"""Where the disk is full: a function that writes, and which call of it, all after the first checkpoint."""

PLACES = ["checkpoints", "trainer", "samples", "tensorboard", "metrics.jsonl", "config.yaml"]
"""Names in the run's folder that something else has taken."""

TWO: dict[str, dict[str, Any]] = {"two": {"world": 2}, "cut": {"world": 2, "loop__sharding": "full"}}


def event(moment: tuple[str, int], what: str) -> dict[str, Any]:
    """Something happens there."""
    return {"function": moment[0], "call": moment[1], "what": what}


def stopping() -> dict[str, dict[str, Any]]:
    """Runs that are stopped, by name; each goes on afterwards without what stopped it."""
    runs: dict[str, dict[str, Any]] = {}
    for name, moment in MOMENTS.items():
        runs[f"SIGINT {name}"] = {"events": [event(moment, "SIGINT")]}
    for name in ("in the setup", "in a step", "in a checkpoint"):
        runs[f"SIGTERM {name}"] = {"events": [event(MOMENTS[name], "SIGTERM")]}
    first, second = event(MOMENTS["in a step"], "SIGINT"), event(("torch:save", 2), "SIGINT")
    runs["twice in a save SIGINT"] = {"events": [first, second]}
    runs["impatient in a save"] = {"events": [first, {**second, "pause_s": 1.1}]}
    for name, moment in FULL.items():
        runs[f"full {name}"] = {"events": [event(moment, "ENOSPC")]}
    runs["full really"] = {"largest_file": 6000}
    runs["nan"] = {"task__nan_at": 5}
    for way, how in TWO.items():
        runs[f"{way} SIGINT in a checkpoint"] = {**how, "events": [event(MOMENTS["in a checkpoint"], "SIGINT")]}
        runs[f"{way} SIGTERM on one"] = {**how, "events": [event(MOMENTS["in a step"], "SIGTERM")], "at_rank": 1}
        runs[f"{way} full"] = {**how, "events": [event(FULL["the weights"], "ENOSPC")]}
    runs["cut nan"] = {**TWO["cut"], "task__nan_at": 5}
    runs["two SIGINT in the setup of one"] = {**TWO["two"], "events": [event(("__main__:ToyLm.__init__", 1), "SIGINT")]}
    runs["two SIGINT in the setup of one"]["at_rank"] = 1
    return runs


def status_of(name: str) -> list[int]:
    """How the processes end: 130 where interrupted, 2 where something must be mended."""
    if name == "two SIGINT in the setup of one":
        return [2, 130]
    status = 130 if "SIG" in name or "impatient" in name else 2
    return [status] * (2 if name.startswith(("two", "cut")) else 1)


class Stopped:
    """What was left of runs when they were stopped, and after they went on."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        common = {"system": "toylm", "model__dropout": 0.0}
        scenarios: list[dict[str, Any]] = [{**common, "output": "whole"}]
        for name, what in stopping().items():
            scenarios.append({**common, **what, "output": f"{name}/run", "said": f"said {name}"})
            how = {key: what[key] for key in ("world", "loop__sharding") if key in what}
            mended = {"change": ["nan_at: 5", "nan_at: -1"]} if "task__nan_at" in what else {}
            scenarios.append({**common, **how, **mended, "begun": f"{name}/run", "output": f"{name}/on"})
        for name in stopping():
            (folder / name).mkdir()
        statuses = toys.in_processes(scenarios, folder)[1:]
        self.stopped = dict(zip(stopping(), statuses[::2], strict=True))
        self.went_on = dict(zip(stopping(), statuses[1::2], strict=True))

    def said(self, name: str) -> list[str]:
        """The lines of all ranks, but for what a run says at its beginning and at evaluations."""
        lines = [line for file in sorted(self.folder.glob(f"said {name}-*")) for line in file.read_text().splitlines()]
        return [s for s in lines if not s.startswith(("toylm step", "first row")) and "parameters to train" not in s]


@pytest.fixture(scope="module")
def stopped(tmp_path_factory: pytest.TempPathFactory) -> Stopped:
    return Stopped(tmp_path_factory.mktemp("stopped"))


@pytest.mark.parametrize("name", list(stopping()))
def test_a_stop_is_one_sentence_and_an_exit_code(stopped: Stopped, name: str) -> None:
    assert stopped.stopped[name] == status_of(name)
    lines = stopped.said(name)
    assert len(lines) == (2 if status_of(name) in ([2, 2], [2, 130]) else 1), lines
    assert not any("Traceback" in line or "Error" in line for line in lines)
    if "SIG" in name and "setup" not in name:
        assert "(interrupted); saved: run the same command to go on" in lines[0]
    if "nan" in name:
        assert "the model is not finite at step 5 (model/loss=nan" in lines[0]
    if "full" in name:
        assert f"cannot write {name}/run" in lines[0] or f"cannot write {name}/on" in lines[0]
        assert "free space" in lines[0]
    if name in ("two full", "cut full", "two SIGINT in the setup of one"):
        assert any("lost another one, which says why" in line for line in lines)


@pytest.mark.parametrize("name", list(stopping()))
def test_nothing_is_half_written(stopped: Stopped, name: str) -> None:
    run = stopped.folder / name / "run"
    assert [path for path in run.rglob(".*") if path.suffix in (".tmp", ".old")] == []
    for path in run.glob("checkpoints/step-*"):
        assert checkpoint.load_state(path).keys()
        assert torch.load(run / "trainer" / f"{path.name}.pt", weights_only=True)["step"] == int(path.name[5:])
    for path in run.rglob("*.json"):
        json.loads(path.read_text())
    if "setup" not in name and name != "full really":
        assert any(run.glob("checkpoints/step-*"))


@pytest.mark.parametrize("name", list(stopping()))
def test_the_same_command_goes_on_to_the_same_end(stopped: Stopped, name: str) -> None:
    assert set(stopped.went_on[name]) == {0}
    last = "checkpoints/step-00000012/model.safetensors"
    expected, got = load_file(stopped.folder / "whole" / last), load_file(stopped.folder / name / "on" / last)
    exactly = not name.startswith(("two", "cut"))
    for key, weights in expected.items():
        torch.testing.assert_close(got[key], weights, rtol=0, atol=0 if exactly else 1e-6)
    if exactly:
        logs = [folder / "metrics.jsonl" for folder in (stopped.folder / "whole", stopped.folder / name / "on")]
        assert logs[0].read_text() == logs[1].read_text()


@pytest.fixture
def open_folder() -> Iterator[Path]:
    """A folder that everybody may enter, unlike those of pytest."""
    folder = Path(tempfile.mkdtemp())
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder)


def test_a_place_that_cannot_be_written_is_named(open_folder: Path) -> None:
    """Names that are taken by something else, a file in place of a folder, and folders without permission."""
    scenarios: list[dict[str, Any]] = []
    for name in PLACES:
        taken = open_folder / name / name
        taken.parent.mkdir()
        if "." in name:
            taken.mkdir()
        else:
            taken.write_text("mine")
        scenarios.append({"output": name, "said": f"said {name}"})
    (open_folder / "file").write_text("mine")
    scenarios.append({"output": "file/run", "said": "said file"})
    for name, mode in (("readable", 0o555), ("closed", 0o500)):
        (open_folder / name).mkdir()
        (open_folder / name).chmod(mode)
        scenarios.append({"output": f"{name}/run", "said": f"said inside {name}", "as_nobody": True})
        scenarios.append({"output": name, "said": f"said {name}", "as_nobody": True})
    statuses = toys.in_processes([{"system": "toylm", **scenario} for scenario in scenarios], open_folder)
    for scenario, status in zip(scenarios, statuses, strict=True):
        lines = (open_folder / f"{scenario['said']}-0").read_text().splitlines()
        assert status == [2], lines
        sentence = [line for line in lines if line.startswith("voder: ")]
        assert len(sentence) == 1
        assert scenario["output"].partition("/")[0] in sentence[0]
        assert any(words in sentence[0] for words in ("cannot write", "cannot be read", "cannot read")), sentence
    for name in ("readable", "closed"):
        assert list((open_folder / name).iterdir()) == []
