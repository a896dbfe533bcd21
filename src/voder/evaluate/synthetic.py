"""A corpus of sung letters, made in a moment: what `voder verify` and the tests train `tiny` presets on.

Every letter is a chord of its own and every speaker a register of their own, so there is something to learn.
"""

from pathlib import Path

import numpy as np

from voder.audio.io import AudioClip, write_audio
from voder.data.randomness import generator
from voder.files import write_text

LETTERS = "abcdef"
SPEAKERS = ("ann", "bob", "cem", "dia")
SAMPLE_RATE_HZ = 8000


def letter(symbol: str, speaker: int, rng: np.random.Generator) -> np.ndarray:
    """One sung letter of 0.1 to 0.16 s."""
    num_samples = int(rng.integers(800, 1280))
    time_s = np.arange(num_samples) / SAMPLE_RATE_HZ
    pitch_hz = (110 + 45 * speaker) * rng.uniform(0.97, 1.03)
    formant_hz = 400 + 350 * LETTERS.index(symbol)
    tone = np.zeros(num_samples)
    for harmonic in range(1, int(3400 / pitch_hz)):
        strength = np.exp(-(((harmonic * pitch_hz - formant_hz) / 250) ** 2)) + 0.02
        tone += strength * np.sin(2 * np.pi * harmonic * pitch_hz * time_s + rng.uniform(0, 6.28))
    swell = np.sin(np.pi * np.arange(num_samples) / num_samples) ** 0.5
    return (0.3 * tone / np.abs(tone).max() * swell + 0.001 * rng.standard_normal(num_samples)).astype(np.float32)


def sing(text: str, speaker: int, rng: np.random.Generator) -> AudioClip:
    """A text, letter by letter."""
    samples = np.concatenate([letter(symbol, speaker, rng) for symbol in text])
    return AudioClip(samples[None], SAMPLE_RATE_HZ)


def write_recordings(folder: Path, *, clips_per_speaker: int = 10, seed: int = 0) -> None:
    """Write `folder/SPEAKER/NUMBER.wav` with a transcript beside each."""
    for number, speaker in enumerate(SPEAKERS):
        for take in range(clips_per_speaker):
            rng = generator(seed, "recording", number, take)
            text = "".join(rng.choice(list(LETTERS), int(rng.integers(3, 6))))
            path = folder / speaker / f"{take:02d}.wav"
            write_audio(path, sing(text, number, rng))
            written = text if take % 3 else f"{text.capitalize()}."  # as people write, so that spelling is exercised
            write_text(path.with_suffix(".txt"), written + "\n")
