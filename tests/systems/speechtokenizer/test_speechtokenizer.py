"""SpeechTokenizer: reference vectors, official layout, teacher."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError, TokensError
from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases, read_case
from voder.interop import export, rename
from voder.roles import Codec
from voder.systems.speechtokenizer import SYSTEM, SpeechTokenizerCodec, convert
from voder.systems.speechtokenizer.config import published
from voder.systems.speechtokenizer.reference import KINDS
from voder.systems.speechtokenizer.train import Teacher, distillation

CASES = [
    path for path in find_cases(Path(__file__).parents[2] / "fixtures" / "anygpt") if read_case(path).kind in KINDS
]


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_an_official_file_and_back_changes_nothing(tmp_path):
    case = read_case(CASES[0])
    save_file(dict(case.weights), tmp_path / "SpeechTokenizer.safetensors")
    (tmp_path / "config.json").write_text(json.dumps(case.args["cfg"]))
    assert convert.import_checkpoint(tmp_path / "SpeechTokenizer.safetensors", tmp_path / "ours").is_complete
    codec = hub.load_role(tmp_path / "ours", "Codec")
    assert isinstance(codec, Codec)
    audio = case.inputs["wav_0"][0]
    assert np.array_equal(codec.encode(audio, 16_000), case.outputs["codes_0"][:, 0].numpy())
    assert convert.export_checkpoint(tmp_path / "ours", tmp_path / "back" / "x.pt") == ["quantizer.steps"]
    back = torch.load(tmp_path / "back" / "x.pt", weights_only=True)
    assert back.keys() == case.weights.keys()
    assert all(torch.equal(back[name], case.weights[name].reshape(back[name].shape)) for name in back)
    again = json.loads((tmp_path / "back" / "config.json").read_text())
    assert convert.official_config(again) == convert.official_config(case.args["cfg"])


def test_the_full_published_set_of_names_fills_everything():
    config = published().model
    with torch.device("meta"):
        model = SpeechTokenizerCodec(config)
    names = convert.table(config)
    official = export(model.state_dict(), names)
    assert len(official) == 166
    assert official["encoder.model.0.conv.conv.weight_v"].shape == (64, 1, 7)
    assert official["quantizer.vq.layers.7._codebook.embed"].shape == (1024, 1024)
    assert official["encoder.model.13.lstm.weight_ih_l1_reverse"].shape == (4096, 2048)
    assert official["decoder.model.3.convtr.convtr.weight_v"].shape == (1024, 512, 16)
    assert official["transform.weight"].shape == (768, 1024)
    coverage = rename(official, model.state_dict(), names)
    assert coverage.is_complete, coverage.summary()


def test_what_does_not_fit_is_refused_by_name(tmp_path):
    case = read_case(CASES[0])
    file = tmp_path / "weights.safetensors"
    save_file({**dict(case.weights), "extra.weight": torch.zeros(1)}, file)
    with pytest.raises(CheckpointError, match=r"config\.json"):
        convert.import_checkpoint(file, tmp_path / "ours")
    (tmp_path / "config.json").write_text(json.dumps(case.args["cfg"]))
    with pytest.raises(CheckpointError, match=r"extra\.weight"):
        convert.import_checkpoint(file, tmp_path / "ours")
    with pytest.raises(ConfigError, match="GELU"):
        convert.official_config({**case.args["cfg"], "activation": "GELU"})


def test_codes_out_of_range_are_refused():
    torch.manual_seed(0)
    codec = hub.build("speechtokenizer/tiny").eval()
    with pytest.raises(TokensError, match="0 to 15"):
        codec.decode(np.full((4, 3), 16))
    with pytest.raises(TokensError, match="5 codebooks"):
        codec.decode(np.zeros((5, 3), dtype=np.int64))
    with pytest.raises(TokensError, match="num_codebooks is 9"):
        codec.encode_batch(torch.zeros(1, 1, 99), num_codebooks=9)


def test_only_the_first_codebook_is_taught():
    torch.manual_seed(0)
    codec = hub.build("speechtokenizer/tiny").train()
    audio = 0.1 * torch.randn(2, 1, 2000)
    made = codec(audio)
    teacher = Teacher("mel", 8000)
    distillation(made.semantic, teacher(audio, made.semantic.shape[1])).backward()
    assert codec.transform.weight.grad is not None
    assert float(codec.encoder.layers[0].conv.parametrizations.weight.original1.grad.abs().sum()) > 0
    assert all(parameter.grad is None for parameter in codec.decoder.parameters())


def test_the_distance_is_small_where_time_courses_agree():
    torch.manual_seed(0)
    taught = torch.randn(2, 30, 5)
    agree, oppose = distillation(3 * taught, taught), distillation(-taught, taught)
    assert float(agree) == pytest.approx(float(torch.log1p(torch.exp(torch.tensor(-1.0)))), abs=1e-5)
    assert float(oppose) > float(distillation(torch.randn(2, 30, 5), taught)) > float(agree)


def test_an_encoder_teaches(tmp_path):
    torch.manual_seed(0)
    hubert = hub.find("hubert")
    config = hubert.preset("tiny").model
    folder = tmp_path / "teacher"
    checkpoint.save(folder, system="hubert", config=config, state=hubert.build(config).state_dict())
    teacher = Teacher(f"{folder}@1", 16_000)
    values = teacher(0.1 * torch.randn(2, 1, 4000), 25)
    assert values.shape == (2, 25, teacher.width)
    assert not torch.equal(values, Teacher(str(folder), 16_000)(0.1 * torch.randn(2, 1, 4000), 25))
    with pytest.raises(ConfigError, match="8000"):
        Teacher(str(folder), 8000)
    with pytest.raises(ConfigError, match="layer"):
        Teacher(f"{folder}@x", 16_000)
    task = replace(SYSTEM.preset("tiny").task, teacher=str(folder))
    model = replace(SYSTEM.preset("tiny").model, sample_rate_hz=16_000)
    assert SYSTEM.task().fit_config(model, task, tmp_path).semantic_width == teacher.width


def test_another_systems_checkpoint_is_no_teacher(tmp_path):
    torch.manual_seed(0)
    config = SYSTEM.preset("tiny").model
    checkpoint.save(tmp_path / "c", system="speechtokenizer", config=config, state=SYSTEM.build(config).state_dict())
    with pytest.raises(CheckpointError, match="a Encoder is wanted"):
        Teacher(str(tmp_path / "c"), 8000)
