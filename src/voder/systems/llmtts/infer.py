"""The verb of a language model that learned to speak: say, in a batch, each as if it were alone."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint, identity
from voder.config import nearest
from voder.data.joins import UNKNOWN
from voder.data.randomness import torch_generator
from voder.errors import AudioError, CheckpointError, FittedPartMismatch, InputError
from voder.generate.decode import Decoded, Limits, decode
from voder.generate.sampling import SamplingConfig, sampling_config
from voder.generate.sound import decode_codes
from voder.roles import Codec, SayRequest, Speaker, Speech, device_of
from voder.sequence.assemble import Piece, assemble
from voder.systems.llmtts.config import BYTES, LlmTtsConfig
from voder.systems.llmtts.layout import Voice, spell
from voder.systems.llmtts.model import LlmTts
from voder.text.subwords import byte_tokenizer, fingerprint, read_tokenizer

DEFAULT_SAMPLING = {"temperature": 0.6, "top_k": 10}
"""As valle speaks."""

_BATCH = 32
"""Requests decoded together."""


@dataclass(frozen=True)
class _Row:
    """A request, checked and laid out."""

    text: tuple[int, ...]
    voice: Voice
    pieces: list[Piece]


class LlmTtsSpeaker(Speaker):
    """The networks, the codec whose tokens they speak, and the tokenizer whose tokens they read."""

    def __init__(self, model: LlmTts, codec: Codec, tokenizer: Any) -> None:
        super().__init__()
        self.model, self.codec, self.tokenizer = model, codec, tokenizer
        self.layout = model.layout

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
            TextError: a text that is empty or too long.
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
        text = spell(self.tokenizer, request.text)
        return _Row(text, voice, self.layout.text(text, voice))

    def _voice(self, request: SayRequest) -> Voice:
        """Number of the tag, and codes and text of the prompt."""
        config, number = self.model.config, UNKNOWN
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
        return Voice(speaker=number, prompt_codes=codes, prompt_text=spell(self.tokenizer, request.prompt_text or ""))

    def _speak(self, rows: Sequence[_Row], sampling: SamplingConfig, seed: int) -> list[Speech]:
        """Decode, fill in the other codebooks, and turn codes into audio."""
        decoded = self._coarse(rows, sampling, seed)
        codes = self._fine(rows, [np.asarray(each.ids, dtype=np.int64) for each in decoded])
        return [
            Speech(clip=clip, codes=each, stop_reason=said.stop_reason, truncated=said.truncated)
            for clip, each, said in zip(decode_codes(self.codec, codes), codes, decoded, strict=True)
        ]

    def _coarse(self, rows: Sequence[_Row], sampling: SamplingConfig, seed: int) -> list[Decoded]:
        config, device = self.model.config, device_of(self.model)
        text = assemble([row.pieces for row in rows]).to(device)
        begin = self.layout.audio_target(np.array([], dtype=np.int64))
        audio = assemble([[*self.layout.audio_prompt(row.voice), begin] for row in rows]).to(device)
        spare = config.frame_rate_hz / 2
        longest = [
            min(config.max_frames, math.ceil(len(row.text) * config.max_frames_per_token + spare)) for row in rows
        ]
        limits = Limits(end_ids=(self.layout.end,), max_lengths=longest, min_lengths=[1] * len(rows))
        # noise follows from what is said and not from the place in the batch
        noise = [torch_generator(seed, "say", row.voice.speaker, *row.text) for row in rows]
        return decode(self.model.session(text, audio, room=max(longest)), sampling, limits, noise)

    def _fine(self, rows: Sequence[_Row], coarse: Sequence[np.ndarray]) -> list[np.ndarray]:
        """All codebooks of what was said, `[codebook, frame]` each."""
        if self.model.nar is None:
            return [codes[None] for codes in coarse]
        device = device_of(self.model)
        text = self.model.read_text(assemble([row.pieces for row in rows]).to(device))
        pieces = [self.layout.frames(codes.size, row.voice) for row, codes in zip(rows, coarse, strict=True)]
        frames = assemble(pieces).to(device)
        known = np.zeros((len(rows), self.model.config.num_codebooks, frames.ids.shape[1]), np.int64)
        starts = [0 if row.voice.prompt_codes is None else row.voice.prompt_codes.shape[1] for row in rows]
        for all_, row, codes, start in zip(known, rows, coarse, starts, strict=True):
            if row.voice.prompt_codes is not None:
                all_[:, :start] = row.voice.prompt_codes
            all_[0, start : start + codes.size] = codes
        filled = self.model.nar.fill(text, frames, torch.from_numpy(known).to(device)).cpu().numpy()
        return [all_[:, start : start + codes.size] for all_, codes, start in zip(filled, coarse, starts, strict=True)]


def tokenizer_in(config: LlmTtsConfig, found: Checkpoint) -> Any:
    """The tokenizer that a checkpoint was fitted on.

    Raises:
        CheckpointError: its files are missing or damaged.
        FittedPartMismatch: they are another tokenizer's.
    """
    if config.tokenizer == BYTES:
        return byte_tokenizer()
    if "tokenizer" not in found.parts:
        raise CheckpointError(f"{found.folder} holds no parts/tokenizer, so it cannot read; copy it whole")
    tokenizer = read_tokenizer(found.parts["tokenizer"])
    if fingerprint(tokenizer) != config.tokenizer:
        raise FittedPartMismatch(
            f"{found.parts['tokenizer']} is tokenizer {fingerprint(tokenizer)}, but the language model beside it reads "
            f"tokens of {config.tokenizer}"
        )
    return tokenizer


def load_speaker(model: nn.Module, found: Checkpoint) -> LlmTtsSpeaker:
    """Join a loaded model with the codec and the tokenizer inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint lacks one of them.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    assert isinstance(model, LlmTts)
    if "codec" not in found.parts:
        raise CheckpointError(f"{found.folder} holds no parts/codec, so its tokens cannot become audio; copy it whole")
    held, wanted = identity(found.parts["codec"]), model.config.codec_identity
    if held != wanted:
        raise FittedPartMismatch(
            f"{found.parts['codec']} is codec {held}, but the voice beside it was trained on tokens of {wanted}"
        )
    return LlmTtsSpeaker(model, hub.load_codec(found.parts["codec"]), tokenizer_in(model.config, found))
