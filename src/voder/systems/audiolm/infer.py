"""The verb of a trained AudioLM: continue a recording; also make speech from nothing, or say a recording's units anew.

The three stages follow one another (section 3.4): units go on, then the first codebooks given all units, then the other
codebooks chunk by chunk. Chunks do not see one another, so those of a whole batch are decoded together.
"""

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.checkpoint import Checkpoint
from voder.data.randomness import torch_generator
from voder.errors import AudioError, CheckpointError, InputError
from voder.generate.decode import Decoded, Limits, decode
from voder.generate.sampling import SamplingConfig, sampling_config
from voder.generate.sound import decode_codes
from voder.roles import Codec, Continuer, Speech, UnitTokenizer, device_of
from voder.sequence.assemble import Piece, assemble
from voder.systems.audiolm.config import StageName
from voder.systems.audiolm.layout import Layout, merged
from voder.systems.audiolm.model import AudioLm, StageSession

TEMPERATURES: dict[StageName, float] = {"semantic": 0.6, "coarse": 0.8, "fine": 0.6}
"""Those of the paper (section 4.4); a temperature that is asked for holds for all stages."""

_BATCH = 32
"""Recordings that go on together."""
_CHUNKS = 64
"""Chunks of the fine stage decoded together."""


@dataclass(frozen=True, kw_only=True)
class _Row:
    """One recording that goes on."""

    units: np.ndarray
    """Merged units `[position]`: the prompt's, then what follows."""
    codes: np.ndarray
    """Codes `[codebook, frame]` of the prompt."""
    noise: str
    """Names the row's randomness, by its content."""


