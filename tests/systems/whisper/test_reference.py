from pathlib import Path

import pytest

from voder.evaluate.verify import verify_fixtures
from voder.systems.whisper.reference import KINDS

FOLDER = Path(__file__).parents[2] / "fixtures" / "whisper"


@pytest.mark.parametrize("case", sorted(FOLDER.glob("*.json")), ids=lambda path: path.stem)
def test_recorded_behaviour_of_the_original_is_met(case):
    result = verify_fixtures(case, kinds=KINDS)
    assert [(o.status, o.details) for o in result.outcomes] == [("pass", ())]


def test_every_kind_is_tried():
    assert {f"whisper/{path.stem}" for path in FOLDER.glob("*.json")} == set(KINDS)
