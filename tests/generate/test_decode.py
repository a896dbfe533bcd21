"""The engine: batched = alone, stops, limits, allowed ranges, streaming."""

import importlib.util
from pathlib import Path

import pytest
import torch

from voder.generate.decode import Decoded, Limits, decode, stream
from voder.generate.sampling import SamplingConfig

_spec = importlib.util.spec_from_file_location("generate_toy", Path(__file__).with_name("toy.py"))
assert _spec is not None
assert _spec.loader is not None
toy = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(toy)

END = 3
SAMPLING = SamplingConfig()


def noise(rows: list[int]) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(row) for row in rows]


def run(rows: list[int], longest: int = 12, sampling: SamplingConfig = SAMPLING, **limits: object) -> list[Decoded]:
    bounds = Limits(end_ids=(END,), max_lengths=[longest] * len(rows), **limits)  # type: ignore[arg-type]
    return decode(toy.ToySession(rows), sampling, bounds, noise(rows))


def test_batched_equals_alone_while_rows_leave_the_batch() -> None:
    rows = list(range(16))
    together = run(rows)
    assert len({len(each.ids) for each in together}) > 3
    for row, each in zip(rows, together, strict=True):
        assert run([row])[0] == each


def test_rows_that_ended_are_no_longer_computed() -> None:
    rows = list(range(16))
    session = toy.ToySession(rows)
    decode(session, SAMPLING, Limits(end_ids=(END,), max_lengths=[40] * 16), noise(rows))
    assert session.computed < 0.7 * 16 * (session.steps + 1)


def test_greedy_says_the_argmax_until_the_end() -> None:
    session = toy.ToySession([4])
    said = run([4], sampling=SamplingConfig(greedy=True), longest=50)[0]
    ids: tuple[int, ...] = ()
    while (best := int(session.of(4, ids).argmax())) != END and len(ids) < 50:
        ids = (*ids, best)
    assert said.ids == list(ids)


def test_every_row_says_how_it_stopped() -> None:
    results = run(list(range(20)), longest=4)
    assert {each.stop_reason for each in results} == {"end", "limit"}
    for each in results:
        assert END not in each.ids
        assert (len(each.ids) == 4) if each.truncated else (len(each.ids) <= 4)


def test_limits_are_per_row_and_zero_says_nothing() -> None:
    rows = [0, 1, 2]
    limits = Limits(end_ids=(), max_lengths=[0, 2, 5])
    results = decode(toy.ToySession(rows), SAMPLING, limits, noise(rows))
    assert [len(each.ids) for each in results] == [0, 2, 5]
    assert {each.stop_reason for each in results} == {"limit"}


def test_no_end_before_the_shortest_length() -> None:
    assert min(len(each.ids) for each in run(list(range(20)))) < 3
    assert min(len(each.ids) for each in run(list(range(20)), min_lengths=[3] * 20)) == 3


def test_only_allowed_ids_are_said_and_the_end_always_may() -> None:
    allowed = torch.tensor([True, False, True, False])
    results = run(list(range(20)), allowed=allowed)
    assert {id_ for each in results for id_ in each.ids} == {0, 2}
    assert "end" in {each.stop_reason for each in results}


def test_a_repetition_penalty_acts() -> None:
    plain = run(list(range(20)))
    varied = run(list(range(20)), sampling=SamplingConfig(repetition_penalty=50.0, repetition_window=2))
    assert plain != varied

    def repeats(results: list[Decoded]) -> float:
        pairs = [a == b for each in results for a, b in zip(each.ids, each.ids[1:], strict=False)]
        return sum(pairs) / len(pairs)

    assert repeats(varied) < repeats(plain)


@pytest.mark.parametrize(
    "option", [{"temperature": 0.05}, {"top_k": 1}, {"top_p": 0.01}, {"greedy": True}, {"temperature": 20.0}]
)
def test_every_option_acts(option: dict[str, float]) -> None:
    assert run(list(range(20)), sampling=SamplingConfig(**option)) != run(list(range(20)))  # type: ignore[arg-type]


def test_the_stream_gives_the_same_ids_one_step_at_a_time() -> None:
    rows = list(range(6))
    limits = Limits(end_ids=(END,), max_lengths=[12] * 6)
    ids: dict[int, list[int]] = {row: [] for row in rows}
    ends = {}
    for events in stream(toy.ToySession(rows), SAMPLING, limits, noise(rows)):
        for said in events:
            assert said.row not in ends
            if said.id is not None:
                ids[said.row].append(said.id)
            if said.stop_reason:
                ends[said.row] = said.stop_reason
    assert [Decoded(ids[row], ends[row]) for row in rows] == run(rows)


def test_a_stream_may_be_left_early() -> None:
    session = toy.ToySession([1])
    events = stream(session, SAMPLING, Limits(end_ids=(), max_lengths=[1000]), noise([1]))
    for _ in range(3):
        next(events)
    assert session.steps == 2
