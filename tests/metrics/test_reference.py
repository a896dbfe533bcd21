import builtins
from pathlib import Path

import pytest

from voder.evaluate.verify import runners, verify_fixtures
from voder.metrics.reference import KINDS

FOLDER = Path(__file__).parents[1] / "fixtures" / "metrics"


@pytest.mark.parametrize("case", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_figures_are_met(case):
    if case.stem == "audio_metrics":
        pytest.importorskip("pesq")
    result = verify_fixtures(case, kinds=KINDS)
    assert [(o.status, o.details) for o in result.outcomes] == [("pass", ())]


def test_the_measures_are_among_the_runners():
    assert KINDS.keys() <= runners().keys()


def test_without_a_package_the_case_is_skipped_by_name(monkeypatch):
    from voder.metrics import reference

    def missing(name):
        if name == "pesq":
            raise ModuleNotFoundError("No module named 'pesq'", name="pesq")
        return builtins.__import__(name)

    monkeypatch.setattr(reference.importlib, "import_module", missing)
    result = verify_fixtures(FOLDER / "audio_metrics.json", kinds=KINDS)
    assert [(o.status, o.details) for o in result.outcomes] == [("skipped", ("needs the package pesq",))]
