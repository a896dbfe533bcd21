"""A stage that ended is reused; one that was interrupted, or was asked for with other settings, is done again."""

import json
from pathlib import Path

import pytest

from voder.demo.stages import Stages


def test_a_finished_stage_is_reused(tmp_path: Path) -> None:
    calls = []
    for _ in range(2):
        result = Stages(tmp_path).run("one", {"seed": 0}, lambda: calls.append(1) or {"n": len(calls)}, title="one")
        assert result == {"n": 1}
    assert len(calls) == 1


def test_other_settings_do_the_work_again(tmp_path: Path) -> None:
    first = Stages(tmp_path).run("one", {"seed": 0}, lambda: {"n": 1}, title="one")
    second = Stages(tmp_path).run("one", {"seed": 1}, lambda: {"n": 2}, title="one")
    assert (first, second) == ({"n": 1}, {"n": 2})


def test_an_interrupted_stage_leaves_nothing(tmp_path: Path) -> None:
    def interrupted() -> dict[str, int]:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        Stages(tmp_path).run("one", {}, interrupted, title="one")
    assert list((tmp_path / "stages").iterdir()) == []
    assert Stages(tmp_path).run("one", {}, lambda: {"n": 3}, title="one") == {"n": 3}


def test_a_record_says_how_long_it_took(tmp_path: Path) -> None:
    stages = Stages(tmp_path)
    stages.run("one", {"seed": 0}, dict, title="the first")
    record = json.loads((tmp_path / "stages" / "one.json").read_text())
    assert record == stages.records[0]
    assert record["seconds"] >= 0
    assert record["peak_memory_mb"] > 0
