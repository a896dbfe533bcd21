from pathlib import Path

import pytest

from voder.evaluate.verify import verify_fixtures
from voder.systems.audiolm.reference import KINDS

FOLDER = Path(__file__).parents[2] / "fixtures" / "audiolm"


@pytest.mark.parametrize("case", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_the_layout_of_the_paper_is_met(case):
    result = verify_fixtures(case, kinds=KINDS)
    assert [(o.status, o.details) for o in result.outcomes] == [("pass", ())]


def test_every_kind_is_tried():
    assert {f"audiolm/{path.stem}" for path in FOLDER.glob("*.json")} == set(KINDS)
