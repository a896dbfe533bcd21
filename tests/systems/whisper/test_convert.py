import json
import pickle
from dataclasses import replace

import pytest
import torch

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError
from voder.interop import export, rename
from voder.systems.whisper import SYSTEM, WhisperModel
from voder.systems.whisper.convert import (
    PUBLISHED,
    export_checkpoint,
    import_checkpoint,
    official_config,
    official_dims,
)
from voder.systems.whisper.ctranslate2 import Variables, read_variables, write_variables
from voder.systems.whisper.layouts import CTRANSLATE2, HUGGINGFACE, OPENAI, stack, unstack

LAYOUTS = ("openai", "huggingface", "ctranslate2")


@pytest.fixture(scope="module")
def ours(tmp_path_factory, model):
    folder = tmp_path_factory.mktemp("whisper") / "ours"
    config = replace(model.config, alignment_heads=((0, 1),))
    checkpoint.save(folder, system="whisper", config=config, state=model.state_dict())
    return folder


@pytest.mark.parametrize("layout", LAYOUTS)
def test_out_and_in_again_changes_nothing(ours, tmp_path, layout):
    there = tmp_path / ("model.pt" if layout == "openai" else "there")
    export_checkpoint(ours, there, layout)
    coverage = import_checkpoint(there, tmp_path / "back")
    assert coverage.is_complete
    before, after = checkpoint.load_state(ours), checkpoint.load_state(tmp_path / "back")
    assert all(torch.equal(before[name], after[name]) for name in before)
    heads = [] if layout == "openai" else [[0, 1]]
    assert checkpoint.read(tmp_path / "back").config["alignment_heads"] == heads
    assert hub.load(tmp_path / "back").model.config.width == 16


def test_transformers_reads_our_export_and_says_the_same(ours, tmp_path, model):
    from transformers import WhisperForConditionalGeneration

    export_checkpoint(ours, tmp_path / "hf", "huggingface")
    theirs = WhisperForConditionalGeneration.from_pretrained(tmp_path / "hf", local_files_only=True).eval()
    mel = torch.randn(2, 80, 200, generator=torch.Generator().manual_seed(0))
    ids = torch.tensor([[50258, 50259, 50359, 11], [50258, 50260, 50358, 400]])
    with torch.no_grad():
        expected = theirs(input_features=mel, decoder_input_ids=ids).logits
        torch.testing.assert_close(model(mel, ids), expected, atol=2e-3, rtol=1e-4)


@pytest.mark.parametrize("preset", [name for name in SYSTEM.presets if name != "tiny"])
def test_every_weight_of_the_published_sizes_has_a_place_in_every_layout(preset):
    with torch.device("meta"):
        own = WhisperModel(SYSTEM.preset(preset).model).state_dict()
    for table in (OPENAI, HUGGINGFACE):
        coverage = rename(export(own, table), own, table)
        assert coverage.is_complete, coverage.summary()
    stacked = stack(export(own, CTRANSLATE2))
    assert "decoder/layer_3/attention/linear_1/weight" in stacked
    assert "decoder/layer_3/self_attention/layer_norm/gamma" in stacked


def test_official_sizes_are_the_published_parameter_counts():
    counts = {}
    for name in ("tiny_en", "base", "small", "medium", "large-v3", "turbo"):
        with torch.device("meta"):
            counts[name] = sum(p.numel() for p in WhisperModel(SYSTEM.preset(name).model).parameters())
    assert counts == {
        "tiny_en": 37_184_256,
        "base": 71_825_920,
        "small": 240_582_912,
        "medium": 762_321_920,
        "large-v3": 1_541_570_560,
        "turbo": 806_958_080,
    }


def test_dimensions_translate_both_ways_and_odd_ones_are_refused():
    for preset in SYSTEM.presets:
        config = SYSTEM.preset(preset).model
        assert official_config(official_dims(config)) == config
    with pytest.raises(ConfigError, match="differ in width"):
        official_config({**official_dims(config), "n_text_state": 8})
    with pytest.raises(ConfigError, match="n_vocab"):
        official_config({k: v for k, v in official_dims(config).items() if k != "n_vocab"})


def test_a_bias_for_keys_is_refused(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "ct2", "ctranslate2")
    found = read_variables(tmp_path / "ct2" / "model.bin")
    unstack(found.tensors)
    found.tensors["encoder/layer_0/self_attention/linear_0/bias"][20] = 0.5
    with pytest.raises(CheckpointError, match="bias for keys"):
        unstack(found.tensors)


def test_quantised_and_foreign_models_are_refused_by_name(ours, tmp_path):
    export_checkpoint(ours, tmp_path / "ct2", "ctranslate2")
    file = tmp_path / "ct2" / "model.bin"
    found = read_variables(file)
    packed = {**found.tensors, "encoder/conv1/weight": found.tensors["encoder/conv1/weight"].to(torch.int8)}
    write_variables(file, Variables(specification="WhisperSpec", revision=3, tensors=packed))
    with pytest.raises(CheckpointError, match="quantised"):
        import_checkpoint(tmp_path / "ct2", tmp_path / "out")
    write_variables(file, Variables(specification="TransformerSpec", revision=3, tensors=found.tensors))
    with pytest.raises(CheckpointError, match="TransformerSpec"):
        import_checkpoint(tmp_path / "ct2", tmp_path / "out")
    del found.tensors["decoder/embeddings/weight"]
    write_variables(file, Variables(specification="WhisperSpec", revision=3, tensors=found.tensors))
    with pytest.raises(CheckpointError, match="decoder/embeddings/weight"):
        import_checkpoint(tmp_path / "ct2", tmp_path / "out")


class Nasty:
    def __reduce__(self):
        return print, ("executed",)


def test_a_pickle_that_would_run_something_is_refused(tmp_path, capsys):
    (tmp_path / "model.pt").write_bytes(pickle.dumps({"dims": Nasty(), "model_state_dict": {}}))
    with pytest.raises(CheckpointError, match="not an official Whisper file"):
        import_checkpoint(tmp_path / "model.pt", tmp_path / "out")
    assert "executed" not in capsys.readouterr().out


def test_missing_and_wrong_folders_are_said(tmp_path):
    with pytest.raises(CheckpointError, match="there is no"):
        import_checkpoint(tmp_path / "nowhere", tmp_path / "out")
    (tmp_path / "bert").mkdir()
    (tmp_path / "bert" / "config.json").write_text(json.dumps({"model_type": "bert"}))
    with pytest.raises(CheckpointError, match="holds no Whisper"):
        import_checkpoint(tmp_path / "bert", tmp_path / "out")


def test_what_can_be_fetched_is_described_in_full():
    names = [row.name for row in PUBLISHED]
    assert len(set(names)) == len(names)
    assert {"whisper-tiny.en", "whisper-base"} <= set(names)
    for row in PUBLISHED:
        assert row.system == "whisper"
        assert row.licence in ("MIT", "Apache-2.0")
        (source,) = row.hub
        assert len(source.revision) == 40
        assert all(file.num_bytes > 0 for file in source.files)
        pinned = {file.path: file.sha256 for file in source.files}
        assert all(file.sha256 == pinned[file.name] for file in row.wheels)
