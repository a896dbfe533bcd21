from pathlib import Path

import pytest

from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases, read_case
from voder.systems.unitvocoder.reference import KINDS

FIXTURES = Path(__file__).parents[2] / "fixtures"
CASES = [
    path for name in ("hifigan", "speechgpt") for path in find_cases(FIXTURES / name) if read_case(path).kind in KINDS
]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_there_is_a_case_of_every_kind():
    assert {read_case(path).kind for path in CASES} == set(KINDS)
