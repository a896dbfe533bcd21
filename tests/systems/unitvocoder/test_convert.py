import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file

from voder import hub
from voder.errors import CheckpointError, ConfigError
from voder.fixtures import read_case
from voder.systems.unitvocoder import SYSTEM, UnitVocoder, convert

FIXTURES = Path(__file__).parents[2] / "fixtures"


def settings(model):
    net = model.config.generator
    return {
        "resblock": "1",
        "upsample_rates": net.upsample_rates,
        "upsample_kernel_sizes": net.upsample_kernels,
        "upsample_initial_channel": net.initial_channels,
        "resblock_kernel_sizes": net.block_kernels,
        "resblock_dilation_sizes": [net.block_dilations] * len(net.block_kernels),
        "num_embeddings": model.num_units,
        "embedding_dim": model.config.unit_dim,
        "multispkr": "_",
        "num_speakers": 2,
        "dur_predictor_params": {"var_pred_hidden_dim": 8, "var_pred_kernel_size": 3, "var_pred_dropout": 0.5},
    }


def test_a_fairseq_file_and_back_changes_nothing(tmp_path):
    torch.manual_seed(0)
    config = replace(SYSTEM.preset("tiny").model, num_speakers=2, speaker_dim=16)
    model = UnitVocoder(config).eval()
    convert.export_generator(model, tmp_path / "g_00500000")
    assert "ups.0.weight_g" in torch.load(tmp_path / "g_00500000", weights_only=True)["generator"]
    (tmp_path / "config.json").write_text(json.dumps(settings(model)))
    assert convert.import_checkpoint(tmp_path / "g_00500000", tmp_path / "ours").is_complete
    again = hub.load_role(tmp_path / "ours", "Generator")
    units = torch.tensor([[1, 2, 3]])
    with torch.no_grad():
        assert torch.equal(again.generate_batch(units)[0], model.generate_batch(units)[0])


@pytest.mark.parametrize("name", ["hf_seamless_code_hifigan", "hf_speecht5_hifigan"])
def test_hugging_face_folders_are_read(tmp_path, name):
    case = read_case(FIXTURES / "hifigan" / f"{name}.json")
    args = dict(case.args) | ({"model_type": "hifigan"} if "speecht5" in name else {"model_type": "seamless_m4t"})
    (tmp_path / "config.json").write_text(json.dumps(args))
    save_file(dict(case.weights), tmp_path / "model.safetensors")
    assert convert.import_checkpoint(tmp_path, tmp_path / "ours").is_complete
    assert hub.load(tmp_path / "ours").config.source == ("mel" if "speecht5" in name else "units")


def test_another_model_is_refused_by_name(tmp_path):
    torch.manual_seed(0)
    model = UnitVocoder(replace(SYSTEM.preset("tiny").model, num_speakers=2, speaker_dim=16))
    convert.export_generator(model, tmp_path / "g")
    for change, message in (
        ({"f0": True}, "pitch"),
        ({"resblock": "2"}, "type 1"),
        ({"multispkr": None}, "generator.first"),
        ({"dur_predictor_params": None}, "left over: dur_predictor"),
    ):
        (tmp_path / "config.json").write_text(json.dumps(settings(model) | change))
        with pytest.raises((CheckpointError, ConfigError), match=message):
            convert.import_checkpoint(tmp_path / "g", tmp_path / "ours")
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(CheckpointError, match="are of another model"):
        convert.import_checkpoint(tmp_path / "g", tmp_path / "ours")
    (tmp_path / "bad").write_bytes(b"rubbish")
    (tmp_path / "config.json").write_text(json.dumps(settings(model)))
    with pytest.raises(CheckpointError, match="bad is not a readable checkpoint"):
        convert.import_checkpoint(tmp_path / "bad", tmp_path / "ours")
