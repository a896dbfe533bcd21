"""Published weights of NExT-GPT's legacy line and of ImageBind.

`pytorch_model.pt` of `ChocoWu/nextgpt_7b_tiva_v0` (fp16) holds what was trained: whole tables of the language model
without peft's prefix, LoRA, and the projectors. The rest comes from Vicuna-7B-v0 and `imagebind_huge.pth`; sizes and
licences are in `sources`. Nothing is skipped in silence: what a file lacks or has too much is named.
"""

import warnings
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError
from voder.files import atomic_path
from voder.interop import (
    Coverage,
    Marks,
    RenameTable,
    Rule,
    export,
    load_foreign,
    read_sections,
    read_state,
    rename_all,
)
from voder.nn.causal_lm import build_causal_lm, save_plain
from voder.nn.lora import merge_lora
from voder.published import Published
from voder.systems.nextgpt.config import AudioTrunkConfig, ImageBindConfig, NextGptConfig, VisionTrunkConfig, unpadded
from voder.systems.nextgpt.imagebind import ImageBind
from voder.systems.nextgpt.model import NextGpt
from voder.systems.nextgpt.projectors import OutputProjector
from voder.systems.nextgpt.sources import IMAGEBIND_FILE, LEGACY_FILE, SOURCES
from voder.systems.nextgpt.vocabulary import base_names, signal_names
from voder.train.base_lm import borrowed, find_base_lm, tokenizer_of


def _trunk(kind: str) -> list[Rule]:
    """Rules of one modality's trunk and head."""
    stem, trunk, ours = f"modality_preprocessors.{kind}.", f"modality_trunks.{kind}.", f"{kind}.trunk."
    block, our_block = f"{trunk}blocks.{{i}}.", f"{ours}blocks.{{i}}."
    return [
        Rule(f"{stem}cls_token", f"{ours}token"),
        Rule(f"{stem}pos_embedding_helper.pos_embed", f"{ours}positions"),
        Rule(f"{trunk}pre_transformer_layer.0.{{w}}", f"{ours}first_norm.{{w}}"),
        Rule(f"{block}attn.in_proj_weight", f"{our_block}in_projection.weight"),
        Rule(f"{block}attn.in_proj_bias", f"{our_block}in_projection.bias"),
        Rule(f"{block}attn.bias_k", f"{our_block}extra_key"),
        Rule(f"{block}attn.bias_v", f"{our_block}extra_value"),
        Rule(f"{block}attn.out_proj.{{w}}", f"{our_block}out_projection.{{w}}"),
        Rule(f"{block}norm_1.{{w}}", f"{our_block}attention_norm.{{w}}"),
        Rule(f"{block}norm_2.{{w}}", f"{our_block}ffn_norm.{{w}}"),
        Rule(f"{block}mlp.fc1.{{w}}", f"{our_block}ffn_in.{{w}}"),
        Rule(f"{block}mlp.fc2.{{w}}", f"{our_block}ffn_out.{{w}}"),
        Rule(f"modality_heads.{kind}.0.{{w}}", f"{ours}norm.{{w}}"),
        Rule(f"modality_heads.{kind}.2.{{w}}", f"{ours}head.{{w}}"),
    ]


_OTHERS = tuple(
    f"modality_{place}.{kind}.{{rest...}}"
    for kind in ("text", "depth", "thermal", "imu")
    for place in ("preprocessors", "trunks", "heads", "postprocessors")
)
IMAGEBIND = RenameTable(
    Rule("modality_preprocessors.audio.rgbt_stem.proj.weight", "audio.patches.weight"),
    Rule("modality_preprocessors.audio.rgbt_stem.norm_layer.{w}", "audio.patch_norm.{w}"),
    Rule("modality_preprocessors.vision.rgbt_stem.proj.1.weight", "vision.patches.weight"),
    *_trunk("audio"),
    *_trunk("vision"),
    Rule("modality_postprocessors.audio.1.log_logit_scale", "log_scale"),
    ignored=_OTHERS,
)
"""Modalities that NExT-GPT has no use for (text, depth, heat, motion) are left out by name."""

_LAYER = (
    ("self_attn.in_proj_weight", "attention.in_projection.weight"),
    ("self_attn.in_proj_bias", "attention.in_projection.bias"),
    ("self_attn.out_proj.{w}", "attention.out_projection.{w}"),
    ("multihead_attn.in_proj_weight", "cross.in_projection.weight"),
    ("multihead_attn.in_proj_bias", "cross.in_projection.bias"),
    ("multihead_attn.out_proj.{w}", "cross.out_projection.{w}"),
    ("linear1.{w}", "ffn_in.{w}"),
    ("linear2.{w}", "ffn_out.{w}"),
    ("norm1.{w}", "attention_norm.{w}"),
)


