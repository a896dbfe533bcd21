"""A figure's verdict is what its promise says, and what is printed never hides a miss."""

import json
import math

import pytest

from voder.evaluate.figures import Figure


def figure(value, **rest):
    return Figure(name="errors", value=value, unit="%", **rest)


@pytest.mark.parametrize(
    ("value", "must", "aim", "verdict"),
    [
        (4.0, 8.0, 4.0, "aim met"),
        (4.1, 8.0, 4.0, "met"),
        (8.0, 8.0, 4.0, "met"),
        (8.1, 8.0, 4.0, "missed"),
        (8.1, 8.0, None, "missed"),
        (7.9, 8.0, None, "met"),
        (4.0, None, 4.0, "aim met"),
        (4.1, None, 4.0, "reported"),
        (4.1, None, None, "reported"),
        (None, 8.0, 4.0, "missed"),
        (None, None, 4.0, "reported"),
    ],
)
def test_verdict_of_an_error_rate(value, must, aim, verdict):
    assert figure(value, must=must, aim=aim).verdict() == verdict


def test_verdict_turns_where_more_is_better():
    for value, verdict in ((0.9, "aim met"), (0.85, "met"), (0.8, "missed")):
        assert Figure(name="STOI", value=value, must=0.82, aim=0.87, lower_is_better=False).verdict() == verdict


def test_a_miss_is_never_rounded_onto_the_must():
    assert figure(5.04, must=5.0).shown() == "5.04\u00a0%"
    assert figure(5.0, must=5.0).shown() == "5.0\u00a0%"
    assert figure(3.0, must=5.0).shown() == "3.0\u00a0%"


def test_units_are_written_once_and_limits_without_needless_zeros():
    assert Figure(name="rate", value=1600.0, unit="bit/s").shown() == "1,600\u00a0bit/s"
    assert Figure(name="STOI", value=0.8714).shown() == "0.871"
    assert figure(None).shown() == "not measured"
    assert figure(2.0, interval=(0.7, 5.44)).shown_interval() == "0.7 – 5.4\u00a0%"
    assert figure(2.0).shown_interval() == ""
    assert figure(1.0, must=5.0).limit(5.0) == "5\u00a0%"
    assert figure(1.0).limit(20 / 3) == "6.67\u00a0%"
    assert Figure(name="memory", value=1.0, unit="MB").limit(4000.0) == "4,000\u00a0MB"


def test_numbers_that_are_not_finite_are_refused_by_name():
    for bad in ({"value": math.nan}, {"value": 1.0, "chance": math.inf}, {"value": 1.0, "interval": (0.0, math.nan)}):
        with pytest.raises(ValueError, match="'errors' has a number that is not finite"):
            Figure(name="errors", **bad)


def test_an_aim_weaker_than_the_must_is_refused():
    with pytest.raises(ValueError, match="aim 9, weaker than its must 8"):
        figure(1.0, must=8.0, aim=9.0)


def test_to_dict_is_json_with_every_field_and_the_verdict():
    made = figure(
        2.0, must=5.0, n=100, chance=90.0, judge="ears", originals=1.0, interval=(1.0, 3.0), note="x"
    ).to_dict()
    assert json.loads(json.dumps(made)) == made
    assert made["verdict"] == "met"
    assert made["interval"] == [1.0, 3.0]
    assert {"name", "value", "n", "chance", "must", "aim", "judge", "originals", "unit", "note"} <= made.keys()
