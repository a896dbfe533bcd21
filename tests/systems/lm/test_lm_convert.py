"""Foreign language models and ours: GGUF by a writer of our own here, Hugging Face folders both ways."""

import struct
from dataclasses import replace

import numpy as np
import pytest
import torch
import transformers

from voder import checkpoint, hub
from voder.errors import CheckpointError, FittedPartMismatch
from voder.nn.causal_lm import CausalLmConfig, build_causal_lm, save_plain
from voder.systems.lm import SYSTEM, convert
from voder.systems.lm.config import LmConfig
from voder.systems.lm.gguf import read_gguf
from voder.text.subwords import NUM_BYTE_IDS, byte_tokenizer, encode


def text(value):
    return struct.pack("<Q", len(value.encode())) + value.encode()


def setting(name, value):
    if isinstance(value, list):
        inner = b"".join(text(v) if isinstance(v, str) else struct.pack("<i", v) for v in value)
        return text(name) + struct.pack("<IIQ", 9, 8 if isinstance(value[0], str) else 5, len(value)) + inner
    kinds = {str: (8, text), int: (4, lambda v: struct.pack("<I", v)), float: (6, lambda v: struct.pack("<f", v))}
    kind, pack = kinds[type(value)]
    return text(name) + struct.pack("<I", kind) + pack(value)


def write_gguf(file, settings, tensors):
    """`tensors`: name -> (shape, type, bytes)."""
    head, data = b"", b""
    for name, (shape, kind, content) in tensors.items():
        head += text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += content + bytes(-len(content) % 32)
    said = b"".join(setting(name, value) for name, value in settings.items())
    start = struct.pack("<4sIQQ", b"GGUF", 3, len(tensors), len(settings)) + said + head
    file.write_bytes(start + bytes(-len(start) % 32) + data)


def half(value):
    return np.float16(value).tobytes()


