"""What every system of the table gets for free: it is built, trained, saved, loaded and used on its `tiny` preset.

A new system needs a line in `voder.systems.SYSTEMS` and nothing here.
"""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from voder import checkpoint, hub, roles
from voder.audio.io import AudioClip
from voder.config import from_dict, read_yaml, to_dict
from voder.data.manifest import Manifest
from voder.evaluate.bench import Bench, tiny_presets
from voder.evaluate.equalities import check
from voder.evaluate.suites import read_clips
from voder.nn import causal_lm
from voder.systems import SYSTEMS

every_system = pytest.mark.parametrize("system", list(SYSTEMS))
every_tiny = pytest.mark.parametrize("system", tiny_presets(SYSTEMS))


@every_system
def test_tiny_comes_first_and_is_built_in_a_moment(system: str) -> None:
    found = hub.find(system)
    assert next(iter(found.presets)) == "tiny"
    assert found.default_preset in found.presets
    hub.build(f"{system}/tiny")  # imports libraries, which is not what is timed
    started = time.process_time()
    hub.build(f"{system}/tiny")
    assert time.process_time() - started < 2


@every_system
def test_every_preset_survives_being_written_down(system: str) -> None:
    found = hub.find(system)
    for name in found.presets:
        preset = found.preset(name)
        assert from_dict(found.run_config, json.loads(json.dumps(to_dict(preset)))) == preset


@every_system
def test_a_few_steps_move_the_weights_and_the_run_says_what_made_it(system: str, bench: Bench) -> None:
    run = bench.trained(system)
    first, last = (checkpoint.load_state(path) for path in sorted((run / "checkpoints").glob("step-*")))
    moved = [name for name in first if not torch.equal(first[name], last[name])]
    assert len(moved) > len(first) / 3
    assert all(bool(torch.isfinite(value.double()).all()) for value in last.values())
    record = json.loads((run / "run.json").read_text())
    assert record["system"] == system
    assert record["data"]
    assert set(read_yaml(run / "config.yaml")) == {"model", "task", "loop"}
    lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    assert any(name.endswith("/loss") for line in lines for name in line)
    assert any(name.startswith("valid/") for line in lines for name in line)
    assert any((run / "samples").rglob("*.*"))


@every_system
def test_the_first_batch_is_shown(system: str, bench: Bench) -> None:
    told: list[str] = []
    from voder.train.run import train

    train(bench.request(system, bench.folder / "shown" / system), say=told.append)
    assert "parameters to train on cpu" in told[0]
    assert len(told[0].splitlines()) > 1


@every_system
def test_a_loaded_system_has_the_roles_it_names(system: str, bench: Bench) -> None:
    role = hub.load(bench.trained(system))
    assert hub.find(system).roles
    for name in hub.find(system).roles:
        assert isinstance(role, causal_lm.LanguageModel if name == "LanguageModel" else getattr(roles, name))
        assert hub.load_role(bench.trained(system), name) is not None
    assert not role.training
    assert not any(parameter.requires_grad for parameter in role.parameters())


@every_tiny
def test_every_equality_holds(system: str, bench: Bench) -> None:
    results = check(system, bench)
    assert {"loaded = saved", "resumed = uninterrupted", "repeated = first"} <= {result.name for result in results}
    assert any(result.name.startswith("batched = alone") for result in results)
    assert [result for result in results if not result.holds] == []


@every_system
def test_the_data_of_another_system_is_refused(system: str, bench: Bench, tmp_path: Path) -> None:
    from dataclasses import replace

    from voder.errors import VoderError
    from voder.train.run import train

    wrong = tmp_path / "wrong"
    wrong.mkdir()
    with pytest.raises(VoderError, match=str(wrong)):
        train(replace(bench.request(system, tmp_path / "run"), data=wrong), say=lambda text: None)
    assert not (tmp_path / "run").exists()


def codes_of(codec: roles.Codec, bench: Bench) -> Callable[..., Any]:
    """What a codec makes of a recording under options."""
    audio, lengths = roles.collate_clips([bench.test_clips()[0].at_rate(codec.sample_rate_hz)], torch.device("cpu"))
    return lambda **options: codec.encode_batch(audio, lengths, **options).codes.tolist()


def speech_of(speaker: roles.Speaker, bench: Bench) -> Callable[..., Any]:
    """What a voice says under options: several texts, since a tiny voice may say one the same by chance."""
    texts = [utterance.text or "" for utterance in Manifest.open(bench.recordings / "test.jsonl")][:4]
    requests = [roles.SayRequest(text=text, speaker=speaker.speakers[0]) for text in texts]
    return lambda **options: [speech.codes.tolist() for speech in speaker.say_batch(requests, **options)]


