"""A language model of text: learns, is adapted, goes on and answers."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from voder import checkpoint, hub
from voder.config import resolve
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, ManifestError, TextError
from voder.nn.lora import LoraSizes
from voder.systems.lm import SYSTEM
from voder.systems.lm.config import LmTaskConfig
from voder.systems.lm.train import LmTask
from voder.text.subwords import byte_tokenizer
from voder.train.run import RunRequest, train


def folder_of(folder: Path, texts: list[str | None]) -> Path:
    """A folder as `voder prepare` writes it; sounds are not looked at."""
    folder.mkdir()
    for split in ("train", "valid"):
        rows = [
            {"id": f"{i}", "audio": f"{i}.wav", "duration": 1.0, "num_samples": 8000, "sample_rate": 8000}
            | ({"text": text} if text else {})
            for i, text in enumerate(texts)
        ]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps({**row, "channels": 1}) + "\n" for row in rows))
    return folder


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return folder_of(tmp_path_factory.mktemp("lm") / "data", ["the cat sat on the mat", "a dog ran", None, "the cow"])


def config(*overrides):
    return resolve(SYSTEM.preset("tiny"), overrides=list(overrides))


def run(data, output, *overrides, start=None, steps=3):
    request = RunRequest(
        system="lm",
        config=config(f"loop.steps={steps}", "loop.evaluate_every=1000", "loop.save_every=1000", *overrides),
        data=data,
        output=output,
        device="cpu",
        start=start,
    )
    train(request, say=lambda text: None)
    return checkpoint.resolve(output)


@pytest.fixture(scope="module")
def trained(data, tmp_path_factory):
    wider = ("model.network.width=32", "model.network.ffn_width=64", "task.batch_items=4")
    output = tmp_path_factory.mktemp("lm") / "run"
    return run(data, output, *wider, "loop.optimizer.learning_rate=0.01", steps=80)


def test_it_learns_texts_by_heart_and_stops(trained):
    lm = hub.load_role(trained, "LanguageModel")
    said = lm.generate("the cat sat", max_new=40)
    assert said == " on the mat"
    assert lm.generate("the cat sat", greedy=False, seed=1, temperature=3.0, max_new=9) != said
    answers = lm.generate_batch([lm.encode("the c"), lm.encode("a d")], max_new=4)
    assert [len(row.ids) for row in answers] == [4, 4]
    assert answers == [lm.generate_batch([lm.encode(t)], max_new=4)[0] for t in ("the c", "a d")]
    assert isinstance(lm.chat("hello", max_new=3), str)


def test_prompts_without_room_are_refused(trained):
    lm = hub.load(trained)
    with pytest.raises(TextError, match="has 512 ids"):
        lm.generate_batch([[5] * 512])
    with pytest.raises(TextError, match="has 0 ids"):
        lm.generate_batch([[]])
    assert [len(r.ids) for r in lm.generate_batch([[5] * 509], max_new=20, min_new=3)] == [3]
    assert lm.generate_batch([]) == []
    with pytest.raises(ConfigError, match="beam_width"):
        lm.generate("a", beam_width=3)


def test_lora_leaves_the_network_as_it_was(data, trained, tmp_path):
    adapted = run(data, tmp_path / "lora", "task.lora.rank=4", "task.lora.alpha=8", start=trained)
    before, after = checkpoint.load_state(trained), checkpoint.load_state(adapted)
    plain = {n.replace("base_model.model.", "").replace(".base_layer", ""): v for n, v in after.items()}
    for name, value in before.items():
        assert torch.equal(plain[name], value)
    moved = [v for n, v in after.items() if "lora_B" in n]
    assert moved
    assert all(bool(v.abs().sum() > 0) for v in moved)
    hub.load(adapted)
    more = run(data, tmp_path / "more", start=adapted)
    assert checkpoint.read(more).config["lora"]["rank"] == 4


def test_the_other_tokenizer_is_refused(data, trained, tmp_path):
    byte_tokenizer().save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(FittedPartMismatch, match=r"task\.tokenizer"):
        run(data, tmp_path / "run", f"task.tokenizer={tmp_path / 'tokenizer'}", start=trained)
    with pytest.raises(CheckpointError, match="neither a folder"):
        run(data, tmp_path / "run", "task.tokenizer=nothing")
    own = run(data, tmp_path / "run", f"task.tokenizer={tmp_path / 'tokenizer'}")
    assert hub.load(own).tokenizer.chat_template == byte_tokenizer().chat_template
    again = run(data, tmp_path / "again", f"task.tokenizer={own}", start=own)
    assert checkpoint.read(again).config["tokenizer"] == checkpoint.read(own).config["tokenizer"]


def test_a_network_with_fewer_ids_than_the_tokenizer_is_refused(data, tmp_path):
    larger = byte_tokenizer()
    larger.add_tokens(["cat"])
    larger.save_pretrained(tmp_path / "tokenizer")
    with pytest.raises(CheckpointError, match=r"has 262 ids and the network 261"):
        run(data, tmp_path / "run", f"task.tokenizer={tmp_path / 'tokenizer'}")
    small = replace(SYSTEM.preset("tiny").model.network, vocabulary_size=100)
    with pytest.raises(ConfigError, match="bytes need 261"):
        replace(SYSTEM.preset("tiny").model, network=small)


def test_long_texts_are_cut_and_every_id_but_the_first_is_learned(data):
    task = LmTask(SYSTEM.build(config().model), LmTaskConfig(max_ids=8, batch_ids=64), data, seed=0)
    assert {len(piece) for piece in task.pieces} <= set(range(2, 9))
    assert [len(piece) for piece in task.pieces] == [8, 8, 8, 8, 3, 8]  # an end alone, behind 8 others, is left out
    batch = task.batch(0, 0, 1)
    ((_, loss),) = task.losses(batch, 0)
    assert loss.weight == float((batch.lengths - 1).sum())
    assert "3 texts" in task.describe(batch)


def test_recordings_without_texts_teach_nothing(tmp_path):
    silent = folder_of(tmp_path / "silent", [None, None])
    with pytest.raises(ManifestError, match="no recording with a text"):
        LmTask(SYSTEM.build(config().model), LmTaskConfig(), silent, seed=0)


def test_what_it_is_made_of_is_said():
    preset = SYSTEM.preset("smollm2-135m")
    said = SYSTEM.anatomy(replace(preset.model, lora=LoraSizes(rank=16)))
    assert said == {"language model": "llama, 30 layers of 576, 49152 ids, LoRA of rank 16"}