def projector_rules(theirs: str = "", ours: str = "") -> list[Rule]:
    """Rules of an output projector of the legacy line behind prefixes."""
    layers = []
    for side, last in (("encoder", "ffn_norm"), ("decoder", "cross_norm")):
        here, there = f"{theirs}tfm.{side}.layers.{{i}}.", f"{ours}{side}.{{i}}."
        layers += [Rule(here + a, there + b) for a, b in _LAYER]
        layers += [
            Rule(f"{here}norm2.{{w}}", f"{there}{last}.{{w}}"),
            Rule(f"{here}norm3.{{w}}", f"{there}ffn_norm.{{w}}"),
        ]
        layers.append(Rule(f"{theirs}tfm.{side}.norm.{{w}}", f"{ours}{side}_norm.{{w}}"))
    return [
        Rule(f"{theirs}query_embs", f"{ours}queries"),
        Rule(f"{theirs}fc.{{w}}", f"{ours}in_linear.{{w}}"),
        *layers,
        Rule(f"{theirs}model.{{w}}", f"{ours}out_linear.{{w}}"),
    ]


PROJECTOR = RenameTable(
    *projector_rules(), spelling=[Rule("in_fc.{w}", "fc.{w}"), Rule("out_fc.{w}", "model.{w}")], export_spelling=False
)
"""An output projector of either line."""


def imagebind_config(sizes: Mapping[str, Any], state: Mapping[str, Tensor]) -> ImageBindConfig:
    """Translate the original's arguments; what they leave out follows from the weights."""
    kernel = sizes["kernel_size"]
    patches = state["modality_preprocessors.vision.pos_embedding_helper.pos_embed"].shape[1] - 1
    return ImageBindConfig(
        audio=AudioTrunkConfig(
            width=sizes["audio_embed_dim"],
            num_layers=sizes["audio_num_blocks"],
            num_heads=sizes["audio_num_heads"],
            patch=sizes.get("audio_kernel_size", 16),
            stride=sizes.get("audio_stride", 10),
            num_bands=sizes.get("audio_num_mel_bins", 128),
            num_frames=sizes.get("audio_target_len", 204),
        ),
        vision=VisionTrunkConfig(
            width=sizes["vision_embed_dim"],
            num_layers=sizes["vision_num_blocks"],
            num_heads=sizes["vision_num_heads"],
            patch=kernel[1],
            size=kernel[1] * round(patches**0.5),
        ),
        output_width=sizes["out_embed_dim"],
    )


