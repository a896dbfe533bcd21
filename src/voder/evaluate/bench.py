"""What equalities are checked on: a synthetic corpus, and tiny systems trained on it for a few steps."""

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path

import numpy as np

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.corpus.prepare import prepare_corpus
from voder.corpus.tokenize import tokenize_corpus
from voder.data.manifest import Manifest
from voder.data.paired import UNITS_FOLDER
from voder.data.randomness import generator
from voder.evaluate.suites import read_clips
from voder.evaluate.synthetic import write_recordings
from voder.train.run import RunRequest, train

CODEC = "spectral"
"""Whose tokens systems that train on tokens get."""
UNITS = "hubert"
"""Whose units those that train on units get."""

STEPS = 6
"""Of every run."""


class Bench:
    """What the checks stand on: a synthetic corpus and tiny systems trained on it, each made once."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.recordings = folder / "data"
        if not self.recordings.exists():
            write_recordings(folder / "recordings", seed=seed)
            prepare_corpus(
                folder / "recordings", self.recordings, valid_fraction=0.15, test_fraction=0.15, workers=1, seed=seed
            )

    def data(self, system: str) -> Path:
        """The folder that a system trains on."""
        kind = hub.find(system.partition("/")[0]).trains_on
        if kind == "recordings":
            return self.recordings
        tokens = self.folder / "tokens"
        if not tokens.exists():
            codec = checkpoint.resolve(self.trained(CODEC))
            tokenize_corpus(self.recordings, hub.load_codec(codec), codec, tokens)
        if kind == "tokens and units" and not (tokens / UNITS_FOLDER).exists():
            units = checkpoint.resolve(self.trained(UNITS))
            tokenize_corpus(self.recordings, hub.load_role(units, "UnitTokenizer"), units, tokens / UNITS_FOLDER)
        return tokens

    def request(self, system: str, output: Path) -> RunRequest:
        """A run of the tiny preset (or of `system/preset`) that saves in its middle and at its end."""
        name, _, preset = system.partition("/")
        config = hub.find(name).preset(preset or "tiny")
        loop = replace(
            config.loop, steps=STEPS, save_every=STEPS // 2, evaluate_every=STEPS, log_every=2, keep=2, precision="fp32"
        )
        return RunRequest(
            system=name,
            config=replace(config, loop=loop),
            data=self.data(system),
            output=output,
            seed=self.seed,
            device="cpu",
        )

    def trained(self, system: str) -> Path:
        """The run folder of a system."""
        run = self.folder / "runs" / system.replace("/", "-")
        if not run.exists():
            train(self.request(system, run), say=quiet)
        return run

    def test_clips(self) -> list[AudioClip]:
        """Recordings outside training, of different lengths, the shortest cut to a few samples."""
        clips = read_clips(list(Manifest.open(self.recordings / "test.jsonl")))
        rate = clips[0].sample_rate_hz
        noise = generator(self.seed, "noise").uniform(-0.5, 0.5, (1, rate // 3 + 1)).astype(np.float32)
        return [*clips[:4], AudioClip(clips[0].samples[:, :401], rate), AudioClip(noise, rate)]


def tiny_presets(systems: Iterable[str]) -> list[str]:
    """Every preset made for tests: `system`, and `system/preset` where a system has several."""
    return [
        name if preset == "tiny" else f"{name}/{preset}"
        for name in systems
        for preset in hub.find(name).presets
        if preset == "tiny" or preset.endswith("_tiny")
    ]


def quiet(text: str) -> None:
    """What a run says to nobody."""
