from pathlib import Path

import numpy as np
import pytest
import torch

from voder.errors import CheckpointError, ManifestError
from voder.evaluate.verify import verify_fixtures
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.systems.salmonn import convert
from voder.systems.salmonn.config import BridgeConfig, SalmonnConfig, published_model
from voder.systems.salmonn.data import Example, prepare, read_annotation, write_annotation
from voder.systems.salmonn.model import Bridge, Salmonn, is_trained
from voder.systems.salmonn.prompt import answer_logits, answer_loss, assemble
from voder.systems.salmonn.reference import KINDS

FIXTURES = Path(__file__).parents[2] / "fixtures"
BRIDGE = BridgeConfig(speech_width=12, audio_width=8, width=16, num_heads=2, ffn_width=24, dropout=0.0)
CONFIG = SalmonnConfig(
    bridge=BRIDGE,
    lm=CausalLmConfig(width=16, ffn_width=24, num_layers=2, num_heads=2, vocabulary_size=20),
    lora=LoraSizes(dropout=0.0),
)


@pytest.mark.parametrize("name", ["salmonn/qformer_a", "salmonn/data_prep", "salmonn/e2e_single", "lora/salmonn_delta"])
def test_reference_vectors_are_met(name):
    (outcome,) = verify_fixtures(FIXTURES / f"{name}.json", kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    made = Salmonn(CONFIG).eval()
    for name, parameter in made.named_parameters():
        if "lora_B" in name:  # zero in a fresh LoRA
            torch.nn.init.normal_(parameter, std=0.1)
    return made


def heard(model, frames=60):
    noise = torch.Generator().manual_seed(1)
    speech, audio = (torch.randn(2, frames, width, generator=noise) for width in (12, 8))
    return model.bridge(speech, audio)


def read(model, answer):
    ids = {name: torch.randint(3, 20, (2, n)) for name, n in (("before", 4), ("after", 5))}
    mask = torch.ones_like(ids["after"])
    return assemble(model, heard(model), ids["before"], ids["after"], mask, answer, (answer != 19).long())


def test_thirty_seconds_are_88_vectors():
    bridge = Bridge(BRIDGE, 4).eval()
    assert bridge(torch.randn(1, 1500, 12), torch.randn(1, 1488, 8)).shape == (1, 88, 4)
    assert bridge(torch.randn(1, 5, 12), torch.randn(1, 3, 8)).shape == (1, 1, 4)


def test_the_audio_encoder_may_be_left_out_but_not_forgotten():
    alone = BridgeConfig(speech_width=12, audio_width=0, width=16, num_heads=2, ffn_width=24)
    assert Bridge(alone, 4).eval()(torch.randn(1, 34, 12)).shape == (1, 2, 4)
    with pytest.raises(ValueError, match="exactly when"):
        Bridge(BRIDGE, 4)(torch.randn(1, 34, 12))


def test_a_sequence_is_as_long_as_its_parts_and_only_the_answer_is_learned(model):
    answer = torch.tensor([[5, 6, 2, 19], [7, 8, 9, 2]])
    batch = read(model, answer)
    assert batch.embeddings.shape[1] == 1 + 4 + 3 + 5 + 4
    assert (batch.labels != -100).sum(1).tolist() == [3, 4]
    assert batch.mask.sum(1).tolist() == [16, 17]


def test_factor_zero_is_the_language_model_alone_and_one_is_not(model):
    batch = read(model, torch.tensor([[5, 6, 2, 19], [7, 8, 9, 2]]))
    with torch.no_grad():
        model.set_lora_factor(0)
        without = answer_logits(model, batch)
        with model.llama.disable_adapter():
            base = answer_logits(model, batch)
        model.set_lora_factor(1)
        full = answer_logits(model, batch)
    assert torch.equal(without, base)
    assert not torch.allclose(full, base, atol=1e-3)


def test_gradients_reach_what_is_trained_and_nothing_else(model):
    batch = read(model, torch.tensor([[5, 6, 2, 19], [7, 8, 9, 2]]))
    answer_loss(answer_logits(model, batch), batch.labels).backward()
    reached = {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
    model.zero_grad()
    assert reached
    assert all(is_trained(name) for name in reached)
    assert any("lora_A" in name for name in reached)
    assert "bridge.queries" in reached


def official(model):
    """What a published file holds of this model."""
    names = {name: convert.OFFICIAL.to_foreign(name) for name in model.state_dict() if is_trained(name)}
    return {foreign: model.state_dict()[name] for name, foreign in names.items()}


def test_published_files_fill_all_that_is_trained(model, tmp_path):
    state = official(model)
    assert "speech_Qformer.bert.encoder.layer.1.crossattention.output.LayerNorm.weight" in state
    assert "llama_model.base_model.model.model.layers.0.self_attn.q_proj.lora_A.default.weight" in state
    junk = {"speech_Qformer.bert.embeddings.position_ids": torch.zeros(1, 8)}
    file = tmp_path / "salmonn.pth"
    torch.save({"model": state | junk, "optimizer": {"state": {0: {"step": 1}}}, "epoch": 3}, file)
    coverage = convert.convert_state(Salmonn(CONFIG).state_dict(), convert.read_delta(file), str(file))
    assert coverage.ignored == tuple(junk)
    assert all(torch.equal(value, model.state_dict()[name]) for name, value in coverage.state.items())
    assert len(coverage.state) == len(state)


def test_what_is_missing_or_strange_in_a_file_is_named(model, tmp_path):
    state = official(model)
    del state["speech_llama_proj.bias"]
    state["video_proj.weight"] = torch.zeros(1)
    with pytest.raises(CheckpointError, match=r"left over: video_proj\.weight; missing: bridge\.projection\.bias"):
        convert.convert_state(model.state_dict(), state, "a file")
    torch.save({"weights": {}}, tmp_path / "x.pth")
    with pytest.raises(CheckpointError, match="under 'model'"):
        convert.read_delta(tmp_path / "x.pth")


def test_long_recordings_are_cut_and_short_ones_filled_up():
    assert len(prepare([np.ones((600_000, 1), np.float32)])) == 480_000
    short = prepare([np.ones((10, 2), np.float32)])
    assert len(short) == 16_000
    assert short.sum() == 10


def test_annotations_are_read_as_they_were_written(tmp_path):
    examples = [
        Example(path="a.wav", text="hello", task="asr"),
        Example(path="b.wav", text="yes", task="QA", question="is it?", expand_wav=("c.wav",)),
    ]
    write_annotation(tmp_path / "a.json", examples)
    assert read_annotation(tmp_path / "a.json") == examples
    (tmp_path / "b.json").write_text('{"annotation": [{"path": "a.wav"}]}')
    with pytest.raises(ManifestError, match="example 0: text, task"):
        read_annotation(tmp_path / "b.json")
    (tmp_path / "c.json").write_text("[]")
    with pytest.raises(ManifestError, match="no SALMONN annotation"):
        read_annotation(tmp_path / "c.json")


def test_a_row_padded_in_a_batch_has_the_vectors_it_has_alone(model):
    noise = torch.Generator().manual_seed(1)
    speech, audio = torch.randn(1, 60, 12, generator=noise), torch.randn(1, 40, 8, generator=noise)
    alone = model.bridge(speech, audio)
    padded = (torch.nn.functional.pad(x, (0, 0, 0, 30), value=7.0) for x in (speech, audio))
    together = model.bridge(*padded, [60], [40])[:, : model.bridge.num_vectors(60)]
    assert torch.allclose(together, alone, atol=1e-6)
    assert [model.bridge.num_vectors(n) for n in (1, 16, 17, 33, 34, 1500)] == [1, 1, 1, 1, 2, 88]


def test_the_published_sizes_are_built_without_their_weights():
    trained = {}
    for size, width in (("13b", 5120), ("7b", 4096)):
        with torch.device("meta"):
            made = Salmonn(published_model(size))
        trained[size] = sum(p.numel() for name, p in made.named_parameters() if is_trained(name)) / 1e6
        assert made.config.lm.width == width
        names = [name for name in made.state_dict() if is_trained(name)]
        foreign = [convert.OFFICIAL.to_foreign(name) for name in names]
        assert None not in foreign
        assert [convert.OFFICIAL.to_ours(name) for name in foreign] == names
    assert trained == pytest.approx({"13b": 33.33, "7b": 30.19}, abs=0.01)
