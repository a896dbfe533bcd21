import numpy as np
import pytest
import torch

from voder.audio.io import AudioClip
from voder.systems.whisper import SYSTEM, WhisperModel


@pytest.fixture(scope="session")
def model():
    """Random, with embeddings loud enough that answers differ from window to window."""
    torch.manual_seed(1)
    made = WhisperModel(SYSTEM.preset("tiny").model).eval().requires_grad_(False)
    made.decoder.embedding.weight.mul_(40)
    made.decoder.positions.mul_(20)
    return made


@pytest.fixture(scope="session")
def clips():
    """Noise bursts of several lengths, the longest of four windows; 16 kHz."""
    rng = np.random.default_rng(0)
    lengths = (300, 9_000, 40_000, 110_000)
    return [
        AudioClip((rng.standard_normal((1, n)) * rng.uniform(0.05, 0.4)).astype(np.float32), 16_000) for n in lengths
    ]
