"""Marked stretches: built and parsed on ids, kept to by a grammar."""

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from voder.errors import TokensError
from voder.sequence.spans import Segment, SpanGrammar, SpanKind, SpanLayout, SpanState

SPEECH = SpanKind(name="speech", first=10, size=5, start=15, end=16)
MUSIC = SpanKind(name="music", first=17, size=6, start=23, end=24, levels=2)
IMAGE = SpanKind(name="image", first=25, size=4, start=29, end=30, length=3)
LAYOUT = SpanLayout([SPEECH, MUSIC, IMAGE], 31)


def test_a_stretch_is_start_codes_end_and_comes_back():
    ids = LAYOUT.lay(["ab", ("speech", (0, 4)), 3, ("image", (1, 1, 2)), "c"], lambda text: [ord(c) - 96 for c in text])
    assert ids == [1, 2, 15, 10, 14, 16, 3, 29, 26, 26, 27, 30, 3]
    assert LAYOUT.segments(ids) == [
        Segment(None, (1, 2)),
        Segment("speech", (0, 4)),
        Segment(None, (3,)),
        Segment("image", (1, 1, 2)),
        Segment(None, (3,)),
    ]
    assert LAYOUT.segments(LAYOUT.ids("speech", ())) == [Segment("speech", ())]


def test_codes_out_of_range_and_kinds_that_are_not_there_are_refused():
    with pytest.raises(TokensError, match="speech code 5 lies outside 0 to 4"):
        LAYOUT.ids("speech", [5])
    with pytest.raises(TokensError, match="speech code -1"):
        LAYOUT.ids("speech", [-1])
    with pytest.raises(TokensError, match="3 codes; 2 were given"):
        LAYOUT.ids("image", [0, 1])
    with pytest.raises(TokensError, match=r"no smell; it has speech, music, image"):
        LAYOUT.ids("smell", [0])
    with pytest.raises(ValueError, match="overlap"):
        SpanLayout([SPEECH, SpanKind(name="other", first=14, size=2, start=20, end=21)], 31)
    with pytest.raises(ValueError, match="beyond"):
        SpanLayout([IMAGE], 30)


@pytest.mark.parametrize(
    ("ids", "found"),
    [
        ([15, 10], [Segment("speech", (0,), closed=False)]),
        ([15, 10, 1, 16], [Segment("speech", (0,), False), Segment(None, (1,)), Segment("speech", (), False)]),
        ([10, 1], [Segment("speech", (0,), False), Segment(None, (1,))]),
        ([16], [Segment("speech", (), False)]),
        ([15, 17, 16], [Segment("speech", (), False), Segment("music", (0,), False), Segment("speech", (), False)]),
        ([15, 10, 15, 11, 16], [Segment("speech", (0,), False), Segment("speech", (1,))]),
        ([29, 25, 30], [Segment("image", (0,), closed=False)]),
        ([], []),
    ],
)
def test_what_is_broken_is_marked_and_nothing_is_lost(ids, found):
    assert LAYOUT.segments(ids) == found


@settings(max_examples=50, deadline=None)
@given(st.lists(st.integers(0, 2), max_size=12), st.lists(st.integers(0, 2), max_size=12))
def test_interleaving_frames_can_be_undone(first, second):
    count = min(len(first), len(second))
    codes = np.array([first[:count], second[:count]], np.int64).reshape(2, count)
    flat = MUSIC.flatten(codes)
    assert np.array_equal(MUSIC.unflatten(flat.tolist()), codes)
    assert np.array_equal(MUSIC.unflatten([*flat.tolist(), 1]), codes)  # half a frame is left out


def test_other_levels_are_refused():
    with pytest.raises(TokensError, match="1 levels; 2 are wanted"):
        MUSIC.flatten(np.zeros((1, 3), np.int64))
    with pytest.raises(TokensError, match="0 to 2"):
        MUSIC.flatten(np.full((2, 1), 3))


def say(grammar, room, seed, ends=(9,)):
    """Say allowed ids at random until an end or the room is used up."""
    draw = torch.Generator().manual_seed(seed)
    state, said = SpanState(room=room), []
    while state.room:
        choices = grammar.allowed(state).nonzero()[:, 0]
        assert len(choices), (said, state)
        id_ = int(choices[int(torch.randint(len(choices), (1,), generator=draw))])
        if id_ in ends and state.kind is None:
            return said
        said.append(id_)
        grammar.advance(state, id_)
    return said


@pytest.mark.parametrize("required", [None, "speech", "music", "image"])
def test_whatever_is_said_every_stretch_is_whole(required):
    for seed in range(40):
        room = 5 + seed % 20
        grammar = SpanGrammar(
            LAYOUT, kinds=("speech", "music", "image"), forbidden=(0,), end_ids=(9,), required=required
        )
        segments = LAYOUT.segments(say(grammar, room, seed))
        assert all(segment.closed for segment in segments)
        assert all(len(segment.ids) % 2 == 0 for segment in segments if segment.kind == "music")
        assert all(code // 3 == place % 2 for s in segments if s.kind == "music" for place, code in enumerate(s.ids))
        assert all(segment.ids for segment in segments)
        assert required is None or required in [segment.kind for segment in segments]
        assert not any(0 in segment.ids for segment in segments if segment.kind is None)


def test_text_alone_and_stretches_alone():
    for seed in range(20):
        assert all(s.kind is None for s in LAYOUT.segments(say(SpanGrammar(LAYOUT, end_ids=(9,)), 12, seed)))
        only = SpanGrammar(LAYOUT, text=False, kinds=("music",), end_ids=(9,), required="music")
        assert {s.kind for s in LAYOUT.segments(say(only, 12, seed))} == {"music"}
