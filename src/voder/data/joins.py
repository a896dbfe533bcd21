"""Strings to train speech on, made of tokenised clips: single clips, or short clips of one speaker joined.

Joining is augmentation for corpora of short clips: clips behind one another with a little silence between give
endless strings whose text and codes are both known. Every string is a function of the generator it is drawn with.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from voder.data.holdout import is_held_out
from voder.data.shards import TokenSplit
from voder.errors import ConfigError, TokensError
from voder.sequence.voices import UNKNOWN

_TRIES = 1000


@dataclass(frozen=True, kw_only=True)
class JoinConfig:
    """How strings are made of clips."""

    join_max: int = 5
    """Clips in one string, at most; 1 leaves clips alone."""
    join_below_s: float = 2.0
    """Only clips shorter than this are joined."""
    silence_s: float = 0.15
    """Longest silence between joined clips."""
    held_out_fraction: float = 0.03
    """Share of the strings of 3 to 5 words that are never composed (chosen by hash, for evaluation)."""

    def __post_init__(self) -> None:
        if self.join_max < 1:
            raise ValueError(f"join_max {self.join_max} must be at least 1 (1 leaves clips alone)")
        if not 0 <= self.held_out_fraction < 1:
            raise ValueError(f"held_out_fraction {self.held_out_fraction} must lie in [0, 1)")


@dataclass(frozen=True)
class Spoken:
    """A string and its codes."""

    text: str
    codes: np.ndarray
    """Int `[codebook, frame]`."""
    speaker: int
    clips: tuple[int, ...]
    """Which clips it was made of."""


class StringMaker:
    """Draws strings from the clips of a split."""

    def __init__(
        self,
        split: TokenSplit,
        config: JoinConfig,
        *,
        silence: np.ndarray,
        frame_rate_hz: float,
        speaker_of: Callable[[str | None], int],
        text_of: Callable[[str | None], str | None],
        max_frames: int,
        max_prompt_frames: int,
    ) -> None:
        """`text_of` gives the text as it is spelled, or None for a clip that cannot be used.

        Raises:
            TokensError: no clip of the split can be used.
        """
        self.split, self.config, self.silence = split, config, silence
        self.max_frames, self.max_prompt_frames = max_frames, max_prompt_frames
        self.max_gap = int(config.silence_s * frame_rate_hz)
        self._text_of = text_of
        self.lengths = np.asarray(split.lengths)
        usable = (self.lengths > 0) & (self.lengths <= max_frames)
        self.speakers = np.full(len(split), UNKNOWN, np.int32)
        for index in range(len(split)):  # one number per clip stays in memory; texts are read again when drawn
            utterance = split.utterance(index)
            usable[index] &= bool(text_of(utterance.text))
            self.speakers[index] = speaker_of(utterance.speaker)
        self.usable = np.flatnonzero(usable)
        self.num_left_out = len(split) - self.usable.size
        if not self.usable.size:
            raise TokensError(
                f"none of {len(split)} clips can be used: they need a text, and at most {max_frames} frames "
                "(model.max_frames)"
            )
        is_short = (self.lengths < config.join_below_s * frame_rate_hz) & (self.speakers != UNKNOWN) & usable
        self.short = np.flatnonzero(is_short) if config.join_max > 1 else np.array([], dtype=np.int64)
        self.long = np.setdiff1d(self.usable, self.short)
        self._by_length = self.long[np.argsort(self.lengths[self.long], kind="stable")]
        fits_prompt = usable & (self.lengths <= max_prompt_frames)
        known = sorted(set(self.speakers.tolist()) - {UNKNOWN})
        self._short_of = {s: self.short[self.speakers[self.short] == s] for s in known}
        self._prompts_of = {s: np.flatnonzero(fits_prompt & (self.speakers == s)) for s in known}

    @property
    def joined_share(self) -> float:
        """Share of the clips that are joined."""
        return self.short.size / self.usable.size

    def joined(self, rng: np.random.Generator, num_clips: int) -> Spoken:
        """Join clips of one speaker to a string that is not held out."""
        for _ in range(_TRIES):
            speaker = int(self.speakers[self.short[rng.integers(self.short.size)]])
            pool = self._short_of[speaker]
            clips = pool[rng.integers(pool.size, size=num_clips)]
            if self._composable(clips):
                return self._join(rng, clips, self.max_frames)
        raise ConfigError(
            f"{_TRIES} strings in a row were held out; lower task.joins.held_out_fraction "
            f"({self.config.held_out_fraction})"
        )

    def single(self, rng: np.random.Generator, near: float | None = None) -> Spoken:
        """A clip that is not joined; `near` (0 to 1, a rank by length) asks for a clip of about that length."""
        if near is None:
            near = rng.random()
        window = max(32, self._by_length.size // 20)
        first = int(np.clip(near * self._by_length.size - window / 2, 0, max(0, self._by_length.size - window)))
        candidates = self._by_length[first : first + window]
        return self._join(rng, candidates[[rng.integers(candidates.size)]], self.max_frames)

    def prompt(self, rng: np.random.Generator, target: Spoken, max_clips: int) -> Spoken | None:
        """Other recordings of the target's speaker, up to `max_clips` joined; None when there are none."""
        pool = self._prompts_of.get(target.speaker, np.array([], dtype=np.int64))
        pool = pool[~np.isin(pool, target.clips)]
        if not pool.size:
            return None
        for _ in range(_TRIES):
            clips = pool[rng.integers(pool.size, size=int(rng.integers(1, max_clips + 1)))]
            if self._composable(clips):
                return self._join(rng, clips, self.max_prompt_frames)
        return None

    def _composable(self, clips: np.ndarray) -> bool:
        return clips.size == 1 or not is_held_out(self._text(clips), self.config.held_out_fraction)

    def _text(self, clips: np.ndarray) -> str:
        return " ".join(self._text_of(self.split.utterance(int(i)).text) or "" for i in clips)

    def _join(self, rng: np.random.Generator, clips: np.ndarray, max_frames: int) -> Spoken:
        """Join as many of `clips`, from the first, as fit into `max_frames`."""
        pieces: list[np.ndarray] = []
        used, total = 0, 0
        for clip in clips:
            gap = int(rng.integers(self.max_gap + 1)) if used else 0
            codes = self.split.codes(int(clip))
            if used and total + gap + codes.shape[1] > max_frames:
                break
            if gap:
                start = int(rng.integers(self.silence.shape[1] - gap + 1))
                pieces.append(self.silence[:, start : start + gap])
            pieces.append(codes)
            used, total = used + 1, total + gap + codes.shape[1]
        kept = clips[:used]
        return Spoken(
            self._text(kept), np.concatenate(pieces, axis=1), int(self.speakers[kept[0]]), tuple(kept.tolist())
        )
