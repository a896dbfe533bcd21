from dataclasses import replace

import numpy as np
import pytest
import torch

from voder.audio.io import AudioClip
from voder.errors import ConfigError
from voder.roles import Encoder, Transcriber, Translator, collate_clips
from voder.systems.whisper import SYSTEM, WhisperModel
from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.infer import WhisperTranscriber
from voder.systems.whisper.longform import dictate

PLAIN = ListenConfig(language="en", temperatures=(0.0,), logprob_threshold=None, no_speech_threshold=None, sample_len=8)


@pytest.fixture(scope="module")
def ears(model):
    return WhisperTranscriber(model, PLAIN)


def test_it_has_its_roles(ears):
    assert isinstance(ears, Transcriber)
    assert isinstance(ears, Translator)
    assert isinstance(ears, Encoder)


def test_recordings_are_heard_side_by_side_as_if_alone(ears, clips):
    together = ears.transcribe_batch(clips)
    assert together == [ears.transcribe(clip) for clip in clips]
    assert len(together[3].segments) > len(together[0].segments)


def test_more_recordings_than_a_batch_holds_all_come_back(model, clips, ears):
    from voder.systems.whisper.longform import Dictation

    def dictations():
        return [Dictation(model.log_mel(torch.from_numpy(c.samples), 32_000), PLAIN, 51_865, 200, 48) for c in clips]

    wide, narrow = dictations(), dictations()
    dictate(model, wide)
    dictate(model, narrow, batch_size=1)
    assert [d.text for d in wide] == [d.text for d in narrow]


def test_times_are_ordered_and_never_past_the_end(ears, clips):
    for clip in clips:
        heard = ears.transcribe(clip)
        times = [(s.start_s, s.end_s) for s in heard.segments]
        assert all(0 <= start <= end <= clip.duration_s for start, end in times)
        assert [s.window_frame for s in heard.segments] == sorted(s.window_frame for s in heard.segments)
        assert heard.heard_s == clip.duration_s


def test_any_rate_and_channel_count_is_heard(ears, clips):
    stereo = AudioClip(np.repeat(clips[2].samples, 2, axis=0), 48_000)
    assert ears.transcribe(stereo).heard_s == pytest.approx(40_000 / 48_000)


def test_only_the_stretches_asked_for_are_heard(ears, clips):
    heard = ears.configured(clip_timestamps_s=(2.0, 3.0, 5.0)).transcribe(clips[3])
    starts = {s.window_frame for s in heard.segments}
    assert starts
    assert all(200 <= s < 300 or s >= 500 for s in starts)


BASE = {"temperatures": (0.0,), "timestamps": True}


@pytest.mark.parametrize(
    "options",
    [
        {"task": "translate"},
        {"language": "de"},
        {"beam_size": 4},
        {"beam_size": 4, "length_penalty": 1.0},
        {"temperatures": (1.0,)},
        {"temperatures": (1.0,), "best_of": 1},
        {"temperatures": (1.0,), "seed": 7},
        {"sample_len": 2},
        {"suppress_tokens": tuple(range(20_000, 30_000))},
        {"timestamps": False},
        {"max_initial_timestamp_s": 0.0},
        {"initial_prompt": "a glossary"},
        {"condition_on_previous_text": False},
        {"initial_prompt": "a glossary", "carry_initial_prompt": True, "condition_on_previous_text": False},
        {"no_speech_threshold": 0.0},
        {"word_timestamps": True},
    ],
    ids=str,
)
def test_an_option_acts(ears, clips, options):
    def shown(listener):
        found = listener.transcribe(clips[3]).segments
        return [(s.ids, s.start_s, s.words and len(s.words), round(s.mean_log_probability, 5)) for s in found]

    assert shown(ears.configured(**options)) != shown(ears)


def test_options_out_of_range_and_unknown_languages_are_refused(ears):
    for wrong in ({"beam_size": 0}, {"temperatures": ()}, {"sample_len": 0}, {"clip_timestamps_s": (3.0, 2.0)}):
        with pytest.raises(ConfigError):
            ears.configured(**wrong)
    with pytest.raises(ConfigError, match="welsh"):
        ears.configured(language="welch")


def test_an_english_only_model_does_not_translate():
    config = replace(SYSTEM.preset("tiny").model, vocabulary_size=51_864)
    listener = WhisperTranscriber(WhisperModel(config).eval())
    with pytest.raises(ConfigError, match="English-only"):
        listener.configured(task="translate")
    clip = AudioClip(np.zeros((1, 1600), np.float32), 16_000)
    assert listener.configured(temperatures=(0.0,), sample_len=2).transcribe(clip).language == "en"


def test_the_language_is_identified_once_and_used(model, clips):
    listener = WhisperTranscriber(model, replace(PLAIN, language=None))
    chances = listener.identify_language(clips[2])
    assert sum(chances.values()) == pytest.approx(1.0, abs=1e-4)
    assert len(chances) == 99
    assert listener.transcribe(clips[2]).language == next(iter(chances))


def test_silence_gives_no_text_when_the_model_says_so(ears):
    clip = AudioClip(np.zeros((1, 48_000), np.float32), 16_000)
    quiet = ears.configured(no_speech_threshold=0.0, logprob_threshold=0.0)
    heard = quiet.transcribe(clip)
    assert (heard.text, heard.segments, heard.truncated) == ("", (), False)


def test_the_record_has_the_names_of_the_original(ears, clips):
    record = ears.configured(word_timestamps=True).transcribe(clips[2]).record()
    assert set(record) == {"text", "segments", "language"}
    assert {"id", "seek", "start", "end", "text", "tokens", "words"} <= set(record["segments"][0])


def test_encoding_a_batch_gives_each_recording_its_own_states(ears, clips):
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    with torch.no_grad():
        together = ears.encode_batch(audio, lengths)
        early = ears.encode_batch(audio, lengths, layer=1)
    for row, clip in enumerate(clips):
        alone = ears.features(clip)
        assert len(alone) == -(-clip.num_samples // 320)
        np.testing.assert_allclose(together.values[row, together.valid[row]].numpy(), alone, atol=1e-4)
    assert not torch.allclose(early.values, together.values)


@pytest.mark.parametrize("num_samples", [1, 159, 160, 201, 32_000, 32_001])
def test_recordings_from_one_sample_to_a_window_and_more_come_back(ears, num_samples):
    found = ears.transcribe(AudioClip(np.full((1, num_samples), 0.1, np.float32), 16_000))
    assert found.heard_s == num_samples / 16_000
    assert all(0 <= s.start_s <= s.end_s <= found.heard_s for s in found.segments)
    assert bool(found.segments) <= (num_samples >= 160)


def test_beams_of_several_recordings_are_searched_side_by_side(ears, clips):
    listener = ears.configured(beam_size=3)
    assert listener.transcribe_batch(clips[1:]) == [listener.transcribe(clip) for clip in clips[1:]]


def test_half_precision_weights_take_recordings_as_they_are(clips):
    torch.manual_seed(1)
    half = WhisperTranscriber(WhisperModel(SYSTEM.preset("tiny").model).eval().to(torch.bfloat16), PLAIN)
    heard = half.transcribe(clips[1])
    assert heard.heard_s == clips[1].duration_s
    assert sum(half.identify_language(clips[1].samples[0], 16_000).values()) == pytest.approx(1)


def test_options_nobody_knows_are_refused_with_the_nearest(ears):
    with pytest.raises(ConfigError, match="no option 'beam_sizes' for listening; the nearest is 'beam_size'"):
        ears.configured(beam_sizes=5)