def q6_k_by_hand(block):
    """One block, value by value, as llama.cpp's comments lay it out."""
    low, high, scales = block[:128], block[128:192], np.frombuffer(block[192:208], np.int8)
    d = float(np.frombuffer(block[208:210], np.float16)[0])
    out = np.zeros(256)
    for part in range(2):
        for i in range(32):
            ql, qh = low[64 * part : 64 * part + 64], high[32 * part : 32 * part + 32]
            quads = (
                (ql[i] & 15) | ((qh[i] & 3) << 4),
                (ql[i + 32] & 15) | (((qh[i] >> 2) & 3) << 4),
                (ql[i] >> 4) | (((qh[i] >> 4) & 3) << 4),
                (ql[i + 32] >> 4) | (((qh[i] >> 6) & 3) << 4),
            )
            for quarter, q in enumerate(quads):
                scale = scales[8 * part + 2 * quarter + i // 16]
                out[128 * part + 32 * quarter + i] = d * float(scale) * (int(q) - 32)
    return out


def test_every_block_type_is_read_as_it_is_defined(tmp_path):
    rng = np.random.default_rng(0)
    plain = rng.standard_normal((2, 32)).astype(np.float32)
    nibbles = rng.integers(0, 256, 16, dtype=np.uint8)
    spread = np.concatenate((nibbles & 15, nibbles >> 4)).astype(np.float64)
    bytes_ = rng.integers(-128, 128, 32).astype(np.int8)
    six = [rng.integers(0, 256, 208, dtype=np.uint8).tobytes() + half(0.25) for _ in range(2)]
    tensors = {
        "f32": ((2, 32), 0, plain.tobytes()),
        "f16": ((2, 32), 1, plain.astype(np.float16).tobytes()),
        "bf16": ((2, 32), 30, (plain.view(np.uint32) >> 16).astype(np.uint16).tobytes()),
        "q4_0": ((1, 32), 2, half(0.5) + nibbles.tobytes()),
        "q4_1": ((1, 32), 3, half(0.5) + half(-3.0) + nibbles.tobytes()),
        "q8_0": ((1, 32), 8, half(0.125) + bytes_.tobytes()),
        "q6_k": ((2, 256), 14, b"".join(six)),
    }
    write_gguf(tmp_path / "x.gguf", {"general.name": "x", "a.list": ["b", "c"], "a.numbers": [1, -2]}, tensors)
    found = read_gguf(tmp_path / "x.gguf")
    assert found.settings == {"general.name": "x", "a.list": ["b", "c"], "a.numbers": [1, -2]}
    expected = {
        "f32": plain,
        "f16": plain.astype(np.float16),
        "bf16": (plain.view(np.uint32) & 0xFFFF0000).view(np.float32),
        "q4_0": 0.5 * (spread - 8)[None],
        "q4_1": 0.5 * spread[None] - 3,
        "q8_0": 0.125 * bytes_[None],
        "q6_k": np.stack([q6_k_by_hand(block) for block in six]),
    }
    for name, values in expected.items():
        np.testing.assert_array_equal(found.tensors[name].numpy(), values.astype(np.float32), err_msg=name)


CONFIG = CausalLmConfig(
    vocabulary_size=NUM_BYTE_IDS + 2,
    width=16,
    ffn_width=24,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    max_positions=64,
    norm_epsilon=1e-5,
    rope_theta=5000.0,
    tie_embeddings=True,
    pad_id=0,
)


@pytest.fixture(scope="module")
def network():
    torch.manual_seed(0)
    return build_causal_lm(CONFIG).eval()


def logits(network, ids):
    with torch.no_grad():
        return network(input_ids=torch.tensor([ids])).logits[0]


def gguf_of(network, file, **changes):
    """The network as llama.cpp writes it: queries and keys with the channels of rotary pairs side by side."""
    state = network.state_dict()
    tensors = {
        "token_embd.weight": state["model.embed_tokens.weight"],
        "output_norm.weight": state["model.norm.weight"],
    }
    names = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm", "self_attn.o_proj": "attn_output"}
    names |= {f"self_attn.{p}_proj": f"attn_{p}" for p in "qkv"} | {f"mlp.{p}_proj": f"ffn_{p}" for p in ("gate", "up")}
    names["mlp.down_proj"] = "ffn_down"
    for layer in range(CONFIG.num_layers):
        for theirs, short in names.items():
            weight = state[f"model.layers.{layer}.{theirs}.weight"]
            if short in ("attn_q", "attn_k"):
                heads = CONFIG.num_heads if short == "attn_q" else CONFIG.kv_heads
                weight = weight.view(heads, 2, -1, 16).transpose(1, 2).reshape(weight.shape)
            tensors[f"blk.{layer}.{short}.weight"] = weight
    alphabet = byte_tokenizer()
    tokens = [*alphabet.convert_ids_to_tokens(range(NUM_BYTE_IDS)), "Ġt", "in"]
    settings = {
        "general.architecture": "llama",
        "llama.embedding_length": 16,
        "llama.feed_forward_length": 24,
        "llama.block_count": 2,
        "llama.attention.head_count": 4,
        "llama.attention.head_count_kv": 2,
        "llama.context_length": 64,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "llama.rope.freq_base": 5000.0,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": tokens,
        "tokenizer.ggml.token_type": [3] * 5 + [1] * 258,
        "tokenizer.ggml.merges": ["Ġ t", "i n"],
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 0,
        "tokenizer.chat_template": alphabet.chat_template,
    }
    settings |= changes
    packed = {name: (tuple(w.shape), 0, w.contiguous().numpy().tobytes()) for name, w in tensors.items()}
    write_gguf(file, {name: value for name, value in settings.items() if value is not None}, packed)


def test_a_gguf_file_becomes_the_same_network_with_its_tokenizer(network, tmp_path):
    gguf_of(network, tmp_path / "model.gguf")
    coverage = convert.import_checkpoint(tmp_path, tmp_path / "ours")
    assert coverage.is_complete
    lm = hub.load(tmp_path / "ours")
    assert lm.config == CONFIG
    assert torch.equal(logits(lm.network, [7, 8, 9, 10]), logits(network, [7, 8, 9, 10]))
    assert lm.encode("in t 12", begin=False) == [NUM_BYTE_IDS + 1, NUM_BYTE_IDS, *encode(byte_tokenizer(), " 12")]
    assert lm.decode(lm.encode("żółć in 雨")) == "żółć in 雨"
    assert lm.end_ids == (2, 4)
    assert lm.chat_ids([{"role": "user", "content": "<s>"}]).count(1) == 0


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"general.architecture": "gemma3"}, "is a gemma3"),
        ({"tokenizer.ggml.pre": "llama-bpe"}, "gpt2/llama-bpe"),
        ({"llama.rope.scaling.type": "yarn"}, "scaled positions"),
        ({"llama.block_count": 3}, r"missing: network\.model\.layers\.2"),
        ({"llama.block_count": None}, r"does not say llama\.block_count"),
    ],
)
def test_gguf_files_of_other_kinds_are_refused_by_name(network, tmp_path, changes, message):
    gguf_of(network, tmp_path / "x.gguf", **changes)
    with pytest.raises(CheckpointError, match=message):
        convert.import_checkpoint(tmp_path / "x.gguf", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_damaged_gguf_files_are_refused(network, tmp_path):
    gguf_of(network, tmp_path / "x.gguf")
    whole = (tmp_path / "x.gguf").read_bytes()
    for damaged in (whole[:-100], whole[:3000], b"GGUF", b"", b"\x00" * 100, whole.replace(b"blk.1", b"blk.7")):
        (tmp_path / "y.gguf").write_bytes(damaged)
        with pytest.raises(CheckpointError, match=r"y\.gguf"):
            convert.import_checkpoint(tmp_path / "y.gguf", tmp_path / "ours")
    write_gguf(tmp_path / "z.gguf", {}, {"w": ((1, 256), 12, bytes(144))})
    with pytest.raises(CheckpointError, match="w is of GGUF type 12; read are F32"):
        read_gguf(tmp_path / "z.gguf")


def plain_folder(network, folder):
    tokenizer = byte_tokenizer()
    tokenizer.add_tokens(["in t", "żó"])
    save_plain(network, tokenizer, folder)
    return tokenizer


def test_a_hugging_face_folder_goes_in_and_out_unchanged(network, tmp_path):
    tokenizer = plain_folder(network, tmp_path / "plain")
    convert.import_checkpoint(tmp_path / "plain", tmp_path / "ours")
    found = checkpoint.read(tmp_path / "ours")
    assert found.config["tokenizer"] not in ("", "bytes")
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "out", "huggingface")
    again = transformers.AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(again, [7, 8, 9]), logits(network, [7, 8, 9]))
    read = transformers.AutoTokenizer.from_pretrained(tmp_path / "out")
    assert encode(read, "a in t żó") == encode(tokenizer, "a in t żó")
    assert read.chat_template == tokenizer.chat_template
    convert.import_checkpoint(tmp_path / "out", tmp_path / "ours2")
    assert checkpoint.identity(tmp_path / "ours2") == checkpoint.identity(tmp_path / "ours")


