"""Kill -9 at random moments, fifty times: the weights and the log are those of runs that nobody killed."""

import json
import os
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest

KILLS = 25
"""Of the codec, and of the language model."""


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_fifty_kills_change_no_bit(tmp_path: Path) -> None:
    script = Path(__file__).with_name("kill_often.py")
    paths = os.pathsep.join([str(script.parents[1]), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-W", "error", str(script), str(tmp_path), "2026", str(KILLS)],
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": paths},
    )
    assert done.returncode == 0, done.stderr
    fell: Counter[str] = Counter()
    for system, report in json.loads(done.stdout).items():
        sys.stderr.write(f"{system}: {json.dumps(report)}\n")
        assert report["different"] == []
        assert report["kills"] >= KILLS
        fell.update(report["fell"])
    assert any(place.endswith("before the first checkpoint") for place in fell)
    assert any(place.startswith("a step") for place in fell)
    assert any(place.startswith(("a save", "pruning", "the mark")) for place in fell)
