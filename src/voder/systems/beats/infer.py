"""What a fine-tuned BEATs hears in a recording."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from voder.audio.io import AudioClip
from voder.roles import collate_clips, device_of, fit_clip
from voder.systems.beats.model import Beats


@dataclass(frozen=True, kw_only=True)
class Heard:
    """One class and how probable it is."""

    name: str
    probability: float


@torch.no_grad()
def classify(model: Beats, clips: Sequence[AudioClip], *, top: int = 5) -> list[list[Heard]]:
    """The `top` most probable classes of each clip (any rate and channel count), best first; several may be true.

    Raises:
        ValueError: the model has no predictor.
    """
    fitted = [fit_clip(clip, sample_rate_hz=model.sample_rate_hz, channels=1) for clip in clips]
    chances = model.classify(model.encode_batch(*collate_clips(fitted, device_of(model)))).float().sigmoid()
    names = model.config.classes or tuple(str(i) for i in range(model.config.num_classes))
    best, which = chances.topk(min(top, len(names)), dim=1)
    return [
        [Heard(name=names[i], probability=p) for i, p in zip(row, values, strict=True)]
        for row, values in zip(which.tolist(), best.tolist(), strict=True)
    ]
