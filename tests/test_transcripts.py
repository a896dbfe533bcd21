"""Transcripts in files: batches, formats, and what a recogniser without options and times refuses."""

import json

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.errors import ConfigError
from voder.roles import Transcriber, Transcript
from voder.systems.whisper.infer import WhisperTranscriber
from voder.transcripts import (
    check_formats,
    check_names,
    configure,
    record,
    shown,
    transcribe_files,
    write_files,
)


class Counter(Transcriber):
    """Says how long each clip is, and remembers how many came together."""

    def __init__(self):
        super().__init__()
        self.batches = []

    def transcribe_batch(self, clips):
        self.batches.append(len(clips))
        return [Transcript(text=f"{clip.num_samples} samples", heard_s=clip.duration_s) for clip in clips]


@pytest.fixture(scope="module")
def whisper():
    torch.manual_seed(0)
    listener = WhisperTranscriber(hub.build("whisper/tiny").eval())
    return listener.configured(temperatures=(0.0,), sample_len=6, logprob_threshold=None, no_speech_threshold=None)


@pytest.fixture
def folder(tmp_path):
    for number in range(5):
        samples = np.random.default_rng(number).standard_normal((1, 4000 + number), dtype=np.float32) * 0.1
        write_audio(tmp_path / f"{number}.wav", AudioClip(samples, 16_000))
    (tmp_path / "bad.wav").write_bytes(b"no sound")
    return tmp_path


def test_files_come_back_in_order_and_a_bad_one_is_named(folder):
    counter = Counter()
    names = ["0.wav", "1.wav", "bad.wav", "2.wav", "missing.wav", "3.wav", "4.wav", "0.wav"]
    found = list(transcribe_files(counter, [folder / name for name in names], batch_size=4))
    assert [heard.file.name for heard in found] == names
    texts = [heard.transcript.text if heard.transcript else None for heard in found]
    assert texts == ["4000 samples", "4001 samples", None, "4002 samples", None] + [
        f"{n} samples" for n in (4003, 4004, 4000)
    ]
    assert counter.batches == [3, 3]
    assert "bad.wav" in str(found[2].error)
    assert "missing.wav" in str(found[4].error)


def test_nothing_but_bad_files_is_listened_to_by_nobody(folder):
    counter = Counter()
    assert [heard.transcript for heard in transcribe_files(counter, [folder / "bad.wav"])] == [None]
    assert counter.batches == []


def test_every_format_of_a_recogniser_that_says_when(whisper, folder):
    heard = next(transcribe_files(configure(whisper, {"word_timestamps": True}), [folder / "0.wav"]))
    formats = check_formats(whisper, ["txt", "srt", "vtt", "tsv", "json"])
    written = write_files(heard.transcript, heard.file, folder / "out", formats)
    assert [path.name for path in written] == ["0.txt", "0.srt", "0.vtt", "0.tsv", "0.json"]
    told = json.loads(written[-1].read_text())
    assert told["language"] == heard.transcript.language
    assert told["heard_s"] == pytest.approx(0.25)
    assert len(told["segments"]) == len(heard.transcript.segments) > 0
    assert all(segment["end"] <= 0.25 for segment in told["segments"])
    assert written[2].read_text().startswith("WEBVTT\n\n")
    assert written[0].read_text() == shown(heard.transcript, "txt")


def test_options_that_were_not_given_change_nothing_and_others_do(whisper):
    assert configure(whisper, {"language": None, "beam_size": None}) is whisper
    assert configure(whisper, {"beam_size": 5, "language": None}).listen.beam_size == 5
    with pytest.raises(ConfigError, match="knows no language 'klingon'"):
        configure(whisper, {"language": "klingon"})
    with pytest.raises(ConfigError, match="'beams'"):
        configure(whisper, {"beams": 5})


def test_a_recogniser_without_options_and_times_refuses_them():
    with pytest.raises(ConfigError, match="ctc/demo takes no options for listening, and language, beam_size was given"):
        configure(Counter(), {"language": "en", "beam_size": 5, "task": None}, "ctc/demo")
    with pytest.raises(ConfigError, match="ctc/demo does not say when something is said, so it cannot write srt"):
        check_formats(Counter(), ["txt", "srt"], "ctc/demo")
    with pytest.raises(ConfigError, match="there is no format 'doc'; transcripts are written as txt, vtt, srt"):
        check_formats(Counter(), ["doc"])


def test_text_and_json_of_a_recogniser_without_times(folder):
    heard = next(transcribe_files(Counter(), [folder / "0.wav"]))
    assert shown(heard.transcript, "txt") == "4000 samples\n"
    expected = {"text": "4000 samples", "heard_s": 0.25, "truncated": False, "stop_reason": "end"}
    assert record(heard.transcript) == expected
    assert json.loads(shown(heard.transcript, "json")) == expected


def test_files_that_would_overwrite_one_another_are_refused(tmp_path):
    check_names(["a.wav", "b.wav", "a.wav"], tmp_path)
    with pytest.raises(ConfigError, match=r"x/a.wav and a.flac would both be written to .*a\.\*"):
        check_names(["x/a.wav", "a.flac"], tmp_path)
