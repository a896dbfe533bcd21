"""Published BEATs checkpoints: torch files `{cfg, model}` (fine-tuned ones also hold the names of their classes).

The authors' files are linked from their page (github.com/microsoft/unilm, folder beats; MIT); SALMONN uses the one in
`PUBLISHED`. They are read with nothing run from them.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError
from voder.files import atomic_path
from voder.interop import WEIGHT_NORM, Coverage, Marks, RenameTable, Rule, export, load_foreign, read_sections
from voder.published import ByHand, Published, of_file
from voder.systems.beats.config import BeatsConfig
from voder.systems.beats.model import Beats

_LAYER = "encoder.layers.{i}."
_SHARED = "encoder.layers.{i}.self_attn.relative_attention_bias.weight"
"""One table, which the originals repeat for every layer."""
_ATTENTION = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"), ("grep_linear", "gate"))
OFFICIAL = RenameTable(
    Rule("patch_embedding.weight", "patches.weight"),
    Rule("layer_norm.{w}", "patch_norm.{w}"),
    Rule("post_extract_proj.{w}", "projection.{w}"),
    Rule("encoder.pos_conv.0.{w...}", "encoder.positions.{w...}"),
    Rule("encoder.layer_norm.{w}", "encoder.norm.{w}"),
    Rule("encoder.layers.0.self_attn.relative_attention_bias.weight", "encoder.bias.table.weight"),
    *(Rule(f"{_LAYER}self_attn.{theirs}.{{w}}", f"{_LAYER}attention.{ours}.{{w}}") for theirs, ours in _ATTENTION),
    Rule(_LAYER + "self_attn.grep_a", _LAYER + "attention.gate_scale"),
    Rule(_LAYER + "self_attn_layer_norm.{w}", _LAYER + "attention_norm.{w}"),
    Rule(_LAYER + "fc1.{w}", _LAYER + "ffn_in.{w}"),
    Rule(_LAYER + "fc2.{w}", _LAYER + "ffn_out.{w}"),
    Rule(_LAYER + "final_layer_norm.{w}", _LAYER + "final_norm.{w}"),
    Rule("predictor.{w}", "predictor.{w}"),
    spelling=WEIGHT_NORM,
)
_FIXED = {"relative_position_embedding": True, "gru_rel_pos": True, "deep_norm": True, "layer_norm_first": False}
"""Switches of the original that every published checkpoint has so; other networks are not built here."""
_NAMES = {
    "input_patch_size": "patch",
    "embed_dim": "patch_width",
    "encoder_embed_dim": "width",
    "encoder_layers": "num_layers",
    "encoder_attention_heads": "num_heads",
    "encoder_ffn_embed_dim": "ffn_width",
    "conv_pos": "conv_kernel",
    "conv_pos_groups": "conv_groups",
    "num_buckets": "num_buckets",
    "max_distance": "max_distance",
}


def official_config(cfg: Mapping[str, Any], classes: tuple[str, ...] = ()) -> BeatsConfig:
    """Translate the original's `cfg`.

    Raises:
        ConfigError: a switch that makes another network.
    """
    for name, value in _FIXED.items():
        if cfg.get(name, value) != value:
            raise ConfigError(
                f"{name} is {cfg[name]} in this BEATs checkpoint; only {value} is published and built here"
            )
    values = {ours: cfg[theirs] for theirs, ours in _NAMES.items() if theirs in cfg}
    values["num_classes"] = cfg["predictor_class"] if cfg.get("finetuned_model") else 0
    if classes:
        values["classes"] = classes
    return from_dict(BeatsConfig, values, where="the cfg of BEATs")


def to_official_config(config: BeatsConfig) -> dict[str, Any]:
    """Write the original's `cfg`."""
    made: dict[str, Any] = {theirs: getattr(config, ours) for theirs, ours in _NAMES.items()}
    return {**made, **_FIXED, "finetuned_model": bool(config.num_classes), "predictor_class": config.num_classes}


def without_repeats(state: Mapping[str, Tensor], where: str) -> dict[str, Tensor]:
    """Drop the copies of the shared bias table.

    Raises:
        CheckpointError: a copy differs, so the layers do not share it.
    """
    first = _SHARED.format(i=0)
    kept = {}
    for name, value in state.items():
        if name.endswith(".relative_attention_bias.weight") and name != first:
            if first not in state or not torch.equal(value, state[first]):
                raise CheckpointError(f"{name} in {where} differs from {first}: this BEATs needs one shared table")
            continue
        kept[name] = value
    return kept


def load_official(model: Beats, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Fill a model with the original's weights, strictly."""
    return load_foreign(model, without_repeats(state, where), OFFICIAL, where)


def from_original(cfg: Mapping[str, Any], state: Mapping[str, Tensor], where: str) -> Beats:
    """Build the network that a checkpoint's `cfg` describes and fill it; padding counts as in the original."""
    model = Beats(replace(official_config(cfg), padding="published"))
    load_official(model, state, where)
    return model.eval()


def export_official(state: Mapping[str, Tensor], num_layers: int) -> dict[str, Tensor]:
    """Give our weights the original's names, the shared table repeated."""
    made = export(state, OFFICIAL)
    table = made[_SHARED.format(i=0)]
    return {**made, **{_SHARED.format(i=i): table.clone() for i in range(1, num_layers)}}


LAYOUTS = {"official": "a .pt file"}
MARKS = Marks(names=("patch_embedding.weight",))


def import_checkpoint(source: Path, output: Path) -> Coverage:
    """Convert a published file into a checkpoint folder of ours.

    Raises:
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        ConfigError: a network that is not built here.
    """
    content = read_sections(source)
    cfg, state = content.get("cfg"), content.get("model")
    if not isinstance(cfg, dict) or not isinstance(state, dict):
        raise CheckpointError(f"{source} is no BEATs checkpoint: it must hold 'cfg' and 'model'")
    labels = content.get("label_dict") or {}
    config = official_config(cfg, tuple(str(labels[i]) for i in sorted(labels)))
    model = Beats(config)
    coverage = load_official(model, {k: v.float() for k, v in state.items()}, str(source))
    provenance = {"converted_from": [source.name], "licence": "MIT (code); see the authors' page for the weights"}
    checkpoint.save(output, system="beats", config=config, state=model.state_dict(), provenance=provenance)
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: str = "official") -> None:
    """Write a checkpoint folder of ours as one file in the authors' layout.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "beats")
    config = from_dict(BeatsConfig, found.config, where=str(folder))
    state = export_official(checkpoint.load_state(folder), config.num_layers)
    content: dict[str, Any] = {"cfg": to_official_config(config), "model": state}
    if config.classes:
        content["label_dict"] = dict(enumerate(config.classes))
    with atomic_path(output) as temporary:
        torch.save(content, temporary)


_ITER3_PLUS = "BEATs_iter3_plus_AS2M_finetuned_on_AS2M_cpt2.pt"
PUBLISHED = (
    Published(
        name="beats-iter3-plus",
        system="beats",
        what="sounds to features and to 527 classes of AudioSet, 90 M parameters",
        licence="MIT",
        origin="Microsoft's, fine-tuned on AudioSet",
        convert=of_file(_ITER3_PLUS, import_checkpoint),
        by_hand=ByHand(
            place='the row "Iter3+ (AS2M)", "Fine-tuned (cpt2)", at https://github.com/microsoft/unilm/tree/master/beats',
            files=(_ITER3_PLUS,),
            num_bytes=361_000_000,
        ),
    ),
)
