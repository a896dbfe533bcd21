"""Whose voice it is: cosines of speaker vectors, with what recordings of one and of two speakers give beside."""

from typing import Any

import numpy as np
import pytest
import torch

from voder.audio.io import AudioClip
from voder.evaluate.run import _another
from voder.evaluate.suites import likeness_figure
from voder.roles import SpeakerEncoder


class Angle(SpeakerEncoder):
    """The first sample is the angle of the vector."""

    sample_rate_hz, width = 8000, 2

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def embed_batch(self, audio: Any, lengths: Any = None) -> torch.Tensor:
        angle = audio[:, 0, 0]
        return torch.stack([angle.cos(), angle.sin()], dim=1)


def clip(angle: float) -> AudioClip:
    """A clip of a voice."""
    return AudioClip(np.full((1, 80), angle, np.float32), 8000)


def test_a_voice_is_compared_with_its_speaker_and_recordings_with_each_other() -> None:
    figure = likeness_figure(
        "likeness", Angle(), [clip(0.1), clip(0.6)], [clip(0.0), clip(0.8)], [clip(0.3), clip(0.8)], ["a", "b"],
        judge_name="angle",
    )  # fmt: skip
    assert figure.value == pytest.approx((np.cos(0.1) + np.cos(0.2)) / 2, abs=1e-6)
    assert figure.originals == pytest.approx((np.cos(0.3) + 1) / 2, abs=1e-6)
    assert figure.chance == pytest.approx(np.cos(0.8), abs=1e-6)
    assert not figure.lower_is_better
    alone = likeness_figure("x", Angle(), [clip(0.1)], [clip(0.0)], [clip(0.0)], ["a"], judge_name="angle")
    assert alone.chance is None


def test_another_recording_is_of_the_same_speaker() -> None:
    speakers = ["a", "b", "a", "c"]
    assert [_another(i, speakers) for i in range(4)] == [2, 1, 0, 3]
