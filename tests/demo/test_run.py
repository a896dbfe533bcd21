"""The whole demo on a tenth of the recordings and a few steps: every stage runs, ends, and is reused."""

import json
import zipfile
from pathlib import Path

import pytest

from voder.demo import pipeline, recordings, run
from voder.demo.promises import BUNDLED, NEW_AFTER
from voder.errors import InputError


@pytest.fixture
def small(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A demo folder; the archive holds takes 3 to 9 only, and few strings are said."""
    archive = tmp_path / "digits.zip"
    with zipfile.ZipFile(recordings.ARCHIVE) as whole, zipfile.ZipFile(archive, "w") as part:
        for name in whole.namelist():
            content = whole.read(name)
            if name.endswith(".jsonl"):
                lines = [x for x in content.splitlines() if _few(json.loads(x)["audio"])]
                part.writestr(name, b"\n".join(lines) + b"\n")
            elif not name.startswith(("known/audio", "new/audio")) or _few(name):
                part.writestr(name, content)
    monkeypatch.setattr(recordings, "ARCHIVE", archive)
    for name, value in {"NUM_STRINGS": 4, "NUM_NEW_STRINGS": 4}.items():
        monkeypatch.setattr(pipeline, name, value)
    quick = ("loop.steps=2", "loop.evaluate_every=2", "loop.save_every=1", "task.batch_tokens=300")
    monkeypatch.setattr(run, "TUNE_OVERRIDES", quick)
    return tmp_path / "demo"


def _few(name: str) -> bool:
    return int(Path(name).stem.rsplit("_", 1)[1]) < 10


def test_the_demo_runs_and_is_reused(small: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = run.run_demo(small, seed=3, command="voder demo")
    report = json.loads((small / "report.json").read_text())
    names = {figure["name"] for figure in report["figures"]}
    assert {*BUNDLED, NEW_AFTER} <= names
    assert all(figure["judge"] for figure in report["figures"] if figure["chance"] is not None)
    assert report["bundled"] is True
    html = page.read_text()
    for heading in ("Figures", "Listen", "Spectrograms", "Codebook usage", "Training curves"):
        assert heading in html
    assert "voder prepare FOLDER" in capsys.readouterr().out
    run.run_demo(small, seed=3, command="voder demo")
    assert capsys.readouterr().err.count("done before, reused") == len(report["stages"])
    assert json.loads((small / "report.json").read_text())["figures"] == report["figures"]


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path) -> None:
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(InputError, match="not a demo's folder"):
        run.run_demo(tmp_path)
    with pytest.raises(InputError, match="not a demo's folder"):
        run.run_demo(tmp_path, fresh=True)
    assert (tmp_path / "thesis.txt").read_text() == "mine"
