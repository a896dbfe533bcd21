from itertools import pairwise

import numpy as np
import pytest
import torch

from voder.systems.whisper.features import fit_window
from voder.systems.whisper.timing import (
    TimedWords,
    Word,
    cut_at_pause,
    cut_at_stops,
    join_punctuation,
    time_words,
    warp,
)
from voder.systems.whisper.tokenizer import WhisperTokenizer


def cheapest(cost, i=0, j=0):
    """By trying every path."""
    rows, columns = cost.shape
    if (i, j) == (rows - 1, columns - 1):
        return cost[i, j]
    steps = [(i + a, j + b) for a, b in ((1, 1), (1, 0), (0, 1)) if i + a < rows and j + b < columns]
    return cost[i, j] + min(cheapest(cost, *step) for step in steps)


@pytest.mark.parametrize("shape", [(1, 1), (1, 5), (5, 1), (3, 6), (5, 4)])
def test_the_warped_path_is_the_cheapest_monotonic_one(shape):
    cost = np.random.default_rng(sum(shape)).random(shape).astype(np.float32)
    path = warp(cost)
    assert path[:, 0].tolist() == [0, 0]
    assert path[:, -1].tolist() == [shape[0] - 1, shape[1] - 1]
    assert {tuple(b - a) for a, b in pairwise(path.T)} <= {(1, 1), (1, 0), (0, 1)}
    assert cost[path[0], path[1]].sum() == pytest.approx(cheapest(cost), rel=1e-5)


def test_words_cover_the_text_and_their_times_do_not_go_back(model, clips):
    tokenizer = WhisperTokenizer(51_865, language="en")
    states = model.encoder(fit_window(model.log_mel(torch.from_numpy(clips[2].samples), 32_000), 200))
    ids = tokenizer.encode(' He said, "good night" twice.')
    words = time_words(model, states, tokenizer, [50_364, *ids, 50_400], 150, offset_s=10.0).words
    assert "".join(word.text for word in words) == ' He said, "good night" twice.'
    assert [word.text for word in words][1:3] == [" said,", ' "good']
    times = [t for word in words for t in (word.start_s, word.end_s)]
    assert times == sorted(times)
    assert 10.0 <= times[0] <= times[-1] <= 11.5
    assert all(0 <= word.probability <= 1 for word in words)
    assert time_words(model, states, tokenizer, [50_364, 50_400], 150) == TimedWords(words=(), usual_s=0.0)


def test_punctuation_goes_with_its_word():
    words = [Word(text=t, start_s=i, end_s=i + 1, probability=1.0) for i, t in enumerate([" (", "a", ")", ",", " b"])]
    assert [w.text for w in join_punctuation(words)] == [" (a),", " b"]


def said(*words):
    return [Word(text=text, start_s=start, end_s=end, probability=1.0) for text, start, end in words]


def spans(words):
    return [(round(w.start_s, 6), round(w.end_s, 6)) for w in words]


def test_a_pause_at_a_full_stop_belongs_to_no_word():
    words = said((" Law", 2.0, 2.5), (".", 2.5, 4.0), (" We", 4.0, 6.0), (" saw", 6.0, 6.4), (" slowly", 6.4, 9.0))
    expected = [(2.0, 2.5), (2.5, 3.1), (5.4, 6.0), (6.0, 6.4), (6.4, 9.0)]
    assert spans(cut_at_stops(words, 0.6)) == expected
    assert cut_at_stops(words, 0.0) == words


def test_a_pause_before_a_segment_is_not_part_of_its_first_words():
    long_first = said((" We", 4.0, 6.0), (" saw", 6.0, 6.4))
    assert spans(cut_at_pause(long_first, 0.3, 0.0)) == [(5.4, 6.0), (6.0, 6.4)]
    long_second = said((" We", 4.0, 4.2), (" saw", 4.2, 6.4))
    assert spans(cut_at_pause(long_second, 0.3, 0.0)) == [(5.2, 5.8), (5.8, 6.4)]
    assert cut_at_pause(long_first, 0.3, 5.5) == long_first  # no pause: someone spoke until just now
