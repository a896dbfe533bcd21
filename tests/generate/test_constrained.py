"""Constrained decoding: a model that wants anything else still keeps to the grammar."""

import torch

from voder.generate.constrained import ConstrainedSession
from voder.generate.decode import Limits, decode
from voder.generate.sampling import SamplingConfig
from voder.sequence.spans import SpanGrammar, SpanKind, SpanLayout

LAYOUT = SpanLayout([SpanKind(name="speech", first=4, size=4, start=8, end=9, levels=2)], 10)
END = 3


class Wilful:
    """Wants the same ids whatever was said."""

    def __init__(self, rows, wanted):
        self.wanted = torch.zeros(rows, 12)
        self.wanted[:, wanted] = 5.0
        self.wanted += 0.1 * torch.arange(12)

    def start(self):
        return self.wanted

    def step(self, ids):
        return self.wanted[: len(ids)]

    def select(self, rows):
        self.wanted = self.wanted[rows]


def run(wanted, rooms, **settings):
    grammar = SpanGrammar(LAYOUT, end_ids=(END,), **settings)
    session = ConstrainedSession(Wilful(len(rooms), wanted), grammar, rooms)
    limits = Limits(end_ids=(END,), max_lengths=rooms)
    return [row.ids for row in decode(session, SamplingConfig(greedy=True), limits, [torch.Generator()] * len(rooms))]


def test_a_stretch_that_begins_is_completed_whatever_the_room():
    for row in run([8], [4, 5, 6, 11], kinds=("speech",)):
        assert [segment.closed for segment in LAYOUT.segments(row)].count(False) == 0
        assert LAYOUT.segments(row)


def test_there_is_no_stretch_where_there_is_no_room():
    assert all(not any(id_ >= 4 for id_ in row) for row in run([8], [1, 2, 3], kinds=("speech",)))


def test_what_is_required_comes_even_from_a_model_that_wants_to_end():
    for row in run([END], [4, 9], kinds=("speech",), required="speech"):
        assert [segment.kind for segment in LAYOUT.segments(row) if segment.closed][-1] == "speech"


def test_rows_beyond_the_vocabulary_and_other_kinds_are_never_said():
    assert all(id_ < 4 for row in run([11, 8, 5], [6, 6]) for id_ in row)