def test_another_tokenizer_beside_the_weights_is_refused(network, tmp_path):
    plain_folder(network, tmp_path / "plain")
    convert.import_checkpoint(tmp_path / "plain", tmp_path / "ours")
    byte_tokenizer().save_pretrained(tmp_path / "ours" / "parts" / "tokenizer")
    with pytest.raises(FittedPartMismatch, match="was fitted on"):
        hub.load(tmp_path / "ours")


def test_a_tokenizer_with_more_ids_than_the_network_is_refused(tmp_path):
    small = build_causal_lm(replace(CONFIG, vocabulary_size=NUM_BYTE_IDS))
    plain_folder(small, tmp_path / "plain")
    with pytest.raises(CheckpointError, match="has 263 ids and the network beside it 261"):
        convert.import_checkpoint(tmp_path / "plain", tmp_path / "ours")


def test_the_published_size_fits_its_gguf_names():
    config = SYSTEM.preset("smollm2-135m").model
    assert isinstance(config, LmConfig)
    with torch.device("meta"):
        own = SYSTEM.build(config).state_dict()
    names = {name: convert.GGUF_LLAMA.to_foreign(name) for name in own}
    assert len(names) == 272
    assert None not in names.values()
    assert all(convert.GGUF_LLAMA.to_ours(foreign) == name for name, foreign in names.items())
    assert sum(value.numel() for value in own.values()) == 134_515_008


def test_what_is_no_language_model_is_refused(tmp_path):
    with pytest.raises(CheckpointError, match="no Hugging Face folder"):
        convert.import_checkpoint(tmp_path, tmp_path / "ours")
