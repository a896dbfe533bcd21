"""Language models of four families: built, grown, saved, adapted, decoded."""

from dataclasses import replace

import pytest
import torch
import transformers

from voder import checkpoint
from voder.data.randomness import torch_generator
from voder.errors import CheckpointError, ConfigError
from voder.generate.lm import GenerateConfig, generate_ids
from voder.nn.causal_lm import (
    CausalLmConfig,
    CausalLmSession,
    build_causal_lm,
    expand_vocabulary,
    read_plain,
    save_plain,
)
from voder.nn.lora import LoraSizes, merge_lora, set_lora_factor, with_lora

TINY = CausalLmConfig(vocabulary_size=30, width=16, ffn_width=24, num_layers=2, num_heads=4, max_positions=64)
CONFIGS = {
    "llama": replace(TINY, num_kv_heads=2, rope_theta=5000.0, pad_id=0),
    "qwen2": replace(TINY, family="qwen2", num_kv_heads=1, tie_embeddings=True),
    "gpt2": replace(TINY, family="gpt2", norm_epsilon=1e-5, tie_embeddings=True),
    "opt": replace(TINY, family="opt", norm_epsilon=1e-5, bos_id=2, pad_id=1),
}
TARGETS = {"gpt2": ("c_attn",)}
every_family = pytest.mark.parametrize("family", list(CONFIGS))


def made(family, **changes):
    torch.manual_seed(0)
    model = build_causal_lm(replace(CONFIGS[family], **changes)).eval()
    for parameter in model.parameters():  # nearly equal logits would decide nothing
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.5)
    return model


def logits_of(model, ids):
    with torch.no_grad():
        return model(input_ids=torch.tensor([ids])).logits[0]


def generators(count):
    return [torch_generator(0, "row", number) for number in range(count)]


@every_family
def test_a_plain_folder_is_read_by_transformers_and_by_us_unchanged(family, tmp_path):
    model = made(family)
    save_plain(model, None, tmp_path / "plain")
    theirs = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "plain").eval()
    ours, config = read_plain(tmp_path / "plain")
    assert config == CONFIGS[family]
    expected = logits_of(model, [3, 4, 5, 6])
    for other in (theirs, ours.eval()):
        assert torch.equal(logits_of(other, [3, 4, 5, 6]), expected)


@every_family
def test_no_weight_is_made_on_the_meta_device(family):
    big = replace(
        CONFIGS[family], width=4096, ffn_width=11_008, vocabulary_size=32_000, num_heads=32, num_kv_heads=None
    )
    with torch.device("meta"):
        model = build_causal_lm(big)
        expand_vocabulary(model, 33_006)
        adapted = with_lora(model, LoraSizes(), TARGETS.get(family, ("q_proj", "v_proj")))
    assert all(parameter.is_meta for parameter in adapted.parameters())
    assert model.get_input_embeddings().weight.shape == (33_006, 4096)


@every_family
@pytest.mark.parametrize("tied", [True, False])
def test_new_ids_are_the_mean_of_the_old_ones_and_change_no_old_logit(family, tied):
    model = made(family, tie_embeddings=tied)
    before = logits_of(model, [3, 4, 5])
    mean = model.get_input_embeddings().weight.mean(dim=0).clone()
    expand_vocabulary(model, 34)
    table, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
    assert (table is head) == tied
    after = logits_of(model, [3, 4, 5])
    assert after.shape == (3, 34)
    torch.testing.assert_close(after[:, :30], before)
    torch.testing.assert_close(after[:, 30:], before.mean(dim=1, keepdim=True).expand(-1, 4))
    torch.testing.assert_close(table[33], mean)
    with pytest.raises(ValueError, match="cannot shrink to 20"):
        expand_vocabulary(model, 20)


