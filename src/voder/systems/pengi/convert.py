"""The published checkpoints of Pengi: torch files `{model: state}`, names perhaps behind `module.`.

The authors' files are `base.pth` and `base_no_text_enc.pth` (Zenodo record 8387083; code MIT). They hold GPT-2 (MIT)
and CLIP's text tower (MIT), but no tokenizer: convert with `gpt2=FOLDER` and `clip=FOLDER`, folders of those models'
tokenizers as Hugging Face has them (`vocab.json`, `merges.txt`), which go into the checkpoint.
"""

import tempfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError
from voder.files import atomic_path
from voder.interop import Coverage, Marks, RenameTable, Rule, export, load_foreign, read_sections, rename_all, rules
from voder.nn.causal_lm import CausalLmConfig
from voder.published import ByHand, Published
from voder.systems.pengi.config import HtsatConfig, MapperConfig, PengiConfig, TextTowerConfig
from voder.systems.pengi.htsat import Htsat
from voder.systems.pengi.model import Pengi
from voder.text.subwords import fingerprint, read_tokenizer

_FFN = {"mlp.fc1": "ffn_in", "mlp.fc2": "ffn_out"}


def _htsat(theirs: str = "", ours: str = "") -> list[Rule]:
    """Rules of the audio encoder behind prefixes."""
    stage, our_stage = f"{theirs}layers.{{i}}.", f"{ours}stages.{{i}}."
    block, our_block = f"{stage}blocks.{{j}}.", f"{our_stage}blocks.{{j}}."
    around = {
        "bn0": "band_norm",
        "patch_embed.proj": "patches",
        "patch_embed.norm": "patch_norm",
        "norm": "norm",
        "tscam_conv": "classes",
        "head": "spare_head",
    }
    attention = {"attn.qkv": "attention.in_projection", "attn.proj": "attention.out_projection"}
    norms = {"norm1": "attention_norm", "norm2": "ffn_norm"}
    return [
        *rules(theirs, ours, around),
        *rules(block, our_block, norms | attention | _FFN),
        Rule(f"{block}attn.relative_position_bias_table", f"{our_block}attention.bias_table"),
        *rules(f"{stage}downsample.", f"{our_stage}merge.", {"norm": "norm", "reduction": "projection"}),
    ]


def _derived(prefix: str = "") -> list[str]:
    """Names of the audio encoder that hold what follows from its sizes: windows, mel bank, masks."""
    return [
        f"{prefix}spectrogram_extractor.{{rest...}}",
        f"{prefix}logmel_extractor.melW",
        f"{prefix}layers.{{i}}.blocks.{{j}}.attn_mask",
        f"{prefix}layers.{{i}}.blocks.{{j}}.attn.relative_position_index",
    ]


def _projection(theirs: str, ours: str) -> list[Rule]:
    return [*rules(theirs, ours, {"linear1": "first", "linear2": "second", "layer_norm": "norm"})]


def _mapper(theirs: str, ours: str) -> list[Rule]:
    attention = {"attn.to_queries": "query", "attn.to_keys_values": "key_value", "attn.project": "out"}
    norms = {"norm1": "attention_norm", "norm2": "ffn_norm"}
    return [
        Rule(f"{theirs}prefix_const", f"{ours}constants"),
        *rules(theirs, ours, {"linear": "spread"}),
        *rules(f"{theirs}transformer.layers.{{i}}.", f"{ours}blocks.{{i}}.", norms | attention | _FFN),
    ]


def _tower(theirs: str, ours: str) -> list[Rule]:
    projections = {"q_proj": "query", "k_proj": "key", "v_proj": "value", "out_proj": "out"}
    attention = {f"self_attn.{name}": projections[name] for name in projections}
    norms = {"layer_norm1": "attention_norm", "layer_norm2": "ffn_norm"}
    around = {"embeddings.token_embedding": "tokens", "embeddings.position_embedding": "positions"}
    return [
        *rules(theirs, ours, around | {"final_layer_norm": "norm"}),
        *rules(f"{theirs}encoder.layers.{{i}}.", f"{ours}blocks.{{i}}.", norms | attention | _FFN),
    ]


