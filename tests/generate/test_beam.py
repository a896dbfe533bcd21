"""Beam search against enumeration of everything."""

import importlib.util
import itertools
from pathlib import Path

import pytest
import torch

from voder.errors import ConfigError
from voder.generate.beam import BeamConfig, Hypothesis, beam_search
from voder.generate.decode import Limits, decode
from voder.generate.sampling import SamplingConfig

_spec = importlib.util.spec_from_file_location("generate_toy", Path(__file__).with_name("toy.py"))
assert _spec is not None
assert _spec.loader is not None
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

SIZE, END = 3, 2


def enumerate_all(row: int, longest: int, penalty: float) -> list[tuple[tuple[int, ...], float]]:
    """Every hypothesis with its normalised score, best first."""
    session = toy.ToySession([row], SIZE)

    def log_probability(ids: tuple[int, ...]) -> float:
        steps = [session.of(row, ids[:i]).double().log_softmax(-1)[id_] for i, id_ in enumerate(ids)]
        return float(sum(steps))

    found = []
    for length in range(1, longest + 1):
        for ids in itertools.product(range(SIZE), repeat=length):
            ended = ids[-1] == END
            if END in ids[:-1] or (not ended and length < longest):
                continue
            found.append((ids[:-1] if ended else ids, log_probability(ids) / length**penalty))
    return sorted(found, key=lambda each: -each[1])


def run(rows: list[int], longest: list[int], num_beams: int, penalty: float = 1.0) -> list[list[Hypothesis]]:
    limits = Limits(end_ids=(END,), max_lengths=longest)
    config = BeamConfig(num_beams=num_beams, length_penalty=penalty)
    return beam_search(toy.ToySession(rows, SIZE), config, limits)


@pytest.mark.parametrize("penalty", [0.0, 1.0, 2.0])
@pytest.mark.parametrize("row", [1, 2, 3])
def test_a_wide_enough_beam_equals_enumeration(row: int, penalty: float) -> None:
    expected = enumerate_all(row, 4, penalty)
    found = run([row], [4], num_beams=len(expected), penalty=penalty)[0]
    assert [h.ids for h in found] == [ids for ids, _ in expected]
    for hypothesis, (_, score) in zip(found, expected, strict=True):
        assert hypothesis.score == pytest.approx(score, abs=1e-5)


def test_batched_equals_alone() -> None:
    rows, longest = list(range(8)), [3, 4, 5, 6, 3, 4, 5, 6]
    for row, limit, together in zip(rows, longest, run(rows, longest, 3), strict=True):
        alone = run([row], [limit], 3)[0]
        assert [(h.ids, h.stop_reason) for h in alone] == [(h.ids, h.stop_reason) for h in together]


def test_one_beam_is_greedy() -> None:
    rows = list(range(8))
    greedy = decode(
        toy.ToySession(rows, SIZE),
        SamplingConfig(greedy=True),
        Limits(end_ids=(END,), max_lengths=[6] * 8),
        [torch.Generator()] * 8,
    )
    found = run(rows, [6] * 8, num_beams=1, penalty=0.0)
    assert [list(hypotheses[0].ids) for hypotheses in found] == [each.ids for each in greedy]


def test_more_beams_find_nothing_worse() -> None:
    for row in range(8):
        best = [run([row], [6], beams)[0][0].score for beams in (1, 4, 64)]
        assert best[2] >= best[0] - 1e-9
        assert best[2] >= best[1] - 1e-9


def test_the_length_penalty_acts() -> None:
    lengths = [sum(len(found[0].ids) for found in run(list(range(12)), [6] * 12, 8, penalty)) for penalty in (0.0, 3.0)]
    assert lengths[0] < lengths[1]


def test_a_hypothesis_says_how_it_stopped() -> None:
    for found in run(list(range(8)), [3] * 8, 4):
        for hypothesis in found:
            assert (hypothesis.stop_reason == "limit") == (len(hypothesis.ids) == 3)


@pytest.mark.parametrize("wrong", [{"num_beams": 0}, {"length_penalty": -1.0}])
def test_options_out_of_range_are_refused(wrong: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match="at least"):
        BeamConfig(**wrong)  # type: ignore[arg-type]
