"""Other published weights: a judge of voices and a language model."""

import itertools

import numpy as np
import pytest

from voder.data.manifest import Manifest
from voder.demo.strings import Takes

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]


def test_the_judge_of_voices_tells_speakers_apart(weights, recordings):
    judge = weights("ge2e")
    takes = Takes(Manifest.open(recordings.known / "manifest.jsonl"), sample_rate_hz=8_000, peak=0.7)
    rng = np.random.default_rng(0)
    words = ["three", "five", "nine", "two", "eight", "one"]
    voices = {
        s: [judge.embed(c.samples, 8_000) for c in (takes.join(s, words, rng) for _ in range(3))]
        for s in takes.speakers
    }
    same = [a @ b for own in voices.values() for a, b in itertools.combinations(own, 2)]
    other = [a @ b for x, y in itertools.combinations(voices.values(), 2) for a in x for b in y]
    assert np.mean(same) > np.mean(other) + 0.1
    assert np.mean([s > np.median(other) for s in same]) > 0.9


def test_the_language_model_answers(weights):
    model = weights("smollm2-135m-instruct")
    answer = model.chat("What is the capital of France?", max_new=24, greedy=True)
    assert "Paris" in answer
