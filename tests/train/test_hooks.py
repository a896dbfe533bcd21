"""Side jobs of the loop, each alone."""

import io
import json
import math
from pathlib import Path

import pytest
import toys
from rich.console import Console

from voder.errors import ResourceError
from voder.train import State
from voder.train.hooks import JsonLines, Progress, TensorBoard
from voder.train.run import train


def stepped(step: int, **figures: float) -> State:
    """A state with figures of recent steps."""
    state = State(step=step, steps=100, logs=figures)
    state.recent.add(figures)
    return state


def test_lines_hold_means_since_the_last_line(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl", log_every=2)
    state = State(steps=3)
    for step, loss in enumerate((1.0, 3.0, 10.0), 1):
        if (step - 1) % 2 == 0:
            state.recent.clear()
        state.step = step
        state.recent.add({"loss": loss})
        log.on_step(state)
    log.on_evaluate(state, {"score": 0.123456789})
    lines = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "loss": 2.0}, {"step": 3, "loss": 10.0}, {"step": 3, "valid/score": 0.123457}]


def test_going_on_cuts_lines_past_the_step_and_half_lines(tmp_path: Path) -> None:
    file = tmp_path / "metrics.jsonl"
    file.write_text('{"step": 2, "loss": 1}\n{"step": 4, "loss": 1}\n{"step": 6, "lo')
    JsonLines(file, 2).on_start(State(step=3))
    assert file.read_text() == '{"step": 2, "loss": 1}\n'
    JsonLines(file, 2).on_start(State(step=0))
    assert file.read_text() == ""


def test_numbers_that_are_not_finite_stay_readable_json(tmp_path: Path) -> None:
    log = JsonLines(tmp_path / "metrics.jsonl", 1)
    log.on_evaluate(stepped(1), {"score": math.nan, "peak": math.inf})

    def refuse(constant: str) -> None:
        raise AssertionError(constant)

    assert json.loads((tmp_path / "metrics.jsonl").read_text(), parse_constant=refuse) == {
        "step": 1,
        "valid/score": None,
        "valid/peak": None,
    }


def test_a_log_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match=r"cannot write .*metrics\.jsonl"):
        JsonLines(tmp_path / "file" / "metrics.jsonl", 1).on_evaluate(stepped(1), {"score": 1.0})


def test_tensorboard_holds_the_same_figures(tmp_path: Path) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    board = TensorBoard(tmp_path, log_every=5)
    board.on_start(State())
    board.on_step(stepped(4, loss=9.0))
    board.on_step(stepped(5, loss=2.5))
    board.on_evaluate(stepped(5), {"score": 0.5})
    board.on_end(stepped(5))
    read = EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in read.Scalars("loss")] == [(5, 2.5)]
    assert [(e.step, e.value) for e in read.Scalars("valid/score")] == [(5, 0.5)]


def test_progress_is_a_line_on_a_terminal_and_silent_elsewhere(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    progress = Progress("toy")
    progress.on_start(State())
    progress.on_step(stepped(1, **{"model/loss": 1.5}))
    assert capsys.readouterr().err == ""
    progress.console = Console(file=io.StringIO(), force_terminal=True, width=70)
    progress.on_step(stepped(2, **{"model/loss": 0.5, "learning_rate": 1.0}))
    shown = capsys.readouterr().err
    assert "toy 2/100  model/loss 1.000" in shown
    assert "left" in shown
    assert "learning_rate" not in shown
    progress.on_evaluate(stepped(2), {"score": 0.25})
    assert "toy step 2: score 0.25" in capsys.readouterr().err


@pytest.mark.parametrize(("keep", "kept"), [(1, [12]), (2, [8, 12]), (9, [4, 6, 8, 12])])
def test_the_newest_stay_and_the_best(tmp_path: Path, keep: int, kept: list[int]) -> None:
    toys.install()
    train(toys.request("toylm", tmp_path / "run", loop__keep=keep), say=lambda text: None)
    steps = sorted(int(path.name[5:]) for path in (tmp_path / "run" / "checkpoints").glob("step-*"))
    best = json.loads((tmp_path / "run" / "checkpoints" / "best.json").read_text())["checkpoint"]
    assert steps == sorted({*kept, int(best[5:])})
    assert sorted(int(path.stem[5:]) for path in (tmp_path / "run" / "trainer").iterdir()) == kept


def test_the_best_stays_when_later_ones_are_worse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install()
    scores = iter([3.0, 1.0, 2.0, math.nan, 5.0, 4.0])
    monkeypatch.setattr(toys.ToyLmTask, "evaluate", lambda self: {"score": next(scores)})
    state = train(toys.request("toylm", tmp_path / "run", loop__evaluate_every=2, loop__keep=1), say=lambda text: None)
    folder = tmp_path / "run" / "checkpoints"
    assert json.loads((folder / "best.json").read_text()) == {"checkpoint": "step-00000004", "score": 1.0}
    assert sorted(path.name for path in folder.glob("step-*")) == ["step-00000004", "step-00000012"]
    assert (state.best_step, state.best_score) == (4, 1.0)


def test_warnings_of_the_task_are_told_at_evaluations(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install()
    monkeypatch.setattr(toys.ToyLmTask, "warnings", lambda self: ["codebook 2 has collapsed"])
    told: list[str] = []
    train(toys.request("toylm", tmp_path / "run"), say=told.append)
    assert told.count("warning: codebook 2 has collapsed") == 2


def test_samples_are_written_with_the_exported_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install()
    seen: list[tuple[bool, bool]] = []

    def note(self: toys.ToyLmTask, folder: Path) -> None:
        import torch

        seen.append((self.model.training, torch.is_grad_enabled()))
        assert folder.is_dir()

    monkeypatch.setattr(toys.ToyLmTask, "samples", note)
    train(toys.request("toylm", tmp_path / "run"), say=lambda text: None)
    assert seen == [(False, False)] * 2
