"""The checks of the equalities see what they are there for: each fails when its equality is broken."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from voder import checkpoint, hub
from voder.data.manifest import Manifest
from voder.evaluate import equalities
from voder.evaluate.bench import Bench, tiny_presets
from voder.evaluate.equalities import check
from voder.evaluate.role_equalities import Equality
from voder.evaluate.synthetic import LETTERS, SPEAKERS, write_recordings
from voder.nn.cache import StaticCache


def failing(results: list[Equality]) -> set[str]:
    """Names of what does not hold."""
    return {result.name for result in results if not result.holds}


def test_nothing_tolerates_nan() -> None:
    assert not Equality(name="x", difference=float("nan"), tolerance=1.0).holds
    assert Equality(name="x", difference=0.0, tolerance=0.0).holds


def test_padding_that_leaks_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    codec = hub.load(bench.trained("spectral"))
    encode = type(codec).encode_batch

    def leaking(self: Any, audio: torch.Tensor, lengths: Any = None, **options: Any) -> Any:
        return encode(self, audio, torch.full((len(audio),), audio.shape[2]), **options)

    monkeypatch.setattr(type(codec), "encode_batch", leaking)
    assert "batched = alone (codes)" in failing(check("spectral", bench))


def test_a_cache_that_forgets_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    append = StaticCache.append

    def forgetting(self: StaticCache, layer: int, keys: torch.Tensor, values: torch.Tensor) -> Any:
        past, present = append(self, layer, keys, values)
        past = past.clone()
        past[:, :, : self.length] = 0
        return past, present

    monkeypatch.setattr(StaticCache, "append", forgetting)
    assert "cached = recomputed" in failing(check("valle", bench))


def test_a_run_that_goes_on_otherwise_is_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.trained("ctc")
    request = Bench.request

    def other(self: Bench, system: str, output: Path) -> Any:
        made = request(self, system, output)
        if output.name.endswith("-resumed"):  # a batch drawn with another seed, as after a lost position
            record = json.loads((output / "run.json").read_text()) | {"seed": 9}
            (output / "run.json").write_text(json.dumps(record))
            object.__setattr__(made, "seed", 9)
        return made

    monkeypatch.setattr(Bench, "request", other)
    assert "resumed = uninterrupted" in failing(check("ctc", bench))


def test_weights_lost_in_saving_are_seen(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    save = checkpoint.save

    def losing(folder: Path, *, state: dict[str, torch.Tensor], **options: Any) -> None:
        save(folder, state={name: value.half().float() for name, value in state.items()}, **options)

    monkeypatch.setattr(equalities.checkpoint, "save", losing)
    assert "loaded = saved" in failing(check("ctc", bench))


def test_every_preset_made_for_tests_is_checked() -> None:
    assert {"spectral", "encodec", "encodec/fsq_tiny"} <= set(tiny_presets(["encodec", "spectral"]))


def test_the_synthetic_corpus_is_the_same_every_time(tmp_path: Path, bench: Bench) -> None:
    for name in ("a", "b"):
        write_recordings(tmp_path / name, clips_per_speaker=2)
    for path in (tmp_path / "a").rglob("*.*"):
        assert path.read_bytes() == (tmp_path / "b" / path.relative_to(tmp_path / "a")).read_bytes()
    utterances = list(Manifest.open(bench.recordings / "train.jsonl"))
    assert {u.speaker for u in utterances} == set(SPEAKERS)
    assert {letter for u in utterances for letter in (u.text or "").lower()} - {"."} == set(LETTERS)
