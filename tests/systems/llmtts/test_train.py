"""Over a trained language model: its weights are taken and stay, its tokenizer travels along, and no other will do."""

import json
import shutil
from dataclasses import replace

import pytest
import torch

from voder import checkpoint, hub
from voder.checkpoint import load_tensors
from voder.config import resolve
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, TokensError
from voder.evaluate.plan import describe
from voder.nn.lora import LoraSizes
from voder.systems.llmtts import SYSTEM
from voder.systems.llmtts.train import LlmTtsTask
from voder.train.run import train
from voder.train.stages import Stage


def run(bench, output, *settings, preset="llmtts", start=None, data=None):
    request = bench.request(preset, output)
    config = resolve(request.config, overrides=["loop.steps=2", "loop.save_every=2", *settings])
    changes = {"config": config, "start": start} | ({} if data is None else {"data": data})
    train(replace(request, **changes), say=lambda text: None)
    return checkpoint.resolve(output)


def task(bench, preset="tiny", model=None, **settings):
    found = SYSTEM.preset(preset)
    config = replace(found.task, **settings)
    fitted = LlmTtsTask.fit_config(replace(found.model, **(model or {})), config, bench.data("llmtts"))
    return LlmTtsTask(SYSTEM.build(fitted), config, bench.data("llmtts"), seed=0)


@pytest.fixture(scope="module")
def language_model(bench):
    """A tiny one, trained for a moment."""
    return checkpoint.resolve(bench.trained("lm"))


@pytest.fixture(scope="module")
def upon(bench, language_model, tmp_path_factory):
    """Method A upon it."""
    output = tmp_path_factory.mktemp("llmtts") / "upon"
    return run(bench, output, f"task.lm={language_model}", preset="llmtts/vocabulary_tiny")


def test_a_trained_language_model_is_taken_and_stays_as_it_is(upon, language_model):
    own = {n.replace(".base_layer", ""): v for n, v in checkpoint.load_state(upon).items() if ".lora_" not in n}
    theirs = checkpoint.load_state(language_model)
    for name, value in theirs.items():
        assert torch.equal(own[f"reader.network.base_model.model.{name.removeprefix('network.')}"], value), name
    said = hub.load(upon).say("abc", voice="ann", greedy=True)
    assert said.codes.shape[1] >= 1
    assert hub.load(upon).model.config.lm_identity == checkpoint.identity(language_model)


def test_a_checkpoint_has_the_language_model_as_a_part_and_repeats_none_of_it(upon, language_model, tmp_path):
    names = set(load_tensors(upon / "model.safetensors"))
    assert {name for name in names if name.startswith("reader.network.")} == {n for n in names if ".lora_" in n}
    assert set(checkpoint.read(upon).borrowed.values()) == {
        f"lm/{name}" for name in checkpoint.load_state(language_model)
    }
    inside = upon / "parts" / "lm" / "model.safetensors"
    assert inside.read_bytes() == (language_model / "model.safetensors").read_bytes()
    shutil.copytree(upon, tmp_path / "voice")
    shutil.rmtree(tmp_path / "voice" / "parts" / "lm")
    with pytest.raises(CheckpointError, match="lacks weights that"):
        hub.load(tmp_path / "voice")


@pytest.mark.parametrize(
    ("preset", "stage"), [("vocabulary_tiny", "ar"), ("tiny", "ar"), ("tiny", "nar"), ("tiny", None)]
)
def test_a_dry_run_counts_what_training_would_teach(bench, preset, stage):
    made = task(bench, preset, **({} if stage is None else {"stage": stage}))
    counts = [(p.numel(), p.requires_grad) for p in made.model.parameters()]
    config = replace(SYSTEM.preset(preset), model=made.model.config)
    plan = describe(SYSTEM, config, preset=preset, stage_name=stage)
    rows = dict(line.split(maxsplit=1) for line in plan.splitlines()[1:])
    assert rows["trained"] == f"{sum(n for n, t in counts if t):,} parameters"
    assert rows["frozen"] == f"{sum(n for n, t in counts if not t):,} parameters"


def test_new_ids_begin_as_the_mean_of_the_old(bench, language_model):
    made = task(bench, "vocabulary_tiny", lm=str(language_model))
    reader = made.model.reader
    mean = reader.causal.get_input_embeddings().weight.mean(dim=0)
    torch.testing.assert_close(reader.new_ids.weight, mean.expand_as(reader.new_ids.weight))
    assert bool(reader.holds_trained)
    assert not reader.causal.get_input_embeddings().weight.requires_grad


def test_going_on_keeps_what_was_learned_and_refuses_another_language_model(bench, upon, language_model, tmp_path):
    more = run(
        bench,
        tmp_path / "more",
        f"task.lm={language_model}",
        "loop.optimizer.learning_rate=1e-9",
        preset="llmtts/vocabulary_tiny",
        start=upon,
    )
    before, after = checkpoint.load_state(upon), checkpoint.load_state(more)
    torch.testing.assert_close(after["reader.new_ids.weight"], before["reader.new_ids.weight"], atol=1e-5, rtol=0)
    with pytest.raises(FittedPartMismatch, match="trained over language model"):
        run(bench, tmp_path / "random", preset="llmtts/vocabulary_tiny", start=upon)


