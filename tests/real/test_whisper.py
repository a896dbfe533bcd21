"""The published Whispers on the recordings that come with the package."""

import time
from itertools import pairwise

import numpy as np
import pytest

from voder import hub
from voder.audio.io import AudioClip
from voder.data.manifest import Manifest
from voder.demo.pipeline import digits_as_words
from voder.demo.strings import Takes
from voder.metrics.text import corpus_edits, pooled
from voder.text.normalize import normalize_words
from voder.transcripts import check_formats, configure, shown

pytestmark = [pytest.mark.real, pytest.mark.timeout(900)]
STRINGS = (
    "six one nine five",
    "four eight four two",
    "zero two three zero four",
    "eight nine five",
    "nine seven three",
)
MODELS = ("whisper-tiny.en", "whisper-base")


@pytest.fixture(scope="module")
def spoken(recordings):
    """Strings of digits as recorded by the speakers in turn."""
    takes = Takes(Manifest.open(recordings.known / "manifest.jsonl"), sample_rate_hz=8_000, peak=0.7)
    rng = np.random.default_rng(0)
    return [takes.join(takes.speakers[i % len(takes.speakers)], text.split(), rng) for i, text in enumerate(STRINGS)]


@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("beam_size", [1, 5])
def test_spoken_digits_are_recognised(weights, spoken, name, beam_size):
    listener = configure(weights(name), {"language": "en", "beam_size": beam_size})
    heard = [normalize_words(digits_as_words(found.text)) for found in listener.transcribe_batch(spoken)]
    counts = corpus_edits(STRINGS, heard)
    assert pooled(counts).errors <= 3, list(zip(STRINGS, heard, strict=True))  # of 19 words


def test_the_language_is_told(weights, spoken):
    chances = weights("whisper-base").identify_language(spoken[2].samples[0], spoken[2].sample_rate_hz)
    assert next(iter(chances)) == "en"


@pytest.mark.parametrize("name", MODELS)
def test_silence_noise_and_tones_are_no_speech(weights, name):
    t = np.arange(5 * 16_000) / 16_000
    noise = 0.1 * np.random.default_rng(0).standard_normal(len(t))
    sounds = [0 * t, noise, 0.3 * np.sin(2 * np.pi * 440 * t)]
    clips = [AudioClip(samples.astype(np.float32)[None], 16_000) for samples in sounds]
    assert [found.text for found in configure(weights(name), {"language": "en"}).transcribe_batch(clips)] == [
        "",
        "",
        "",
    ]


def test_words_have_times_inside_the_recording_and_in_order(weights, spoken):
    listener = configure(weights("whisper-base"), {"language": "en", "word_timestamps": True})
    found = listener.transcribe_batch(spoken[:1])[0]
    words = [word for segment in found.segments for word in segment.words]
    assert len(words) >= 1
    assert all(0 <= word.start_s <= word.end_s <= spoken[0].duration_s + 0.1 for word in words)
    assert all(a.start_s <= b.start_s for a, b in pairwise(words))
    for format_ in check_formats(listener, ["txt", "srt", "vtt", "tsv", "json"]):
        assert found.text.split()[0] in shown(found, format_)


@pytest.mark.parametrize("name", MODELS)
def test_loading_takes_less_than_three_seconds(weights, name):
    weights(name)
    began = time.process_time()
    hub.load(name)
    assert time.process_time() - began < 3
