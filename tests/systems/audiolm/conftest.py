"""A codec and a unit tokenizer that can be computed by hand: loudness of a frame is two digits, a unit their first."""

import numpy as np
import pytest
import torch
from torch import nn

from voder.audio.io import AudioClip
from voder.errors import AudioError
from voder.nn.transformer import TransformerConfig
from voder.roles import Codec, Encoded, UnitTokenizer
from voder.systems.audiolm.config import AudioLmConfig

RATE, HOP, SIZE = 1000, 20, 8


class DigitCodec(Codec):
    """A frame's level is (first * 8 + second) / 64."""

    def __init__(self):
        super().__init__()
        self.sample_rate_hz, self.channels, self.hop, self.num_codebooks, self.codebook_size = RATE, 1, HOP, 2, SIZE
        self.weight = nn.Parameter(torch.zeros(1))

    def encode_batch(self, audio, lengths=None, *, num_codebooks=None):
        frames = audio.shape[-1] // HOP
        levels = audio[:, 0, : frames * HOP].unflatten(-1, (frames, HOP)).mean(-1).mul(64).round().long()
        codes = torch.stack((levels // SIZE, levels % SIZE), dim=1)
        return Encoded(codes=codes, lengths=lengths // HOP, num_samples=lengths)

    def decode_batch(self, encoded):
        levels = (encoded.codes[:, 0] * SIZE + encoded.codes[:, 1]) / 64
        return levels.repeat_interleave(HOP, dim=1)[:, None]


class DigitUnits(UnitTokenizer):
    """The first digit of every second frame."""

    def __init__(self):
        super().__init__()
        self.sample_rate_hz, self.hop, self.num_units = RATE, 2 * HOP, SIZE
        self.weight = nn.Parameter(torch.zeros(1))

    @property
    def identity(self):
        return "digits"

    def units_batch(self, audio, lengths=None):
        if int(lengths.min()) < self.hop:
            raise AudioError("too short")
        counts = lengths // self.hop
        levels = audio[:, 0, :: self.hop].mul(64).round().long() // SIZE
        return levels[:, : int(counts.max())], counts


@pytest.fixture(scope="session")
def codec():
    return DigitCodec()


@pytest.fixture(scope="session")
def units():
    return DigitUnits()


def config(**changes):
    """Sizes for the digits."""
    sizes = TransformerConfig(width=32, num_layers=1, num_heads=2, ffn_width=64, dropout=0.0)
    defaults = {
        **dict.fromkeys(("semantic", "coarse", "fine"), sizes),
        "num_buckets": 16,
        "max_distance": 64,
        "num_units": SIZE,
        "unit_rate_hz": 25.0,
        "units_per_s": 25.0,
        "num_codebooks": 2,
        "codebook_size": SIZE,
        "frame_rate_hz": 50.0,
        "coarse_codebooks": 1,
        "max_semantic_s": 2.0,
        "max_coarse_s": 2.0,
        "fine_chunk_s": 0.1,
        "trained": ("semantic", "coarse", "fine"),
    }
    return AudioLmConfig(**(defaults | changes))


@pytest.fixture
def digits():
    """Make the settings."""
    return config


def melody(seed, frames=24):
    """Codes `[2, frame]` of a tune of notes of four frames, none twice in a row, and its sound."""
    rng = np.random.default_rng(seed)
    notes = np.cumsum(rng.integers(1, SIZE, -(-frames // 4))) % SIZE
    first = np.repeat(notes, 4)[:frames]
    codes = np.stack((first, (5 * first + 3) % SIZE))
    levels = (codes[0] * SIZE + codes[1]) / 64
    return codes, AudioClip(np.repeat(levels, HOP)[None].astype(np.float32), RATE)