_IGNORED = (
    *_derived("audio_encoder.base.htsat."),
    "caption_decoder.gpt.lm_head.weight",  # tied to the embeddings
    "caption_decoder.gpt.transformer.h.{i}.attn.bias",
    "caption_decoder.gpt.transformer.h.{i}.attn.masked_bias",
    "caption_encoder.base.embeddings.position_ids",
    "caption_encoder.base.text_model.embeddings.position_ids",
)
HTSAT = RenameTable(*_htsat(), ignored=_derived())
OFFICIAL = RenameTable(
    *_htsat("audio_encoder.base.htsat.", "audio_encoder."),
    *_projection("audio_encoder.projection.", "audio_projection."),
    *_tower("caption_encoder.base.", "text_encoder."),
    Rule("caption_encoder.clip_text_projection.weight", "text_encoder.projection.weight"),
    *_projection("caption_encoder.projection.", "text_projection."),
    Rule("caption_decoder.gpt.{w...}", "lm.{w...}"),
    *_mapper("caption_decoder.audio_project.", "audio_mapper."),
    *_mapper("caption_decoder.text_project.", "text_mapper."),
    spelling=[
        Rule("module.{w...}", "{w...}"),
        Rule("caption_encoder.base.text_model.{w...}", "caption_encoder.base.{w...}"),
    ],
    export_spelling=False,
    ignored=[f"{start}{name}" for start in ("", "module.") for name in _IGNORED],
)


def htsat_config(sizes: Mapping[str, Any]) -> HtsatConfig:
    """Translate the audio encoder's sizes."""
    return HtsatConfig(
        num_bands=sizes["mel"],
        image=sizes["spec"],
        width=sizes["embed"],
        depths=tuple(sizes["depths"]),
        num_heads=tuple(sizes["heads"]),
        window=sizes["window"],
        num_classes=sizes["classes"],
    )


