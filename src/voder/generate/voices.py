"""How a voice of codes says things: in a batch, each as if it were alone (VALL-E and what is built on it)."""

from abc import abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import checkpoint, hub
from voder.config import nearest
from voder.data.randomness import torch_generator
from voder.errors import AudioError, InputError
from voder.generate.decode import Decoded, Limits, Session, decode
from voder.generate.sampling import SamplingConfig, sampling_config
from voder.generate.sound import decode_codes
from voder.roles import Codec, SayRequest, Speaker, Speech, device_of
from voder.sequence.assemble import Piece, Stream, assemble
from voder.sequence.voices import UNKNOWN, Text, Voice, VoiceConfig, VoiceLayout, VoiceRow
from voder.shapes import Codes

DEFAULT_SAMPLING = {"temperature": 0.6, "top_k": 10}
"""Measured best on spoken digits (valle) among temperature 1.0, 0.8, 0.6 and greedy."""


@dataclass(frozen=True, kw_only=True)
class _Request:
    """A request, checked and laid out."""

    text: Text
    voice: Voice
    pieces: list[Piece]


class CodecSpeaker(Speaker):
    """A voice and the codec whose tokens it speaks."""

    def __init__(self, model: nn.Module, codec: Codec, layout: VoiceLayout, *, together: int) -> None:
        """`together` is the number of requests that are decoded at once."""
        super().__init__()
        self.model, self.codec = model, codec
        self.layout, self.together = layout, together

    @property
    def config(self) -> VoiceConfig:
        """What the voice was fitted on."""
        return self.layout.config

    @property
    def speakers(self) -> tuple[str, ...]:
        """Voices of the training data."""
        return self.config.speakers

    @abstractmethod
    def spell(self, text: str) -> Text:
        """A text as the voice reads it."""

    @abstractmethod
    def session(self, text: Stream, audio: Stream, room: int) -> Session:
        """A batch of which codebook 1 goes on; at most `room` codes follow."""

    @abstractmethod
    def fill(self, text: Stream, frames: Stream, codes: Codes) -> Codes:
        """Put in the other codebooks at target frames."""

    @torch.no_grad()
    def say_batch(self, requests: Sequence[SayRequest], *, seed: int = 0, **sampling: Any) -> list[Speech]:
        """Say several things, each as if it were alone; the same seed gives the same speech.

        Args:
            sampling: fields of `SamplingConfig`; temperature 0.6 and top_k 10 when nothing is said.

        Raises:
            TextError: a text that is empty, too long, or has characters nobody can say.
            AudioError: a prompt that is too short or too long.
            InputError: a speaker that is not known.
            ConfigError: a sampling option that does not exist or is out of range.
        """
        how = sampling_config(sampling, DEFAULT_SAMPLING)
        rows = [self._checked(request) for request in requests]
        was_training = self.model.training
        self.model.eval()
        try:
            starts = range(0, len(rows), self.together)
            return [speech for i in starts for speech in self._speak(rows[i : i + self.together], how, seed)]
        finally:
            self.model.train(was_training)

    def _checked(self, request: SayRequest) -> _Request:
        voice, text = self._voice(request), self.spell(request.text)
        return _Request(text=text, voice=voice, pieces=self.layout.text(text, voice))

    def _voice(self, request: SayRequest) -> Voice:
        """Number of the tag, and codes and text of the prompt."""
        config, number = self.config, UNKNOWN
        if request.speaker is not None:
            if request.speaker not in config.speakers:
                raise InputError(
                    f"no voice is called {request.speaker!r}{nearest(request.speaker, config.speakers)}; "
                    "give a recording of 1 to 3 seconds for a new voice"
                )
            number = config.speakers.index(request.speaker)
        if request.prompt is None:
            return Voice(speaker=number)
        codes = self.codec.encode(request.prompt)[: config.num_codebooks]
        if not config.min_prompt_frames <= codes.shape[1] <= config.max_prompt_frames:
            shortest, longest = (
                frames / config.frame_rate_hz for frames in (config.min_prompt_frames, config.max_prompt_frames)
            )
            raise AudioError(
                f"the voice prompt lasts {request.prompt.duration_s:.2f} s; this model takes {shortest:.2f} to "
                f"{longest:.2f} s: cut or extend the recording"
            )
        return Voice(speaker=number, prompt_codes=codes, prompt_text=self.spell(request.prompt_text or ""))

    def _speak(self, rows: Sequence[_Request], sampling: SamplingConfig, seed: int) -> list[Speech]:
        """Decode, fill in the other codebooks, and turn codes into audio."""
        decoded = self._coarse(rows, sampling, seed)
        codes = self._fine(rows, [np.asarray(each.ids, dtype=np.int64) for each in decoded])
        return [
            Speech(clip=clip, codes=each, stop_reason=said.stop_reason, truncated=said.truncated)
            for clip, each, said in zip(decode_codes(self.codec, codes), codes, decoded, strict=True)
        ]

    def _coarse(self, rows: Sequence[_Request], sampling: SamplingConfig, seed: int) -> list[Decoded]:
        device = device_of(self.model)
        begin = self.layout.audio_target(np.array([], dtype=np.int64))
        audio = assemble([[*self.layout.audio_prompt(row.voice), begin] for row in rows]).to(device)
        longest = [self.layout.most_frames(row.text) for row in rows]
        limits = Limits(end_ids=(self.layout.end,), max_lengths=longest, min_lengths=[1] * len(rows))
        # noise follows from what is said and not from the place in the batch
        noise = [torch_generator(seed, "say", str(row.text), row.voice.speaker) for row in rows]
        text = assemble([row.pieces for row in rows]).to(device)
        return decode(self.session(text, audio, max(longest)), sampling, limits, noise)

    def _fine(self, rows: Sequence[_Request], coarse: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All codebooks of what was said, `[codebook, frame]` each."""
        num_books, device = self.config.num_codebooks, device_of(self.model)
        if num_books == 1:
            return [codes[None] for codes in coarse]
        frames = assemble([self.layout.frames(c.size, row.voice) for row, c in zip(rows, coarse, strict=True)])
        known = np.zeros((len(rows), num_books, frames.ids.shape[1]), np.int64)
        starts = []
        for place, row, codes in zip(known, rows, coarse, strict=True):
            unsaid = np.zeros((num_books - 1, codes.size), np.int64)
            whole = VoiceRow(text=row.text, codes=np.concatenate((codes[None], unsaid)), voice=row.voice).all_codes
            place[:, : whole.shape[1]] = whole
            starts.append(whole.shape[1] - codes.size)
        text = assemble([row.pieces for row in rows]).to(device)
        filled = self.fill(text, frames.to(device), torch.from_numpy(known).to(device)).cpu().numpy()
        return [all_[:, start : start + c.size] for all_, c, start in zip(filled, coarse, starts, strict=True)]


def codec_in(found: checkpoint.Checkpoint, wanted: str) -> Codec:
    """The codec inside the checkpoint of a voice.

    Raises:
        CheckpointError: it holds none.
        FittedPartMismatch: it holds another one than the voice was trained on.
    """
    return hub.load_codec(checkpoint.fitted_part(found, "codec", wanted))
