"""Judging voices: how well cosines tell pairs of one speaker from pairs of two."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float

from voder.audio.io import AudioClip
from voder.roles import SpeakerEncoder, collate_clips, device_of, fit_clip

_TOGETHER = 16


@dataclass(frozen=True, kw_only=True)
class Verification:
    """Pairs across recordings, judged by the cosine of their vectors."""

    equal_error_rate: float
    """Where as many pairs of one speaker are told apart as pairs of two are taken for one."""
    threshold: float
    """The cosine at which that is so."""
    same: float
    """Mean cosine of pairs of one speaker."""
    different: float
    """Mean cosine of pairs of two."""
    num_same: int
    num_different: int


@torch.no_grad()
def embed_all(encoder: SpeakerEncoder, clips: Sequence[AudioClip]) -> Float[np.ndarray, "clip channel"]:
    """One vector per clip of any rate and channel count."""
    rows = []
    for start in range(0, len(clips), _TOGETHER):
        fitted = [
            fit_clip(clip, sample_rate_hz=encoder.sample_rate_hz, channels=1)
            for clip in clips[start : start + _TOGETHER]
        ]
        rows.append(encoder.embed_batch(*collate_clips(fitted, device_of(encoder))).float().cpu().numpy())
    return np.concatenate(rows)


def verification(vectors: Float[np.ndarray, "clip channel"], speakers: Sequence[str]) -> Verification | None:
    """Judge every pair of recordings; None where one kind of pairs is missing."""
    names = np.array(speakers)
    first, second = np.triu_indices(len(names), 1)
    cosines = (vectors[first] * vectors[second]).sum(1)
    alike = names[first] == names[second]
    same, different = np.sort(cosines[alike]), np.sort(cosines[~alike])
    if not len(same) or not len(different):
        return None
    thresholds = np.unique(cosines)
    refused = np.searchsorted(same, thresholds, side="left") / len(same)
    accepted = 1 - np.searchsorted(different, thresholds, side="left") / len(different)
    best = int(np.abs(refused - accepted).argmin())
    return Verification(
        equal_error_rate=float((refused[best] + accepted[best]) / 2),
        threshold=float(thresholds[best]),
        same=float(same.mean()),
        different=float(different.mean()),
        num_same=len(same),
        num_different=len(different),
    )