class AudioLmContinuer(Continuer):
    """The stages, the codec whose codes they speak, and the tokenizer whose units they read."""

    def __init__(self, model: AudioLm, *, codec: Codec, units: UnitTokenizer) -> None:
        super().__init__()
        self.model, self.codec, self.units = model, codec, units
        self.layout = Layout(model.config)

    @property
    def sample_rate_hz(self) -> int:
        """Rate of what is said."""
        return self.codec.sample_rate_hz

    @torch.no_grad()
    def continue_batch(
        self, clips: Sequence[AudioClip], *, duration_s: float, seed: int = 0, **sampling: Any
    ) -> list[Speech]:
        """What follows each clip, at most `duration_s` of it and without the clip, each as if it were alone.

        Args:
            sampling: fields of `SamplingConfig` for all stages; the paper's temperatures when nothing is said.

        Raises:
            AudioError: a clip that is too short for the tokenizers, or longer than the model sees.
            InputError: prompt and continuation together are longer than the model sees.
            CheckpointError: a stage was never trained.
            ConfigError: a sampling option that does not exist or is out of range.
        """
        options = self._checked(sampling, duration_s)
        rows = [self._prompt(clip, duration_s) for clip in clips]
        return self._go_on(rows, duration_s, options, seed)

    @torch.no_grad()
    def imagine(self, count: int, *, duration_s: float, seed: int = 0, **sampling: Any) -> list[Speech]:
        """Speech from nothing (the paper's unconditional generation), `count` times."""
        options = self._checked(sampling, duration_s)
        self._check_length(0, duration_s)
        nothing = np.zeros((self.model.config.num_codebooks, 0), np.int64)
        rows = [_Row(units=np.zeros(0, np.int64), codes=nothing, noise=f"nothing {n}") for n in range(count)]
        return self._go_on(rows, duration_s, options, seed)

    @torch.no_grad()
    def revoice_batch(self, clips: Sequence[AudioClip], *, seed: int = 0, **sampling: Any) -> list[Speech]:
        """Say the units of each clip anew in a voice of chance (the paper's acoustic generation)."""
        longest = max((clip.duration_s for clip in clips), default=0.0)
        options = self._checked(sampling, longest)
        rows = [self._prompt(clip, 0.0) for clip in clips]
        limits = [row.codes.shape[1] for row in rows]
        rows = [replace(row, codes=row.codes[:, :0]) for row in rows]
        return [
            speech
            for start in range(0, len(rows), _BATCH)
            for speech in self._speak(rows[start : start + _BATCH], limits[start : start + _BATCH], options, seed)
        ]

    @torch.no_grad()
    def score_units(self, sequences: Sequence[np.ndarray]) -> list[float]:
        """Mean log-probability of the units of each sequence `[position]`, repeats merged: sWUGGY's and sBLIMP's score.

        Raises:
            InputError: an empty sequence.
            TokensError: units of another tokenizer.
        """
        self._require("semantic")
        if not all(len(each) for each in sequences):
            raise InputError("a sequence without units has no probability; leave it out")
        rows = [self.layout.semantic(merged(np.asarray(each, np.int64)), ended=False) for each in sequences]
        was_training = self.model.training
        self.model.eval()
        try:
            scores: list[float] = []
            for start in range(0, len(rows), _BATCH):
                stream = assemble(rows[start : start + _BATCH]).to(device_of(self.model))
                chances = self.model.semantic(stream).float().log_softmax(dim=-1)
                said = chances.gather(2, stream.targets[:, :, None])[:, :, 0] * stream.loss
                scores += (said.sum(dim=1) / stream.loss.sum(dim=1)).tolist()
        finally:
            self.model.train(was_training)
        return scores

    def _checked(self, sampling: dict[str, Any], duration_s: float) -> dict[StageName, SamplingConfig]:
        for stage in self.model.config.stages:
            self._require(stage)
        if not duration_s > 0:
            raise InputError(f"duration_s is {duration_s}; more than 0 is wanted")
        return {stage: sampling_config(sampling, {"temperature": usual}) for stage, usual in TEMPERATURES.items()}

    def _require(self, stage: StageName) -> None:
        if stage not in self.model.config.trained:
            raise CheckpointError(
                f"the {stage} stage of this checkpoint was never trained: run `voder train audiolm --stage {stage} "
                "--from` this checkpoint first"
            )

    def _prompt(self, clip: AudioClip, duration_s: float) -> _Row:
        codes = self.codec.encode(clip)[: self.model.config.num_codebooks]
        if not codes.shape[1]:
            raise AudioError(f"the recording lasts {clip.duration_s:.3f} s, less than one frame of the codec")
        self._check_length(codes.shape[1], duration_s)
        units = self.units.encode(clip).units
        digest = hashlib.sha256(codes.astype(np.int64).tobytes() + units.astype(np.int64).tobytes())
        return _Row(units=merged(units), codes=codes, noise=digest.hexdigest())

    def _check_length(self, frames: int, duration_s: float) -> None:
        config = self.model.config
        if frames > config.coarse_frames:
            raise AudioError(
                f"the recording has {frames} frames ({frames / config.frame_rate_hz:.2f} s), but this model sees "
                f"{config.coarse_frames} ({config.max_coarse_s:g} s) at once: give it the end of the recording"
            )
        if frames + self._frames(duration_s) > config.coarse_frames:
            raise InputError(
                f"{frames / config.frame_rate_hz:.2f} s of recording and {duration_s:g} s to follow are more than the "
                f"{config.max_coarse_s:g} s that this model sees: shorten one of them"
            )

    def _frames(self, duration_s: float) -> int:
        # a whisker less, so that 0.2 s at 50 frames a second are 10 and not 11
        return math.ceil(duration_s * self.model.config.frame_rate_hz - 1e-6)

    def _go_on(
        self, rows: Sequence[_Row], duration_s: float, options: dict[StageName, SamplingConfig], seed: int
    ) -> list[Speech]:
        speeches: list[Speech] = []
        for start in range(0, len(rows), _BATCH):
            block = rows[start : start + _BATCH]
            said = self._semantic(block, duration_s, options["semantic"], seed)
            longer = [
                replace(row, units=np.concatenate((row.units, np.asarray(each.ids, np.int64))))
                for row, each in zip(block, said, strict=True)
            ]
            limits = [self._frames(duration_s)] * len(block)
            spoken = self._speak(longer, limits, options, seed)
            # a duration that was asked for cuts nothing off; units that ran out before it was reached do
            speeches += [
                replace(speech, truncated=each.truncated and not speech.truncated)
                for speech, each in zip(spoken, said, strict=True)
            ]
        return speeches

    def _semantic(self, rows: Sequence[_Row], duration_s: float, sampling: SamplingConfig, seed: int) -> list[Decoded]:
        marks = self.layout.semantic_ids
        longest = max(1, math.ceil(duration_s * self.model.config.units_per_s))
        # a row that begins from nothing says something
        limits = Limits(
            end_ids=(marks["end"].start,),
            max_lengths=[longest] * len(rows),
            min_lengths=[0 if len(row.units) else 1 for row in rows],
        )
        prompts = [self.layout.semantic_prompt(row.units) for row in rows]
        return self._decode("semantic", prompts, limits, sampling, [(seed, row.noise) for row in rows])

    def _speak(
        self, rows: Sequence[_Row], limits: Sequence[int], options: dict[StageName, SamplingConfig], seed: int
    ) -> list[Speech]:
        """Codes of what follows the prompts, and their sound; `limits` are frames."""
        coarse = self._coarse(rows, limits, options["coarse"], seed)
        num_coarse = self.model.config.num_coarse
        first = [
            np.concatenate((row.codes[:num_coarse], self.layout.unflat(np.asarray(each.ids), num_coarse)), axis=1)
            for row, each in zip(rows, coarse, strict=True)
        ]
        codes = self._fine(rows, first, options["fine"], seed)
        heard = [row.codes.shape[1] for row in rows]
        clips = decode_codes(self.codec, codes, skip=heard)
        said = [each[:, first:] for each, first in zip(codes, heard, strict=True)]
        return [
            Speech(clip=clip, codes=new, stop_reason=each.stop_reason, truncated=each.truncated)
            for clip, new, each in zip(clips, said, coarse, strict=True)
        ]

    def _coarse(
        self, rows: Sequence[_Row], limits: Sequence[int], sampling: SamplingConfig, seed: int
    ) -> list[Decoded]:
        """First codebooks of what follows, frame after frame; at least one frame."""
        config, marks = self.model.config, self.layout.coarse_ids
        size, start = config.codebook_size, marks["code"].start
        ranges = [range(start + book * size, start + (book + 1) * size) for book in range(config.num_coarse)]
        end = marks["end"].start
        found = self._decode(
            "coarse",
            [self.layout.coarse_prompt(row.units, row.codes) for row in rows],
            Limits(
                end_ids=(end,),
                max_lengths=[frames * config.num_coarse for frames in limits],
                min_lengths=[config.num_coarse] * len(rows),
            ),
            sampling,
            [(seed, row.noise) for row in rows],
            ranges=ranges,
            end=end,
        )
        return [replace(each, ids=[id_ - start for id_ in each.ids]) for each in found]

    def _fine(
        self, rows: Sequence[_Row], coarse: Sequence[np.ndarray], sampling: SamplingConfig, seed: int
    ) -> list[np.ndarray]:
        """All codebooks `[codebook, frame]`; of the prompts they are known."""
        config = self.model.config
        if not config.num_fine:
            return list(coarse)
        width = config.fine_frames
        codes = [np.concatenate((first, np.zeros((config.num_fine, first.shape[1]), np.int64))) for first in coarse]
        for row, all_ in zip(rows, codes, strict=True):
            all_[:, : row.codes.shape[1]] = row.codes
        jobs = [
            (number, start, min(start + width, all_.shape[1]))
            for number, all_ in enumerate(codes)
            for start in range(0, all_.shape[1], width)
            if min(start + width, all_.shape[1]) > rows[number].codes.shape[1]
        ]
        for first_job in range(0, len(jobs), _CHUNKS):
            self._fill(rows, codes, jobs[first_job : first_job + _CHUNKS], sampling, seed)
        return codes

    def _fill(
        self,
        rows: Sequence[_Row],
        codes: Sequence[np.ndarray],
        jobs: Sequence[tuple[int, int, int]],
        sampling: SamplingConfig,
        seed: int,
    ) -> None:
        """Say the other codebooks of some chunks (row, first frame, frame behind the last)."""
        config, marks = self.model.config, self.layout.fine_ids
        size, start_id, num_coarse = config.codebook_size, marks["fine"].start, config.num_coarse
        known = [max(0, rows[number].codes.shape[1] - start) for number, start, _ in jobs]
        prompts = [
            self.layout.fine_prompt(codes[number][:, start:stop], n)
            for (number, start, stop), n in zip(jobs, known, strict=True)
        ]
        lengths = [(stop - start - n) * config.num_fine for (_, start, stop), n in zip(jobs, known, strict=True)]
        found = self._decode(
            "fine",
            prompts,
            Limits(end_ids=(), max_lengths=lengths),
            sampling,
            [(seed, f"{rows[number].noise} {start}") for number, start, _ in jobs],
            ranges=[range(start_id + book * size, start_id + (book + 1) * size) for book in range(config.num_fine)],
        )
        for (number, start, stop), n, each in zip(jobs, known, found, strict=True):
            said = self.layout.unflat(np.asarray(each.ids) - start_id, config.num_fine)
            codes[number][num_coarse:, start + n : stop] = said

    def _decode(
        self,
        stage: StageName,
        prompts: Sequence[Sequence[Piece]],
        limits: Limits,
        sampling: SamplingConfig,
        noise: Sequence[tuple[int, str]],
        *,
        ranges: Sequence[range] = (),
        end: int | None = None,
    ) -> list[Decoded]:
        was_training = self.model.training
        self.model.eval()
        try:
            stream = assemble(prompts).to(device_of(self.model))
            session = StageSession(self.model.stage(stage), stream, max(limits.max_lengths), ranges, end)
            generators = [torch_generator(seed, "continue", stage, name) for seed, name in noise]
            return decode(session, sampling, limits, generators)
        finally:
            self.model.train(was_training)


def load_continuer(model: nn.Module, found: Checkpoint) -> AudioLmContinuer:
    """Join a loaded model with the codec and the unit tokenizer inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint lacks one of them.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    assert isinstance(model, AudioLm)
    codec = hub.load_codec(checkpoint.fitted_part(found, "codec", model.config.codec_identity))
    folder = checkpoint.fitted_part(found, "units", model.config.units_identity)
    return AudioLmContinuer(model, codec=codec, units=hub.load_role(folder, "UnitTokenizer"))