def test_what_was_trained_on_tokens_of_another_codec_is_refused(bench, upon, language_model, tmp_path):
    shutil.copytree(bench.data("llmtts"), tmp_path / "tokens")
    record = json.loads((tmp_path / "tokens" / "tokens.json").read_text())
    record["tokenizer"]["identity"] = "another"
    (tmp_path / "tokens" / "tokens.json").write_text(json.dumps(record))
    setting = f"task.lm={language_model}"
    with pytest.raises(FittedPartMismatch, match="tokens of codec"):
        run(bench, tmp_path / "run", setting, preset="llmtts/vocabulary_tiny", start=upon, data=tmp_path / "tokens")


def test_a_checkpoint_without_its_parts_is_refused(upon, tmp_path):
    shutil.copytree(upon, tmp_path / "bare")
    codec = tmp_path / "bare" / "parts" / "codec"
    with open(codec / "model.safetensors", "ab") as file:
        file.write(b" ")
    with pytest.raises(FittedPartMismatch, match="the llmtts beside it was trained on tokens of"):
        hub.load(tmp_path / "bare")
    shutil.rmtree(codec)
    with pytest.raises(CheckpointError, match="no parts/codec"):
        hub.load(tmp_path / "bare")


def test_speakers_that_come_later_begin_as_the_mean_of_those_before():
    from voder.systems.llmtts.fit import grow_state

    start = SYSTEM.preset("superposed_tiny").model
    state = {n: v.clone() for n, v in SYSTEM.build(start).state_dict().items()}
    config = replace(start, speakers=(*start.speakers, "z"))
    grown = grow_state(state, start, config)
    checkpoint.load_into(SYSTEM.build(config), grown, "here")
    for name in ("ar.text.ids.weight", "nar.text.ids.weight", "reader.new_ids.weight"):
        torch.testing.assert_close(grown[name][-1], state[name][-2:].mean(dim=0))
        assert torch.equal(grown[name][:-1], state[name])


@pytest.mark.parametrize("stage", ["ar", "nar"])
@pytest.mark.parametrize("preset", ["tiny", "vocabulary_tiny"])
def test_a_stage_trains_what_it_names_and_never_the_language_model(bench, preset, stage):
    assert isinstance(SYSTEM.stages[stage], Stage)
    resolve(SYSTEM.preset("paper"), overrides=[*SYSTEM.stages[stage].settings, *SYSTEM.stages[stage].task_settings])
    made = task(bench, preset, stage=stage)
    learning = {n for n, p in made.model.named_parameters() if p.requires_grad}
    assert learning
    inside = {name for name in learning if name.startswith("reader.")}
    assert all(".lora_" in name or name == "reader.new_ids.weight" for name in inside)
    assert bool(inside) == (stage == "ar")
    assert all(name.startswith(SYSTEM.stages[stage].trained) for name in learning - inside)
    assert list(made.optimised) == [stage]


def test_a_frozen_language_model_leaves_valle_to_learn(bench):
    made = task(bench, model={"lora": None})
    assert {n.partition(".")[0] for n, p in made.model.named_parameters() if p.requires_grad} == {"ar", "nar"}
    for _, loss in made.losses(made.batch(0, 0, 1), 0):
        loss.value.backward()
    assert made.memory.num_bytes
    with pytest.raises(ConfigError, match="give it a rank"):
        task(bench, "superposed_tiny", model={"lora": None})


def test_text_is_learned_too_or_not(bench):
    weights = {}
    for flag in (True, False):
        made = task(bench, "vocabulary_tiny", text_loss=flag, model={"lora": LoraSizes(rank=2, dropout=0.0)})
        batch = made.batch(0, 0, 1)
        weights[flag] = dict(made.losses(batch, 1))["ar"].weight
    assert weights[False] == float(batch.audio.loss.sum())
    assert weights[True] > weights[False]


def test_the_first_batch_is_told_apart_and_follows_from_seed_and_step(bench):
    one, other = task(bench, prompt_share=1.0), task(bench, prompt_share=1.0)
    first, again = one.batch(3, 0, 1), other.batch(3, 0, 1)
    assert torch.equal(first.audio.ids, again.audio.ids)
    assert torch.equal(first.text.ids, again.text.ids)
    text, reads, learns = one.describe(first).splitlines()
    assert text.endswith("<end>")
    assert "<begin_prompt>" in reads
    assert "<begin>" in reads
    assert learns.split()[1] == "-"
    assert learns.endswith("<end>")


def test_tokens_without_text_are_refused(bench, tmp_path):
    shutil.copytree(bench.data("llmtts"), tmp_path / "tokens")
    for file in (tmp_path / "tokens").glob("train-*.jsonl"):
        rows = [json.loads(line) for line in file.read_text().splitlines()]
        for row in rows:
            row.pop("text")
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    with pytest.raises(TokensError, match="no recording of the training split has a text"):
        run(bench, tmp_path / "run", data=tmp_path / "tokens")