def htsat_from_original(sizes: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Htsat:
    """The audio encoder of given sizes with the original's weights."""
    model = Htsat(htsat_config(sizes))
    load_foreign(model, state, HTSAT, where)
    return model.eval()


def official_config(sizes: Mapping[str, Any]) -> PengiConfig:
    """Translate the sizes that make the original; its mappers have half as many layers as the settings say."""
    tower, gpt = sizes["clip_text"], sizes["gpt"]
    audio = htsat_config(sizes["h"])
    text = TextTowerConfig(
        vocabulary_size=tower["vocab_size"],
        max_positions=tower["max_position_embeddings"],
        width=tower["hidden_size"],
        num_layers=tower["num_hidden_layers"],
        num_heads=tower["num_attention_heads"],
        ffn_width=tower["intermediate_size"],
        output_width=tower["projection_dim"],
    )
    return PengiConfig(
        audio=audio,
        clip_s=min(7.0, (audio.max_frames - 1) * audio.hop / audio.sample_rate_hz),
        text=text if sizes["text"] else None,
        max_prompt=sizes["enc_len"],
        mapper=MapperConfig(
            width=sizes["d_proj"],
            prefix=sizes["prefix"],
            clip=sizes["clip"],
            num_layers=sizes["num_layers"] // 2,
        ),
        lm=CausalLmConfig(
            family="gpt2",
            vocabulary_size=gpt["vocab_size"],
            width=gpt["n_embd"],
            ffn_width=4 * gpt["n_embd"],
            num_layers=gpt["n_layer"],
            num_heads=gpt["n_head"],
            max_positions=gpt["n_positions"],
            norm_epsilon=1e-5,
            tie_embeddings=True,
            bos_id=None,
            eos_id=None,
        ),
    )


def pengi_from_original(sizes: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Pengi:
    """The model of given sizes with the original's weights."""
    model = Pengi(official_config(sizes))
    load_foreign(model, state, OFFICIAL, where)
    return model.eval()


LAYOUTS = {"official": "a .pth file; what follows from sizes alone (masks, mel bank) is left out of it"}
MARKS = Marks(
    names=tuple(
        f"{start}{name}"
        for start in ("", "module.")
        for name in ("caption_decoder.audio_project.prefix_const", "caption_decoder.text_project.prefix_const")
    )
)
_HEAD, _TABLE = "caption_decoder.gpt.lm_head.weight", "caption_decoder.gpt.transformer.wte.weight"


def published_config(state: Mapping[str, Tensor]) -> PengiConfig:
    """The published sizes, with a text tower where the file has one."""
    towered = any("caption_encoder." in name for name in state)
    return PengiConfig() if towered else PengiConfig(text=None)


def convert_state(config: PengiConfig, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Bring a published state to our names, without building a network.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    with torch.device("meta"):
        own = Pengi(config).state_dict()
    return rename_all(state, own, OFFICIAL, where, "Pengi")


def import_checkpoint(source: Path, output: Path, gpt2: Path | None = None, clip: Path | None = None) -> Coverage:
    """Convert a published file into a checkpoint folder of ours.

    Args:
        source: `base.pth` or `base_no_text_enc.pth`.
        output: the folder to write.
        gpt2: a folder with GPT-2's tokenizer.
        clip: a folder with CLIP's tokenizer, where the file has a text tower.

    Raises:
        CheckpointError: damaged, of another model, or a tokenizer is missing or has too many ids.
    """
    content = read_sections(source)
    state = content.get("model", content)
    if not isinstance(state, dict) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{source} is no Pengi checkpoint: it must hold a table of tensors, alone or as 'model'")
    config = published_config(state)
    coverage = convert_state(config, state, str(source))
    wanted = {"gpt2": (gpt2, config.lm.vocabulary_size)}
    if config.text is not None:
        wanted["clip"] = (clip, config.text.vocabulary_size)
    with tempfile.TemporaryDirectory(prefix="voder-tokenizers-") as folder:
        names = {kind: _keep(kind, *found, Path(folder)) for kind, found in wanted.items()}
        config = replace(config, tokenizer=names["gpt2"], prompt_tokenizer=names.get("clip", config.prompt_tokenizer))
        parts = {"tokenizer": Path(folder) / "gpt2"}
        if "clip" in names:
            parts["prompt_tokenizer"] = Path(folder) / "clip"
        provenance = {"converted_from": source.name, "licence": "MIT (code, GPT-2, CLIP); see the authors' page"}
        checkpoint.save(output, system="pengi", config=config, state=coverage.state, parts=parts, provenance=provenance)
    return coverage


def _keep(kind: str, folder: Path | None, size: int, target: Path) -> str:
    """Copy a tokenizer's files; its fingerprint."""
    if folder is None:
        raise CheckpointError(f"the tokenizer of {kind} is not in the file: give {kind}=FOLDER with it")
    tokenizer = read_tokenizer(folder)
    if len(tokenizer) > size:
        raise CheckpointError(
            f"the tokenizer in {folder} has {len(tokenizer)} ids, the network {size}: it is of another"
        )
    tokenizer.save_pretrained(target / kind)
    return fingerprint(read_tokenizer(target / kind))


def export_checkpoint(folder: Path, output: Path, layout: str = "official") -> list[str]:
    """Write a checkpoint folder of ours as one file in the authors' layout.

    Raises:
        CheckpointError: not a checkpoint of this system, or a language model that is no GPT-2.
    """
    found = checkpoint.read_of(folder, "pengi")
    config = from_dict(PengiConfig, found.config, where=str(folder))
    if config.lm.family != "gpt2":
        raise CheckpointError(f"{folder} is over a {config.lm.family}; the authors' layout has GPT-2 alone")
    state = export(checkpoint.load_state(folder), OFFICIAL)
    with atomic_path(output) as temporary:
        torch.save({"model": {**state, _HEAD: state[_TABLE].clone()}}, temporary)
    return []


def _with_tokenizers(file: str) -> Callable[[Path, Path], Coverage]:
    def run(folder: Path, output: Path) -> Coverage:
        return import_checkpoint(folder / file, output, gpt2=folder / "gpt2", clip=folder / "clip")

    return run


def _row(name: str, what: str, num_bytes: int, tokenizers: Mapping[str, str]) -> Published:
    file = f"{name}.pth"
    kept = ("config.json", "tokenizer.json", "tokenizer_config.json")
    places = " and ".join(tokenizers.values())
    return Published(
        name=f"pengi-{name.replace('_', '-')}",
        system="pengi",
        what=what,
        licence="not stated, code MIT",
        origin="Microsoft's, with GPT-2 inside (MIT)",
        convert=_with_tokenizers(file),
        by_hand=ByHand(
            place=f"https://zenodo.org/record/8387083 (tokenizers: {places} on the Hugging Face Hub)",
            files=(file, *(f"{kind}/{each}" for kind in tokenizers for each in kept)),
            num_bytes=num_bytes,
        ),
    )


_GPT2, _CLIP = {"gpt2": "openai-community/gpt2"}, {"clip": "openai/clip-vit-base-patch16"}
PUBLISHED = (
    _row("base", "answers in text about recordings, 322 M parameters", 1_293_000_000, _GPT2 | _CLIP),
    _row("base_no_text_enc", "the same without a text encoder, 226 M parameters", 905_000_000, _GPT2),
)
