"""Stages learn alone or together, on units and codes of the same recordings; tokens of others are refused."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from voder import checkpoint, hub
from voder.config import resolve
from voder.data.shards import TokenStore
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, TokensError
from voder.systems.audiolm import SYSTEM
from voder.systems.audiolm.train import AudioLmTask
from voder.train.run import train
from voder.train.stages import Stage


def run(bench, output, *settings, start=None):
    request = bench.request("audiolm", output)
    config = resolve(request.config, overrides=["loop.steps=2", "loop.save_every=2", *settings])
    train(replace(request, config=config, start=start), say=lambda text: None)
    return checkpoint.resolve(output)


def task(bench, **settings):
    preset = SYSTEM.preset("tiny")
    config = replace(preset.task, **settings)
    model = SYSTEM.build(AudioLmTask.fit_config(preset.model, config, bench.data("audiolm")))
    return AudioLmTask(model, config, bench.data("audiolm"), seed=0)


@pytest.fixture(scope="module")
def alone(bench, tmp_path_factory):
    """Stage 1 trained by itself."""
    return run(bench, tmp_path_factory.mktemp("audiolm") / "semantic", "task.stage=semantic")


def test_one_stage_after_another_makes_a_whole(bench, alone, tmp_path):
    before = checkpoint.load_state(alone)
    with pytest.raises(CheckpointError, match="coarse stage of this checkpoint was never trained"):
        hub.load(alone).continue_clip(bench.test_clips()[0], duration_s=0.1)
    second = run(bench, tmp_path / "coarse", "task.stage=coarse", start=alone)
    third = run(bench, tmp_path / "fine", "task.stage=fine", start=second)
    after = checkpoint.load_state(third)
    moved = {name.partition(".")[0] for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"coarse", "fine"}
    assert hub.load(third).model.config.trained == ("semantic", "coarse", "fine")
    assert (tmp_path / "fine" / "samples").rglob("continuation.wav")


def test_every_stage_of_the_paper_is_a_stage_here(bench):
    assert list(SYSTEM.stages) == ["semantic", "coarse", "fine"]
    for name, stage in SYSTEM.stages.items():
        assert isinstance(stage, Stage)
        resolve(SYSTEM.preset("paper"), overrides=[*stage.settings, *stage.task_settings])
        trained = task(bench, stage=name)
        learning = {n for n, p in trained.model.named_parameters() if p.requires_grad}
        assert learning == {n for n, _ in trained.model.named_parameters() if n.startswith(stage.trained)}
        assert list(trained.optimised) == [name]


def test_the_published_sizes_are_described_without_being_allocated():
    with torch.device("meta"):
        model = SYSTEM.build(SYSTEM.preset("paper").model)
    sizes = {name: sum(p.numel() for p in getattr(model, name).parameters()) for name in ("semantic", "coarse", "fine")}
    assert all(0.15e9 < size < 0.35e9 for size in sizes.values())
    assert SYSTEM.anatomy(SYSTEM.preset("paper").model)["language model"].startswith("decoders 12 x 1024 for semantic")


def test_batches_follow_from_seed_and_step_alone(bench):
    one, other = task(bench), task(bench)
    for step in (0, 5):
        first, again = one.batch(step, 0, 1), other.batch(step, 0, 1)
        assert all(torch.equal(first.streams[name].ids, again.streams[name].ids) for name in first.streams)
    ranks = [one.batch(0, rank, 2).streams["coarse"] for rank in (0, 1)]
    assert ranks[0].ids.shape != ranks[1].ids.shape or not torch.equal(ranks[0].ids, ranks[1].ids)


def test_the_first_batch_shows_what_is_learned(bench):
    trained = task(bench)
    lines = trained.describe(trained.batch(0, 0, 1)).splitlines()
    assert [line.split()[0] for line in lines] == ["semantic", "learns", "coarse", "learns", "fine", "learns"]
    assert "-" in lines[3].split()  # units are read and not learned
    assert "-" not in lines[1].split()


def test_a_codec_without_other_codebooks_has_no_stage_for_them(bench):
    preset = SYSTEM.preset("tiny")
    model = replace(preset.model, coarse_codebooks=2)
    fitted = AudioLmTask.fit_config(model, preset.task, bench.data("audiolm"))
    assert fitted.trained == fitted.stages == ("semantic", "coarse")
    assert SYSTEM.build(fitted).fine is None
    with pytest.raises(ConfigError, match="nothing left for it to learn"):
        AudioLmTask.fit_config(model, replace(preset.task, stage="fine"), bench.data("audiolm"))


def tokens_of_another(bench, folder, inner):
    """A copy of the tokens that says it is of another tokenizer."""
    shutil.copytree(bench.data("audiolm"), folder)
    file = folder / inner / "tokens.json"
    record = json.loads(file.read_text())
    record["tokenizer"]["identity"] = "somebody-elses"
    file.write_text(json.dumps(record))
    return folder


@pytest.mark.parametrize(("inner", "kind"), [(".", "codec"), ("units", "unit tokenizer")])
def test_tokens_of_another_tokenizer_are_refused(bench, alone, tmp_path, inner, kind):
    data = tokens_of_another(bench, tmp_path / "tokens", inner)
    request = replace(bench.request("audiolm", tmp_path / "run"), data=data, start=alone)
    with pytest.raises(FittedPartMismatch, match=f"tokens of {kind}"):
        train(request, say=lambda text: None)


def test_a_checkpoint_with_other_parts_is_refused(bench, alone, tmp_path):
    folder = tmp_path / "swapped"
    shutil.copytree(alone, folder)
    shutil.rmtree(folder / "parts" / "units")
    with pytest.raises(CheckpointError, match="no parts/units"):
        hub.load(folder)
    shutil.copytree(folder / "parts" / "codec", folder / "parts" / "units")
    with pytest.raises(FittedPartMismatch, match="parts/units is"):
        hub.load(folder)


def test_codes_without_units_are_refused(bench, tmp_path):
    shutil.copytree(bench.data("audiolm"), tmp_path / "tokens")
    shutil.rmtree(tmp_path / "tokens" / "units")
    with pytest.raises(TokensError, match=r"no units: run `voder tokenize`"):
        train(replace(bench.request("audiolm", tmp_path / "run"), data=tmp_path / "tokens"), say=lambda text: None)
    assert TokenStore.open(tmp_path / "tokens").splits
