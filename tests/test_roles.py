"""Roles: what a user calls is written once, over the batched members that systems write."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from voder.audio.io import AudioClip, write_audio
from voder.errors import AudioError
from voder.roles import (
    Codec,
    Encoded,
    SayRequest,
    Speaker,
    Speech,
    Transcriber,
    Transcript,
    as_clip,
    collate_clips,
    fit_clip,
)


def clip(num_samples: int = 100, *, channels: int = 1, rate: int = 8000) -> AudioClip:
    """A ramp; channels differ in sign."""
    ramp = np.linspace(0, 0.5, num_samples, dtype=np.float32)
    return AudioClip(np.stack([ramp * (-1) ** c for c in range(channels)]), rate)


class Sums(Codec):
    """Codes are sums of frames of ten samples, scaled to ids."""

    sample_rate_hz, channels, hop, num_codebooks, codebook_size = 8000, 1, 10, 2, 16

    def __init__(self) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))

    def encode_batch(self, audio: Any, lengths: Any = None, *, num_codebooks: int | None = None) -> Encoded:
        frames = nn.functional.pad(audio[:, 0], (0, -audio.shape[2] % 10)).unflatten(1, (-1, 10)).sum(-1)
        codes = frames.clamp(0, 15).long()[:, None].repeat(1, 2, 1)
        return Encoded(codes=codes, lengths=(lengths + 9) // 10, num_samples=lengths)

    def decode_batch(self, encoded: Encoded) -> Any:
        return encoded.codes[:, :1].float().repeat_interleave(10, dim=2) / 16


class Counter(Transcriber):
    """Writes down how long it listened."""

    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        return [Transcript(text=f"{c.num_samples} at {c.sample_rate_hz}", heard_s=c.duration_s) for c in clips]


class Echo(Speaker):
    """Remembers what it was asked."""

    speakers = ("ann",)

    def say_batch(self, requests: Sequence[SayRequest], *, seed: int = 0, **sampling: Any) -> list[Speech]:
        self.asked = (list(requests), seed, sampling)
        return [Speech(clip=clip(), codes=np.zeros((1, 1), np.int64), stop_reason="end", truncated=False)]


def test_every_form_of_a_recording_becomes_a_clip(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", clip())
    for audio in (tmp_path / "a.wav", str(tmp_path / "a.wav"), clip()):
        assert as_clip(audio).num_samples == 100
    for samples in (clip().samples, clip().samples[0], torch.from_numpy(clip().samples), [0.0] * 100):
        made = as_clip(np.asarray(samples) if isinstance(samples, list) else samples, 8000)
        assert made.samples.shape == (1, 100)
        assert made.samples.dtype == np.float32


@pytest.mark.parametrize(
    ("audio", "rate", "message"),
    [
        (np.zeros(3), None, "pass sample_rate_hz"),
        (clip(), 16000, "says 8000 Hz but sample_rate_hz=16000"),
        (np.zeros((1, 2, 3)), 8000, r"shape \(1, 2, 3\)"),
        (np.zeros(0), 8000, "not empty"),
        (np.array([0.0, np.nan]), 8000, "NaN or infinite"),
        (np.array([0.0, np.inf]), 8000, "NaN or infinite"),
    ],
)
def test_what_is_no_recording_is_refused(audio: Any, rate: int | None, message: str) -> None:
    with pytest.raises(AudioError, match=message):
        as_clip(audio, rate)


def test_a_clip_is_brought_to_a_part() -> None:
    stereo = fit_clip(clip(channels=2), sample_rate_hz=8000, channels=1)
    assert np.abs(stereo.samples).max() == 0  # the mean of a ramp and its negative
    doubled = fit_clip(clip(), sample_rate_hz=16000, channels=2)
    assert doubled.samples.shape == (2, 200)
    assert np.array_equal(doubled.samples[0], doubled.samples[1])
    with pytest.raises(AudioError, match="3 channels cannot become 2"):
        fit_clip(clip(channels=3), sample_rate_hz=8000, channels=2)


def test_clips_are_padded_with_zeros_at_the_end() -> None:
    audio, lengths = collate_clips([clip(5), clip(8)], torch.device("cpu"))
    assert audio.shape == (2, 1, 8)
    assert lengths.tolist() == [5, 8]
    assert audio[0, 0, 5:].tolist() == [0, 0, 0]


def test_a_codec_encodes_any_rate_and_channel_count_and_decodes() -> None:
    codec = Sums()
    assert (codec.frame_rate_hz, codec.bitrate_bps) == (800.0, 800.0 * 2 * 4)
    codes = codec.encode(clip(201, channels=2, rate=16000))
    assert codes.shape == (2, 11)
    assert codes.dtype == np.int64
    assert np.array_equal(codec.encode(clip(101).samples, sample_rate_hz=8000), codec.encode(clip(101)))
    decoded = codec.decode(codes)
    assert (decoded.num_samples, decoded.sample_rate_hz) == (110, 8000)
    assert decoded.samples.dtype == np.float32


def test_a_transcriber_takes_one_recording(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", clip(80))
    heard = Counter().transcribe(tmp_path / "a.wav")
    assert (heard.text, heard.heard_s, heard.truncated, heard.stop_reason) == ("80 at 8000", 0.01, False, "end")


def test_a_voice_is_a_tag_a_file_or_samples(tmp_path: Path) -> None:
    write_audio(tmp_path / "a.wav", clip(80))
    speaker = Echo()
    speaker.say("x", voice="ann", seed=3, temperature=0.5)
    (request,), seed, sampling = speaker.asked
    assert (request.text, request.speaker, request.prompt, seed, sampling) == (
        "x",
        "ann",
        None,
        3,
        {"temperature": 0.5},
    )
    speaker.say("x", voice=str(tmp_path / "a.wav"), voice_text="words")
    (request,), _, _ = speaker.asked
    assert request.speaker is None
    assert request.prompt is not None
    assert (request.prompt.num_samples, request.prompt_text) == (80, "words")
    speaker.say("x", voice=clip(50).samples, sample_rate_hz=8000)
    assert speaker.asked[0][0].prompt.num_samples == 50
    speaker.say("x")
    assert speaker.asked[0][0] == SayRequest(text="x")
    with pytest.raises(AudioError, match="does not exist"):
        speaker.say("x", voice="bob")
