import json

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file
from systems.hubert.families import build, clips

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError
from voder.roles import collate_clips
from voder.systems.hubert import convert

FAMILIES = ["hubert", "hubert-large", "wav2vec2", "wavlm", "data2vec", "w2v_bert"]


def saved(name, folder):
    encoder = build(name)
    checkpoint.save(folder, system="hubert", config=encoder.config, state=encoder.state_dict())
    return encoder


def outputs(encoder):
    with torch.no_grad():
        return encoder.encode_batch(*collate_clips(clips(6000, 3000), torch.device("cpu"))).values


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hugging_face_folder_and_back_changes_nothing(tmp_path, name):
    encoder = saved(name, tmp_path / "ours")
    assert convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface") == []
    coverage = convert.import_checkpoint(tmp_path / "theirs", tmp_path / "again")
    assert coverage.is_complete
    again = hub.load(tmp_path / "again")
    assert again.config.normalize == encoder.config.normalize
    assert torch.equal(outputs(again), outputs(encoder))


@pytest.mark.parametrize("name", ["hubert", "hubert-large", "wavlm", "data2vec"])
def test_a_fairseq_file_and_back_changes_nothing(tmp_path, name):
    encoder = saved(name, tmp_path / "ours")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs.safetensors", "fairseq")
    state = load_file(tmp_path / "theirs.safetensors")
    torch.save({"args": None, "model": state}, tmp_path / "m.pt")
    convert.import_checkpoint(tmp_path / "m.pt", tmp_path / "again", num_heads=4)
    again = hub.load(tmp_path / "again")
    assert again.config.family == encoder.config.family
    assert again.config.normalize == (encoder.config.network.conv_norm == "layer")
    again.config = encoder.config
    assert torch.equal(outputs(again), outputs(encoder))


def test_both_spellings_of_the_weight_norm_and_a_models_prefix_are_read(tmp_path):
    encoder = saved("hubert", tmp_path / "ours")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    file = tmp_path / "theirs" / "model.safetensors"
    state = load_file(file)
    spelled = {
        "hubert."
        + name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    assert state["encoder.pos_conv_embed.conv.parametrizations.weight.original0"].shape == (1, 1, 16)
    save_file({**spelled, "lm_head.weight": torch.zeros(3, 32)}, file)
    coverage = convert.import_checkpoint(tmp_path / "theirs", tmp_path / "again")
    assert coverage.ignored == ("lm_head.weight",)
    assert torch.equal(outputs(hub.load(tmp_path / "again")), outputs(encoder))


def test_the_preprocessors_normalisation_wins(tmp_path):
    """Configurations of base models may normalise all the same; units depend on it."""
    saved("hubert", tmp_path / "ours")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    (tmp_path / "theirs" / "preprocessor_config.json").write_text(json.dumps({"do_normalize": True}))
    convert.import_checkpoint(tmp_path / "theirs", tmp_path / "again")
    assert hub.load(tmp_path / "again").config.normalize


def test_units_come_along(tmp_path):
    saved("hubert", tmp_path / "ours")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    centers = np.random.default_rng(0).standard_normal((6, 32)).astype(np.float32)
    np.savez(tmp_path / "km.npz", cluster_centers_=centers)
    convert.import_checkpoint(tmp_path / "theirs", tmp_path / "again", units=tmp_path / "km.npz", layer=2)
    again = hub.load(tmp_path / "again")
    assert (again.num_units, again.config.layer) == (6, 2)
    assert again.encode(clips(5000)[0]).units.max() < 6


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "bert"}, "model_type 'bert'"),
        ({"adapter_attn_dim": 3}, "adapters"),
        ({"num_hidden_layers": 2}, "left over: encoder.layers.2"),
    ],
)
def test_another_model_is_refused_by_name(tmp_path, change, message):
    saved("hubert", tmp_path / "ours")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "theirs", "huggingface")
    config = json.loads((tmp_path / "theirs" / "config.json").read_text())
    (tmp_path / "theirs" / "config.json").write_text(json.dumps(config | change))
    with pytest.raises((CheckpointError, ConfigError), match=message):
        convert.import_checkpoint(tmp_path / "theirs", tmp_path / "again")
    assert not (tmp_path / "again").exists()


def test_a_file_of_another_network_is_refused(tmp_path):
    torch.save({"model": {"w": torch.ones(1)}}, tmp_path / "m.pt")
    with pytest.raises(CheckpointError, match="no weights of fairseq's HuBERT family"):
        convert.import_checkpoint(tmp_path / "m.pt", tmp_path / "again")
    saved("w2v_bert", tmp_path / "ours")
    with pytest.raises(ConfigError, match="does not exist in fairseq's layout"):
        convert.export_checkpoint(tmp_path / "ours", tmp_path / "x.safetensors", "fairseq")
