"""The verbs of Whisper: transcribe and translate recordings of any length, encode them, identify their language."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder.audio.io import AudioClip
from voder.config import nearest
from voder.errors import ConfigError
from voder.roles import Encoder, Features, Transcriber, Transcript, Translator, Waveform, as_clip, device_of, fit_clip
from voder.shapes import Audio, Lengths
from voder.systems.whisper.config import FRAMES_PER_POSITION, HOP, SAMPLE_RATE_HZ, ListenConfig
from voder.systems.whisper.decoding import language_chances
from voder.systems.whisper.features import fit_window
from voder.systems.whisper.longform import Dictation, Segment, dictate
from voder.systems.whisper.model import WhisperModel
from voder.systems.whisper.tokenizer import WhisperTokenizer


@dataclass(frozen=True, kw_only=True)
class WhisperTranscript(Transcript):
    """A transcript that knows when, and in which language."""

    segments: tuple[Segment, ...]
    language: str

    def record(self) -> dict[str, Any]:
        """The original's JSON: what `writers.write_transcript` writes."""
        segments = []
        for number, s in enumerate(self.segments):
            entry = {
                "id": number,
                "seek": s.window_frame,
                "start": s.start_s,
                "end": s.end_s,
                "text": s.text,
                "tokens": list(s.ids),
                "temperature": s.temperature,
                "avg_logprob": s.mean_log_probability,
                "compression_ratio": s.compression_ratio,
                "no_speech_prob": s.no_speech,
            }
            if s.words is not None:
                entry["words"] = [
                    {"word": w.text, "start": w.start_s, "end": w.end_s, "probability": w.probability} for w in s.words
                ]
            segments.append(entry)
        return {"text": self.text, "segments": segments, "language": self.language}


class WhisperTranscriber(Transcriber, Translator, Encoder):
    """A trained network and how it listens."""

    sample_rate_hz = SAMPLE_RATE_HZ

    def __init__(self, model: WhisperModel, listen: ListenConfig | None = None) -> None:
        super().__init__()
        self.model = model
        self.listen = listen or ListenConfig()
        self.width = model.config.width

    def configured(self, **options: Any) -> "WhisperTranscriber":
        """The same network listening with other options (those of `ListenConfig`).

        Raises:
            ConfigError: an unknown option, one out of its range, or a language nobody knows.
        """
        known = [field.name for field in dataclasses.fields(ListenConfig)]
        for name in options:
            if name not in known:
                raise ConfigError(f"there is no option {name!r} for listening{nearest(name, known)}")
        listen = dataclasses.replace(self.listen, **options)
        WhisperTokenizer(self.model.config.vocabulary_size, language=listen.language, task=listen.task)
        other = WhisperTranscriber(self.model, listen)
        return other.train(self.training)

    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcribe (or translate, as configured) clips; each is a `WhisperTranscript`."""
        return list(self.listen_batch(clips))

    def translate_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Say in English what is said in any language; with large-v3 on, turbo has not learnt it."""
        return list(self.configured(task="translate").listen_batch(clips))

    @torch.no_grad()
    def listen_batch(self, clips: Sequence[AudioClip]) -> list[WhisperTranscript]:
        """Listen to clips of any length side by side; no time lies beyond a clip's end."""
        config = self.model.config
        dictations = [
            Dictation(
                self.model.log_mel(self._samples(clip), padding=config.window_samples),
                self.listen,
                config.vocabulary_size,
                config.window_frames,
                config.num_text_positions,
            )
            for clip in clips
        ]
        dictate(self.model, dictations)
        return [_transcript(d, clip) for d, clip in zip(dictations, clips, strict=True)]

    @torch.no_grad()
    def identify_language(self, audio: Waveform | str | Path, sample_rate_hz: int | None = None) -> dict[str, float]:
        """Chance of every language, the likeliest first, from the first window."""
        tokenizer = WhisperTokenizer(self.model.config.vocabulary_size)
        window = self.model.config
        mel = self.model.log_mel(self._samples(as_clip(audio, sample_rate_hz)), padding=window.window_samples)
        states = self.model.encoder(fit_window(mel, window.window_frames).to(self.model.encoder.conv1.weight))
        chances = language_chances(self.model, states, tokenizer)[0].tolist()
        return dict(sorted(zip(tokenizer.codes, chances, strict=True), key=lambda pair: -pair[1]))

    def encode_batch(self, audio: Audio, lengths: Lengths | None = None, *, layer: int | None = None) -> Features:
        """Encode windows of silence-padded audio, as the original does, and join what belongs to the recording."""
        config = self.model.config
        batch, _, num_samples = audio.shape
        counts = torch.full((batch,), num_samples, device=audio.device) if lengths is None else lengths
        num_windows = max(1, -(-num_samples // config.window_samples))
        total = num_windows * config.window_samples
        mel = self.model.log_mel(audio[:, 0], padding=total - num_samples)
        windows = mel.unflatten(2, (num_windows, config.window_frames)).transpose(1, 2).flatten(0, 1)
        states = self.model.encoder(windows, layer).unflatten(0, (batch, num_windows)).flatten(1, 2)
        per_position = HOP * FRAMES_PER_POSITION
        positions = torch.div(counts + per_position - 1, per_position, rounding_mode="floor")
        valid = torch.arange(states.shape[1], device=audio.device)[None] < positions[:, None]
        return Features(values=states[:, : int(positions.max())], valid=valid[:, : int(positions.max())])

    def _samples(self, clip: AudioClip) -> Tensor:
        fitted = fit_clip(clip, sample_rate_hz=SAMPLE_RATE_HZ, channels=1)
        return torch.from_numpy(fitted.samples).to(device_of(self.model))


def _transcript(dictation: Dictation, clip: AudioClip) -> WhisperTranscript:
    end_s = clip.duration_s
    segments = [
        replace(s, start_s=min(s.start_s, end_s), end_s=min(s.end_s, end_s)) for s in dictation.segments if s.text
    ]
    return WhisperTranscript(
        text=dictation.text.strip(),
        heard_s=end_s,
        truncated=dictation.cut,
        stop_reason="limit" if dictation.cut else "end",
        segments=tuple(segments),
        language=dictation.tokenizer.language or "en" if dictation.tokenizer else "en",
    )
