"""The verb of a trained voice: say, in a batch, each as if it were alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint, identity
from voder.config import from_dict, nearest
from voder.data.joins import UNKNOWN
from voder.data.randomness import torch_generator
from voder.errors import AudioError, CheckpointError, FittedPartMismatch, InputError
from voder.generate.decode import Decoded, Limits, decode
from voder.generate.sampling import SamplingConfig, sampling_config
from voder.generate.sound import decode_codes
from voder.nn.codec_lm import CoarseSession
from voder.roles import Codec, SayRequest, Speaker, Speech, device_of
from voder.sequence.assemble import Piece, assemble
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.layout import Layout, Voice
from voder.systems.valle.model import Valle
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_speaker import OriginalSpeaker

DEFAULT_SAMPLING = {"temperature": 0.6, "top_k": 10}
"""Measured best on spoken digits among temperature 1.0, 0.8, 0.6 and greedy."""

_BATCH = 64
"""Requests decoded together."""


@dataclass(frozen=True)
class _Row:
    """A request, checked and laid out."""

    text: str
    voice: Voice
    pieces: list[Piece]


class ValleSpeaker(Speaker):
    """A language model and the codec whose tokens it speaks."""

    def __init__(self, model: Valle, codec: Codec) -> None:
        super().__init__()
        self.model = model
        self.codec = codec
        self.layout = Layout(model.config)

    @property
    def speakers(self) -> tuple[str, ...]:
        """Voices of the training data."""
        return self.model.config.speakers

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
        config = sampling_config(sampling, DEFAULT_SAMPLING)
        rows = [self._row(request) for request in requests]
        was_training = self.model.training
        self.model.eval()
        try:
            starts = range(0, len(rows), _BATCH)
            return [speech for i in starts for speech in self._speak(rows[i : i + _BATCH], config, seed)]
        finally:
            self.model.train(was_training)

    def _row(self, request: SayRequest) -> _Row:
        voice = self._voice(request)
        text = self.layout.spell(request.text)
        return _Row(text, voice, self.layout.text(text, voice))

    def _voice(self, request: SayRequest) -> Voice:
        """Number of the tag and codes of the prompt."""
        config = self.model.config
        number = UNKNOWN
        if request.speaker is not None:
            if request.speaker not in config.speakers:
                raise InputError(
                    f"no voice is called {request.speaker!r}{nearest(request.speaker, config.speakers)}; "
                    "give a recording of 1 to 3 seconds for a new voice"
                )
            number = config.speakers.index(request.speaker)
        if request.prompt is None:
            return Voice(speaker=number)
        codes = self.codec.encode(request.prompt)
        if not config.min_prompt_frames <= codes.shape[1] <= config.max_prompt_frames:
            shortest, longest = (
                frames / config.frame_rate_hz for frames in (config.min_prompt_frames, config.max_prompt_frames)
            )
            raise AudioError(
                f"the voice prompt lasts {request.prompt.duration_s:.2f} s; this model takes {shortest:.2f} to "
                f"{longest:.2f} s: cut or extend the recording"
            )
        text = self.layout.spell(request.prompt_text or "") or None
        return Voice(speaker=number, prompt_codes=codes, prompt_text=text)

    def _speak(self, rows: Sequence[_Row], sampling: SamplingConfig, seed: int) -> list[Speech]:
        """Decode, fill in the finer codebooks, and turn codes into audio."""
        decoded = self._coarse(rows, sampling, seed)
        codes = self._fine(rows, [np.asarray(each.ids, dtype=np.int64) for each in decoded])
        clips = decode_codes(self.codec, codes)
        return [
            Speech(clip=clip, codes=each, stop_reason=said.stop_reason, truncated=said.truncated)
            for clip, each, said in zip(clips, codes, decoded, strict=True)
        ]

    def _coarse(self, rows: Sequence[_Row], sampling: SamplingConfig, seed: int) -> list[Decoded]:
        config, device = self.model.config, device_of(self.model)
        text = assemble([row.pieces for row in rows]).to(device)
        begin = self.layout.audio_target(np.array([], dtype=np.int64))
        audio = assemble([[*self.layout.audio_prompt(row.voice), begin] for row in rows]).to(device)
        spare = config.frame_rate_hz / 2
        longest = [
            min(config.max_frames, math.ceil(len(row.text) * config.max_frames_per_symbol + spare)) for row in rows
        ]
        limits = Limits(end_ids=(self.layout.end,), max_lengths=longest, min_lengths=[1] * len(rows))
        session = CoarseSession(self.model.ar, text, audio, room=max(longest))
        # noise follows from what is said and not from the place in the batch
        noise = [torch_generator(seed, "say", row.text, row.voice.speaker) for row in rows]
        return decode(session, sampling, limits, noise)

    def _fine(self, rows: Sequence[_Row], coarse: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All codebooks of what was said, `[codebook, frame]` each."""
        if self.model.nar is None:
            return [codes[None] for codes in coarse]
        device = device_of(self.model)
        text = assemble([row.pieces for row in rows]).to(device)
        pieces = [self.layout.frames(codes.size, row.voice) for row, codes in zip(rows, coarse, strict=True)]
        frames = assemble(pieces).to(device)
        known = np.zeros((len(rows), self.model.config.num_codebooks, frames.ids.shape[1]), np.int64)
        ends = []
        for number, (row, codes) in enumerate(zip(rows, coarse, strict=True)):
            prompt = row.voice.prompt_codes
            start = 0 if prompt is None else prompt.shape[1]
            if prompt is not None:
                known[number, :, :start] = prompt
            known[number, 0, start : start + codes.size] = codes
            ends.append((start, start + codes.size))
        filled = self.model.nar.fill(text, frames, torch.from_numpy(known).to(device)).cpu().numpy()
        return [codes[:, start:end] for codes, (start, end) in zip(filled, ends, strict=True)]


def load_speaker(model: nn.Module, found: Checkpoint) -> Speaker:
    """Join a loaded model with the codec inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint holds no codec.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    config = from_dict(ValleConfig, found.config, where=str(found.folder))
    if "codec" not in found.parts:
        raise CheckpointError(f"{found.folder} holds no parts/codec, so its tokens cannot become audio; copy it whole")
    folder = found.parts["codec"]
    held, wanted = identity(folder), config.codec_identity
    if held != wanted:
        raise FittedPartMismatch(f"{folder} is codec {held}, but the voice beside it was trained on tokens of {wanted}")
    codec = hub.load_codec(folder)
    if isinstance(model, OriginalValle):
        return OriginalSpeaker(model, codec, symbols=config.symbols)
    assert isinstance(model, Valle)
    return ValleSpeaker(model, codec)