@pytest.mark.parametrize("family", ["qwen2", "gpt2"])
def test_a_tied_head_is_saved_once_and_comes_back(family, tmp_path):
    model = made(family)
    state = model.state_dict()
    assert "lm_head.weight" not in state
    other = build_causal_lm(CONFIGS[family]).eval()
    checkpoint.load_into(other, state, "here")
    assert other.get_output_embeddings().weight is other.get_input_embeddings().weight
    assert torch.equal(logits_of(other, [3, 4, 5]), logits_of(model, [3, 4, 5]))


@every_family
def test_lora_at_zero_is_the_model_as_it_was_and_merging_keeps_it(family, tmp_path):
    model = made(family)
    base = logits_of(model, [3, 4, 5])
    adapted = with_lora(model, LoraSizes(rank=4, alpha=8, dropout=0.0), TARGETS.get(family, ("q_proj", "v_proj")))
    assert all(("lora_" in name) == parameter.requires_grad for name, parameter in adapted.named_parameters())
    for name, parameter in adapted.named_parameters():
        if "lora_B" in name:
            torch.nn.init.normal_(parameter, std=0.3)
    full = logits_of(adapted, [3, 4, 5])
    assert not torch.allclose(full, base, atol=1e-2)
    set_lora_factor(adapted, 0)
    assert torch.equal(logits_of(adapted, [3, 4, 5]), base)
    set_lora_factor(adapted, 1)
    assert torch.equal(logits_of(adapted, [3, 4, 5]), full)
    with pytest.raises(ValueError, match="merge_lora"):
        save_plain(adapted, None, tmp_path / "nowhere")
    set_lora_factor(adapted, 0.5)
    half = logits_of(adapted, [3, 4, 5])
    merged = merge_lora(adapted)
    torch.testing.assert_close(logits_of(merged, [3, 4, 5]), half, atol=1e-4, rtol=1e-4)
    with pytest.raises(ValueError, match="no LoRA"):
        set_lora_factor(merged, 1)


PROMPTS = [[3, 4, 5, 6, 7, 8], [9], [10, 11, 12]]


def padded(model, side):
    """The prompts as vectors with padding on one side; what the padding holds must not matter."""
    longest = max(map(len, PROMPTS))
    ids, mask = torch.full((3, longest), 29), torch.zeros(3, longest, dtype=torch.long)
    for row, prompt in enumerate(PROMPTS):
        where = slice(0, len(prompt)) if side == "right" else slice(longest - len(prompt), longest)
        ids[row, where], mask[row, where] = torch.tensor(prompt), 1
    return CausalLmSession(model, model.get_input_embeddings()(ids), mask)


@every_family
@pytest.mark.parametrize(
    "how",
    [
        GenerateConfig(max_new=6),
        GenerateConfig(max_new=6, greedy=False, temperature=2.0, top_k=20),
        GenerateConfig(max_new=6, num_beams=3),
    ],
    ids=["greedy", "sampled", "beams"],
)
def test_padding_on_either_side_and_company_change_nothing(family, how):
    model = made(family)
    alone = []
    for number, prompt in enumerate(PROMPTS):
        session = CausalLmSession.of_ids(model, [prompt])
        alone += generate_ids(session, how, end_ids=(2,), generators=[generators(3)[number]])
    for session in (padded(model, "left"), padded(model, "right"), CausalLmSession.of_ids(model, PROMPTS)):
        together = generate_ids(session, how, end_ids=(2,), generators=generators(3))
        assert [row.ids for row in together] == [row.ids for row in alone]
        assert [row.stop_reason for row in together] == [row.stop_reason for row in alone]
    assert len({tuple(row.ids) for row in alone}) > 1


@every_family
def test_cached_greedy_is_recomputed_greedy(family):
    model = made(family)
    (said,) = generate_ids(
        CausalLmSession.of_ids(model, [PROMPTS[0]]), GenerateConfig(max_new=8), end_ids=(), generators=generators(1)
    )
    ids = list(PROMPTS[0])
    for _ in range(8):
        ids.append(int(logits_of(model, ids)[-1].argmax()))
    assert said.ids == ids[len(PROMPTS[0]) :]


