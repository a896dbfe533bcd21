"""Small corpora, synthesised."""

from pathlib import Path

import numpy as np
import pytest

from voder.audio.io import AudioClip, write_audio


@pytest.fixture
def sound():
    """Write a short recording; each number gives another one."""

    def make(path, number=0, *, seconds=0.1, rate=8_000, channels=1):
        rng = np.random.default_rng(number)
        samples = rng.uniform(-0.3, 0.3, (channels, int(seconds * rate))).astype(np.float32)
        write_audio(path, AudioClip(samples, rate))
        return Path(path)

    return make