def imagebind_from_original(sizes: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> ImageBind:
    """ImageBind of given sizes with the original's weights."""
    model = ImageBind(imagebind_config(sizes, state))
    load_foreign(model, state, IMAGEBIND, where)
    return model.eval()


def projector_from_original(state: Mapping[str, Tensor], where: str) -> OutputProjector:
    """An output projector of either line with the original's weights; its sizes are those of the weights."""
    incoming = state.get("fc.weight", state.get("in_fc.weight"))
    outgoing = state.get("model.weight", state.get("out_fc.weight"))
    assert incoming is not None
    assert outgoing is not None
    hidden, width = incoming.shape
    model = OutputProjector(width, hidden, state["query_embs"].shape[1], outgoing.shape[0])
    load_foreign(model, state, PROJECTOR, where)
    return model.eval()


_LM, _OURS = "llama_model.base_model.model.", "lm.base_model.model."
_PROJECTORS = {
    "image": "gen_text_hidden_fcs.0.",
    "video": "gen_text_hidden_fcs_video.0.",
    "audio": "gen_text_hidden_fcs_audio.0.",
}
_TABLES = (f"{_LM}model.embed_tokens.", f"{_LM}lm_head.")
OFFICIAL = RenameTable(
    *(
        Rule(f"{table}{part}", f"{_OURS}{table.removeprefix(_LM)}{part}")
        for table in _TABLES
        for part in ("base.weight", "rows")
    ),
    Rule(
        _LM + "model.layers.{i}.self_attn.{p}.lora_{side}.default.weight",
        _OURS + "model.layers.{i}.self_attn.{p}.lora_{side}.default.weight",
    ),
    Rule(_LM + "model.layers.{i}.self_attn.{p}.weight", _OURS + "model.layers.{i}.self_attn.{p}.base_layer.weight"),
    Rule(_LM + "model.{w...}", _OURS + "model.{w...}"),
    Rule("llama_proj.{w}", "input_projector.{w}"),
    *(rule for kind, theirs in _PROJECTORS.items() for rule in projector_rules(theirs, f"output_projectors.{kind}.")),
    ignored=(_LM + "model.layers.{i}.self_attn.rotary_emb.inv_freq",),
)
"""The legacy line's names once `with_prefix` has put its tables where they belong and cut them."""


def _full(name: str) -> str:
    """A name with peft's prefix, without which the authors save the trained tables."""
    if name.startswith("llama_model.") and not name.startswith("llama_model.base_model."):
        return _LM + name.removeprefix("llama_model.")
    return name


def with_prefix(state: Mapping[str, Tensor], base: int) -> dict[str, Tensor]:
    """Put trained tables under peft's prefix, and cut off the rows from `base` on.

    Raises:
        CheckpointError: a table under both names.
    """
    made: dict[str, Tensor] = {}
    for name, value in state.items():
        full = _full(name)
        if full != name and full in state:
            raise CheckpointError(f"{name} and {full} are the same table: one of them must go")
        if full in (f"{table}weight" for table in _TABLES):
            table = full.removesuffix("weight")
            made |= {f"{table}base.weight": value[:base], f"{table}rows": value[base:]}
        else:
            made[full] = value
    return made


def load_official(model: NextGpt, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Fill a whole model but its encoder with the legacy line's weights, strictly.

    Raises:
        CheckpointError: something is missing, left over or of another shape; every name is given.
    """
    own = {name: value for name, value in model.state_dict().items() if not name.startswith("encoder.")}
    coverage = rename_all(with_prefix(state, model.config.lm.vocabulary_size), own, OFFICIAL, where)
    model.load_state_dict(model.state_dict() | coverage.state)
    return coverage


def from_plain(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The names of a plain Llama as the legacy line's file would have them."""
    return {f"{_LM}{name}": value for name, value in state.items()}


def over(base: Mapping[str, Tensor], changes: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """A plain Llama (`from_plain`) with a published file laid over it: trained tables take the place of the base's.

    Raises:
        CheckpointError: the file's tables have fewer rows than the base's.
    """
    named = {_full(name): value for name, value in changes.items()}
    for table in (f"{prefix}weight" for prefix in _TABLES):
        if table in named and len(named[table]) < len(base[table]):
            raise CheckpointError(
                f"{table} has {len(named[table])} rows, the language model's {len(base[table])}: it is of another one"
            )
    return {**base, **named}


LAYOUTS = {
    "official": "pytorch_model.pt of the legacy line: tables, LoRA and projectors, fp16",
    "huggingface": "the language model alone, LoRA merged and signals in its vocabulary, as transformers loads it",
}
MARKS = Marks(names=("llama_proj.weight", "gen_text_hidden_fcs_audio.0.query_embs"))


def convert_state(config: NextGptConfig, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Bring the authors' file to our names: all that is neither the encoder's nor the frozen language model's.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    with torch.device("meta"):
        model = NextGpt(config)
    rows = model.vocabulary.size
    for table in (f"{prefix}weight" for prefix in _TABLES):
        for name in (table, table.replace("base_model.model.", "")):
            if name in state and len(state[name]) != rows:
                raise CheckpointError(
                    f"{name} in {where} has {len(state[name])} rows; {rows} are wanted, {config.lm.vocabulary_size} of "
                    f"the language model and {rows - config.lm.vocabulary_size} of marks and signals"
                )
    frozen = set(frozen_names(model))
    own = {n: v for n, v in model.state_dict().items() if not n.startswith("encoder.") and n not in frozen}
    return rename_all(with_prefix(state, config.lm.vocabulary_size), own, OFFICIAL, where)


def frozen_names(model: NextGpt) -> dict[str, str]:
    """The language model's weights that the authors' file leaves out, with their plain names: all but the tables."""
    return {n: plain for n, plain in base_names(model.lm, "lm.").items() if not n.endswith(".base.weight")}


def convert_imagebind(config: ImageBindConfig, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Bring ImageBind's file to our names.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    with torch.device("meta"):
        own = ImageBind(config).state_dict()
    return rename_all(state, own, IMAGEBIND, where, "ImageBind")


def import_checkpoint(source: Path, output: Path, lm: Path | None = None, imagebind: Path | None = None) -> Coverage:
    """Convert the authors' file into a checkpoint folder of ours.

    Args:
        source: `pytorch_model.pt`.
        output: the folder to write.
        lm: Vicuna-7B-v0 as a checkpoint of ours (`voder convert`).
        imagebind: `imagebind_huge.pth`.

    Raises:
        CheckpointError: damaged, of another model, or a part is not given.
    """
    if lm is None or imagebind is None:
        raise CheckpointError(
            "the file holds only what was trained: give lm=FOLDER (Vicuna-7B-v0, converted) and imagebind=FILE"
        )
    base = find_base_lm(str(lm))
    config = NextGptConfig(lm=unpadded(base.config), tokenizer=base.tokenizer_name)
    state = read_sections(source)
    coverage = convert_state(config, {k: v for k, v in state.items() if isinstance(v, Tensor)}, str(source))
    heard = convert_imagebind(config.encoder, read_state(imagebind), str(imagebind))
    with torch.device("meta"):
        names = frozen_names(NextGpt(config))
    provenance = {"converted_from": [source.name, imagebind.name], "licence": "CC-BY-NC-SA-4.0"}
    checkpoint.save(
        output,
        system="nextgpt",
        config=config,
        state=coverage.state | {f"encoder.{name}": value for name, value in heard.state.items()},
        parts={"lm": base.folder},
        provenance=provenance,
        borrowed=borrowed(names),
    )
    return coverage


def official_state(model: NextGpt) -> dict[str, Tensor]:
    """What the authors' file has of a model of the legacy line."""
    frozen = frozen_names(model)
    own = {n: v for n, v in model.state_dict().items() if not n.startswith("encoder.") and n not in frozen}
    named = export(own, OFFICIAL)
    for table in _TABLES:
        whole = torch.cat((named.pop(f"{table}base.weight"), named.pop(f"{table}rows")))
        named[table.replace("base_model.model.", "") + "weight"] = whole
    return {name: value.half() for name, value in named.items()}


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint folder of ours in a layout of others; returns what has no place there.

    Raises:
        CheckpointError: not a checkpoint of this system, or not of the line that has the layout.
    """
    found = checkpoint.read_of(folder, "nextgpt")
    config = from_dict(NextGptConfig, found.config, where=str(folder))
    model = NextGpt(config)
    checkpoint.load_into(model, checkpoint.load_state(folder), folder)
    if layout == "official":
        if config.line != "legacy" or config.lm.family != "llama":
            raise CheckpointError(
                f"{folder} is of the {config.line} line over a {config.lm.family}; no such file exists"
            )
        with atomic_path(output) as temporary:
            torch.save(official_state(model), temporary)
        return ["encoder.*", "the language model's frozen weights"]
    tokenizer = tokenizer_of(config.tokenizer, found.parts, found.folder)
    left = ["encoder.*", "input_projector.*", "output_projectors.*"]
    if len(tokenizer) == config.lm.vocabulary_size:
        tokenizer.add_tokens(signal_names(config))
    else:
        left.append("names of the signals: the tokenizer has fewer ids than the network had")
    save_plain(plain_network(model), tokenizer, output)
    return left


def plain_network(model: NextGpt) -> Any:
    """The language model with LoRA merged and the signals' rows in its tables (the model is used up)."""
    config = replace(model.config.lm, vocabulary_size=model.vocabulary.size)
    network = build_causal_lm(config)
    with warnings.catch_warnings():
        # peft does not know that grown tables can be tied; the new network ties its own
        warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
        merged = merge_lora(model.lm).state_dict()
    grown = [name.removesuffix("rows") for name in merged if name.endswith(".rows")]
    plain = {name: value for name, value in merged.items() if not name.startswith(tuple(grown))}
    plain |= {f"{name}weight": torch.cat((merged[f"{name}base.weight"], merged[f"{name}rows"])) for name in grown}
    own = network.state_dict()
    network.load_state_dict({name: plain[name] for name in own})
    return network


def _with_imagebind(folder: Path, output: Path, *, lm: Path) -> Coverage:
    return import_checkpoint(folder / LEGACY_FILE, output, lm=lm, imagebind=folder / IMAGEBIND_FILE)


PUBLISHED = (
    Published(
        name="nextgpt-7b",
        system="nextgpt",
        what="conversations with sounds and pictures in and out, 7 B parameters (legacy line)",
        licence="CC-BY-NC-SA-4.0, ImageBind CC-BY-NC-4.0",
        origin="the authors' nextgpt_7b_tiva_v0, and Meta's imagebind_huge",
        convert=_with_imagebind,
        hub=SOURCES,
        needs={"lm": "vicuna-7b-v0"},
    ),
)