@every_family
def test_beams_are_those_of_transformers(family):
    model = made(family)
    expected = model.generate(
        input_ids=torch.tensor([PROMPTS[0]]),
        attention_mask=torch.ones(1, 6, dtype=torch.long),
        num_beams=4,
        do_sample=False,
        max_new_tokens=7,
        eos_token_id=2,
        pad_token_id=0,
    )[0, 6:].tolist()
    (said,) = generate_ids(
        CausalLmSession.of_ids(model, [PROMPTS[0]]),
        GenerateConfig(max_new=7, num_beams=4),
        end_ids=(2,),
        generators=generators(1),
    )
    assert said.ids == (expected[: expected.index(2)] if 2 in expected else expected)


def test_only_allowed_ids_are_said_and_ends_stop():
    model = made("llama")
    allowed = torch.zeros(30, dtype=torch.bool)
    allowed[10:15] = True
    for how in (GenerateConfig(max_new=9), GenerateConfig(max_new=9, num_beams=3), GenerateConfig(greedy=False)):
        session = CausalLmSession.of_ids(model, PROMPTS)
        for row in generate_ids(session, how, end_ids=(2,), generators=generators(3), allowed=allowed):
            assert set(row.ids) <= set(range(10, 15))
    (row,) = generate_ids(
        CausalLmSession.of_ids(model, [[9]]), GenerateConfig(), end_ids=range(30), generators=generators(1)
    )
    assert (row.ids, row.stop_reason) == ([], "end")
    (row,) = generate_ids(
        CausalLmSession.of_ids(model, [[9]]),
        GenerateConfig(min_new=3, max_new=5),
        end_ids=range(20),
        generators=generators(1),
    )
    assert len(row.ids) >= 3


def test_options_that_leave_each_other_nothing_to_do_are_refused():
    default = GenerateConfig(num_beams=4)
    assert default.changed(temperature=0.5) == GenerateConfig(greedy=False, temperature=0.5)
    assert default.changed(greedy=True) == GenerateConfig()
    with pytest.raises(ConfigError, match="temperature"):
        default.changed(num_beams=2, temperature=0.5)
    with pytest.raises(ConfigError, match="top_k"):
        default.changed(greedy=True, top_k=3)
    with pytest.raises(ConfigError, match=r"'beams'.*num_beams"):
        default.changed(beams=2)
    with pytest.raises(ConfigError, match="max_new 0"):
        default.changed(max_new=0)


def test_what_our_config_cannot_say_is_refused_by_name(tmp_path):
    theirs = transformers.LlamaConfig(
        vocab_size=30,
        hidden_size=16,
        intermediate_size=24,
        num_hidden_layers=1,
        num_attention_heads=2,
        rope_parameters={"rope_type": "linear", "factor": 2.0, "rope_theta": 10_000.0},
    )
    theirs.save_pretrained(tmp_path / "scaled")
    with pytest.raises(ConfigError, match="rope_parameters"):
        read_plain(tmp_path / "scaled")
    transformers.BertConfig().save_pretrained(tmp_path / "bert")
    with pytest.raises(ConfigError, match="is a bert"):
        read_plain(tmp_path / "bert")
    with pytest.raises(CheckpointError, match=r"no config\.json"):
        read_plain(tmp_path / "nothing")
    save_plain(made("llama"), None, tmp_path / "cut")
    weights = tmp_path / "cut" / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-100])
    with pytest.raises(CheckpointError, match="cannot be read"):
        read_plain(tmp_path / "cut")


def test_impossible_sizes_are_refused():
    with pytest.raises(ValueError, match="multiple of num_heads"):
        replace(TINY, width=10)
    with pytest.raises(ValueError, match="pad_id 30"):
        replace(TINY, pad_id=30)
    with pytest.raises(ValueError, match="gpt2"):
        replace(TINY, family="gpt2", num_kv_heads=2)
