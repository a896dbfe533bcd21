"""What is said in the demo, by whom, after which prompt; and what the same strings sound like as recorded.

Strings are held out of training by hash (`voder.data.holdout`). A string "as recorded" and a prompt are single
test recordings of one speaker joined with 100 ms between them, so test audio and training audio share nothing.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from voder.audio.io import AudioClip
from voder.data.manifest import Manifest, Utterance
from voder.data.randomness import generator
from voder.errors import ManifestError

GAP_S = 0.1
PROMPT_WORDS = 3
"""Words in a prompt: with clips of about half a second, 1 to 3 seconds."""


@dataclass(frozen=True, kw_only=True)
class Line:
    """One string to say in one voice."""

    text: str
    speaker: str
    original: AudioClip
    """The string as recorded: the same words by the same speaker."""
    prompt: AudioClip
    """1 to 3 seconds of the speaker saying something else."""
    prompt_text: str


class Takes:
    """Recordings of single words by speaker and word, at one loudness."""

    def __init__(self, manifest: Manifest, *, sample_rate_hz: int, peak: float) -> None:
        self.sample_rate_hz, self.peak = sample_rate_hz, peak
        self.utterances: dict[str, dict[str, list[Utterance]]] = defaultdict(lambda: defaultdict(list))
        for utterance in manifest:
            if utterance.speaker is not None and utterance.text is not None:
                self.utterances[utterance.speaker][utterance.text].append(utterance)
        if not self.utterances:
            raise ManifestError(f"{manifest.path} has no recordings with both a speaker and a text")

    @property
    def speakers(self) -> list[str]:
        """Speakers in order."""
        return sorted(self.utterances)

    def join(self, speaker: str, words: Sequence[str], rng: np.random.Generator) -> AudioClip:
        """Words of one speaker in a row, each a random take, joined with a short silence."""
        gap = np.zeros(round(GAP_S * self.sample_rate_hz), np.float32)
        pieces: list[np.ndarray] = []
        for word in words:
            takes = self.utterances[speaker][word]
            take = takes[int(rng.integers(len(takes)))].read(sample_rate_hz=self.sample_rate_hz, channels=1)
            samples = take.samples[0] - take.samples[0].mean()
            pieces += [gap, samples * (self.peak / max(1e-3, float(np.abs(samples).max())))]
        return AudioClip(np.concatenate([*pieces, gap])[None].astype(np.float32), self.sample_rate_hz)


def plan_lines(takes: Takes, texts: Sequence[str], *, words: Sequence[str], seed: int) -> list[Line]:
    """Give every text a speaker in turn, its recorded original and a prompt of words that it does not contain."""
    lines = []
    for index, text in enumerate(texts):
        speaker = takes.speakers[index % len(takes.speakers)]
        rng = generator(seed, "line", index)
        others = [word for word in words if word not in text.split()]
        prompt_words = [str(word) for word in rng.choice(others, size=PROMPT_WORDS, replace=False)]
        lines.append(
            Line(
                text=text,
                speaker=speaker,
                original=takes.join(speaker, text.split(), rng),
                prompt=takes.join(speaker, prompt_words, rng),
                prompt_text=" ".join(prompt_words),
            )
        )
    return lines