def continuation_of(continuer: roles.Continuer, bench: Bench) -> Callable[..., Any]:
    """What follows a recording under options."""
    clip = bench.test_clips()[0]
    prompt = AudioClip(clip.samples[:, : clip.sample_rate_hz * 3 // 10], clip.sample_rate_hz)
    return lambda **options: continuer.continue_clip(prompt, **({"duration_s": 0.3} | options)).codes.tolist()


SAMPLING: list[tuple[dict[str, Any], dict[str, Any]]] = [
    ({"seed": 0}, {"seed": 1}),
    ({"greedy": True}, {"greedy": False, "temperature": 2.0}),
    ({"temperature": 0.01}, {"temperature": 5.0}),
    ({"top_k": 1}, {"top_k": 0}),
    ({"top_p": 0.001, "top_k": 0}, {"top_p": 1.0, "top_k": 0}),
    ({"repetition_penalty": 1.0, "repetition_window": 9}, {"repetition_penalty": 50.0, "repetition_window": 9}),
]


def text_of(lm: causal_lm.LanguageModel, bench: Bench) -> Callable[..., Any]:
    """What a language model says under options."""
    return lambda **options: lm.generate_batch([[9, 8, 7]], **{"max_new": 8, **options})[0].ids


EXTREMES: dict[type, tuple[Callable[..., Callable[..., Any]], list[tuple[dict[str, Any], dict[str, Any]]]]] = {
    roles.Codec: (codes_of, [({"num_codebooks": 1}, {"num_codebooks": 2})]),
    roles.Speaker: (speech_of, SAMPLING),
    roles.Continuer: (continuation_of, [*SAMPLING, ({"duration_s": 0.02}, {"duration_s": 0.3})]),
    causal_lm.LanguageModel: (
        text_of,
        [
            ({"seed": 0, "temperature": 2.0}, {"seed": 1, "temperature": 2.0}),
            *SAMPLING[1:],
            ({"max_new": 1}, {"max_new": 8}),
        ],
    ),
}
"""Decoding options of a role, each moved to two ends."""


@every_system
def test_every_decoding_option_acts(system: str, bench: Bench) -> None:
    role = hub.load(bench.trained(system))
    for kind, (make, pairs) in EXTREMES.items():
        if isinstance(role, kind):
            use = make(role, bench)
            for one, other in pairs:
                assert use(**one) != use(**other), (one, other)
                assert use(**one) == use(**one)


def test_a_voice_follows_its_prompt_and_its_words(bench: Bench) -> None:
    speaker = hub.load(bench.trained("valle"))
    clips = read_clips(list(Manifest.open(bench.recordings / "test.jsonl")))
    said = [
        [
            speaker.say_batch([roles.SayRequest(text="abc", **voice)], seed=seed, temperature=1.0)[0].codes.tolist()
            for seed in range(5)
        ]
        for voice in (
            {"speaker": "ann"},
            {"speaker": "bob"},
            {"prompt": clips[0]},
            {"prompt": clips[1]},
            {"prompt": clips[1], "prompt_text": "fed"},
        )
    ]
    assert not any(one == other for number, one in enumerate(said) for other in said[:number])


IMPORT_EVERYTHING = """
import importlib, json, logging, pkgutil, random, sys, warnings
import numpy, safetensors.torch, soundfile, soxr, torch, yaml, jaxtyping, constriction, rich.console

def state():
    return {
        "threads": (torch.get_num_threads(), torch.get_num_interop_threads()),
        "dtype": str(torch.get_default_dtype()),
        "deterministic": torch.are_deterministic_algorithms_enabled(),
        "grad": torch.is_grad_enabled(),
        "torch": torch.random.get_rng_state().sum().item(),
        "numpy": int(numpy.random.get_state()[1].sum()),
        "python": hash(random.getstate()),
        "filters": [str(f) for f in warnings.filters],
        "logging": (logging.root.level, len(logging.root.handlers), len(logging.root.filters)),
        "excepthook": sys.excepthook is sys.__excepthook__,
    }

before = state()
import voder
names = [m.name for m in pkgutil.walk_packages(voder.__path__, "voder.") if m.name != "voder.__main__"]
for name in names:
    importlib.import_module(name)
after = state()
print(json.dumps({"names": names, "changed": {k: (before[k], after[k]) for k in before if before[k] != after[k]}}))
"""


def test_importing_changes_nothing_and_prints_nothing() -> None:
    done = subprocess.run([sys.executable, "-c", IMPORT_EVERYTHING], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    found = json.loads(done.stdout)
    assert found["changed"] == {}
    assert {f"voder.systems.{name}.train" for name in SYSTEMS} <= set(found["names"])


def test_torch_has_no_broken_neighbours() -> None:
    """torchaudio or torchvision of another torch break the imports of transformers."""
    from voder.evaluate.doctor import _loadable

    for name in ("torchaudio", "torchvision"):
        assert not _loadable(name).startswith("broken"), _loadable(name)
