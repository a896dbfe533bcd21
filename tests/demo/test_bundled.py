"""The bundled checkpoints load, fit together, fit their limit, and do what their cards say, on a small sample."""

import json

import pytest

from voder import checkpoint, hub
from voder.data.holdout import held_out_strings
from voder.demo.pipeline import HELD_OUT_FRACTION
from voder.demo.recordings import WORDS
from voder.evaluate.suites import error_figure, hear
from voder.roles import SayRequest

NAMES = ("ctc/demo", "spectral/demo", "valle/demo")


def test_together_they_fit_their_limit() -> None:
    weights = hub.BUNDLED.rglob("*.safetensors")
    assert sum(file.stat().st_size for file in weights) <= 12_000_000


@pytest.mark.parametrize("name", NAMES)
def test_each_says_how_it_was_made(name: str) -> None:
    folder = hub.locate(name)
    run = json.loads((folder / "run.json").read_text())
    assert run["command"].startswith(f"voder train {name.split('/')[0]} --preset demo")
    assert isinstance(run["seed"], int)
    assert (folder / "metrics.jsonl").stat().st_size > 1000
    card = (folder / "README.md").read_text()
    assert "licence: CC-BY-SA-4.0" in card
    assert run["command"] in card


def test_the_voice_holds_the_codec_it_was_trained_on() -> None:
    voice = checkpoint.read(hub.locate("valle/demo"))
    assert voice.config["codec_identity"] == checkpoint.identity(hub.locate("spectral/demo"))


def test_unseen_strings_are_understood() -> None:
    """30 held-out strings; the demo measures 120 and the cards say what it found. Chance is 89 %."""
    voice, ears = hub.load("valle/demo"), hub.load("ctc/demo")
    texts = held_out_strings(WORDS, 30, fraction=HELD_OUT_FRACTION, seed=1)
    speakers = voice.speakers
    requests = [SayRequest(text=text, speaker=speakers[i % len(speakers)]) for i, text in enumerate(texts)]
    said = voice.say_batch(requests, seed=0)
    figure = error_figure("words", texts, hear(ears, [speech.clip for speech in said]))
    assert figure.value is not None
    assert figure.value <= 12.0
