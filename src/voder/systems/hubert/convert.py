"""Published encoders and cluster centres, and ours, both ways.

huggingface  folders with `config.json`, weights and, for the normalisation, `preprocessor_config.json`
fairseq      `.pt` files of HuBERT, wav2vec 2.0, data2vec and (Microsoft's) WavLM, whose pickled settings are not
             run: sizes are read off the weights, the family off the names
centres      joblib pickles of scikit-learn (`.bin`), read without running them, or `.npz`

`PUBLISHED` says what `voder fetch` brings, `sources` where it lies.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from voder import checkpoint
from voder.checkpoint import save_tensors
from voder.errors import CheckpointError, ConfigError
from voder.files import atomic_path, folder_written_atomically
from voder.interop import (
    WEIGHT_NORM,
    Coverage,
    Marks,
    RenameTable,
    Rule,
    export,
    load_foreign,
    read_folder,
    read_settings,
)
from voder.published import HubSource, Published
from voder.systems.hubert.config import Family, HeadConfig, HubertConfig, NetworkConfig
from voder.systems.hubert.kmeans import load_encoder, save_with_centers
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.network import network_arguments
from voder.systems.hubert.sources import ENCODERS, MHUBERT, MHUBERT_CENTRES, MHUBERT_LAYER
from voder.systems.hubert.unpickle import read_centers, read_fairseq

Layout = Literal["huggingface", "fairseq"]

_FAMILIES: dict[str, Family] = {
    "hubert": "hubert",
    "wav2vec2": "wav2vec2",
    "wavlm": "wavlm",
    "data2vec-audio": "data2vec",
    "wav2vec2-bert": "w2v_bert",
}
_PREFIXES = ("hubert.", "wav2vec2.", "wavlm.", "data2vec_audio.", "wav2vec2_bert.")
_OURS_ONLY = ("centers", "head.{rest...}")
_HF_HEADS = ("lm_head.{w}", "project_hid.{w}", "project_q.{w}", "quantizer.{w...}", "projector.{w}", "classifier.{w}")

HUGGINGFACE = RenameTable(
    Rule("{rest...}", "network.{rest...}"),
    spelling=WEIGHT_NORM,
    export_spelling=False,
    ignored=_HF_HEADS,
    ours_only=_OURS_ONLY,
)

_LAYER = (
    ("self_attn.grep_linear.{w}", "attention.gru_rel_pos_linear.{w}"),
    ("self_attn.grep_a", "attention.gru_rel_pos_const"),
    ("self_attn.relative_attention_bias.{w}", "attention.rel_attn_embed.{w}"),
    ("self_attn.{p}.{w}", "attention.{p}.{w}"),
    ("self_attn_layer_norm.{w}", "layer_norm.{w}"),
    ("fc1.{w}", "feed_forward.intermediate_dense.{w}"),
    ("fc2.{w}", "feed_forward.output_dense.{w}"),
    ("final_layer_norm.{w}", "final_layer_norm.{w}"),
)
_FAIRSEQ_HEADS = (
    Rule("final_proj.{w}", "head.final_proj.{w}"),
    Rule("label_embs_concat", "head.label_embs"),
    Rule("project_q.{w}", "head.project_q.{w}"),
    Rule("quantizer.vars", "head.vars"),
    Rule("quantizer.weight_proj.{w}", "head.weight_proj.{w}"),
)


def fairseq_table(config: HubertConfig) -> RenameTable:
    """fairseq's names of a network, and of its head where it is one of fairseq's."""
    convolution = "2.1" if config.network.conv_norm == "layer" else "2"
    position = Rule("encoder.pos_conv.0.{w...}", "network.encoder.pos_conv_embed.conv.{w...}")
    if config.family == "data2vec":
        position = Rule("encoder.pos_conv.{i}.0.{w}", "network.encoder.pos_conv_embed.layers.{i}.conv.{w}")
    has_head = config.head is not None and config.head.objective != "best_rq"
    return RenameTable(
        Rule("mask_emb", "network.masked_spec_embed"),
        Rule("feature_extractor.conv_layers.{i}.0.{w}", "network.feature_extractor.conv_layers.{i}.conv.{w}"),
        Rule(
            f"feature_extractor.conv_layers.{{i}}.{convolution}.{{w}}",
            "network.feature_extractor.conv_layers.{i}.layer_norm.{w}",
        ),
        Rule("post_extract_proj.{w}", "network.feature_projection.projection.{w}"),
        Rule("layer_norm.{w}", "network.feature_projection.layer_norm.{w}"),
        position,
        *(Rule(f"encoder.layers.{{i}}.{a}", f"network.encoder.layers.{{i}}.{b}") for a, b in _LAYER),
        Rule("encoder.layer_norm.{w}", "network.encoder.layer_norm.{w}"),
        *(_FAIRSEQ_HEADS if has_head else ()),
        spelling=WEIGHT_NORM,
        ignored=("_ema", "km.{rest...}")
        if has_head
        else (*(r.foreign for r in _FAIRSEQ_HEADS), "_ema", "km.{rest...}"),
        ours_only=("centers",) if has_head else _OURS_ONLY,
    )


def huggingface_config(args: Mapping[str, Any], family: Family, *, normalize: bool | None = None) -> HubertConfig:
    """Translate a transformers configuration; base models with group norm take raw audio unless told otherwise.

    Raises:
        ConfigError: a variant whose parts do not exist here.
    """
    if args.get("add_adapter") or args.get("adapter_attn_dim") or args.get("conv_pos_batch_norm"):
        raise ConfigError("adapters and a batch norm of positions are not supported; use the plain pre-trained model")
    positions = args.get("num_conv_pos_embeddings", 128)
    depth = 1
    if family == "data2vec":
        positions, depth = args.get("conv_pos_kernel_size", 19), args.get("num_conv_pos_embeddings", 5)
    norm: Literal["group", "layer"] = args.get("feat_extract_norm", "layer" if family == "data2vec" else "group")
    if family == "w2v_bert":
        return HubertConfig(family=family, network=_conformer(args), normalize=normalize is not False)
    network = NetworkConfig(
        dim=args.get("hidden_size", 768),
        num_layers=args.get("num_hidden_layers", 12),
        num_heads=args.get("num_attention_heads", 12),
        ffn_dim=args.get("intermediate_size", 3072),
        dropout=args.get("hidden_dropout", 0.1),
        layer_drop=args.get("layerdrop", 0.05),
        conv_channels=tuple(args.get("conv_dim", (512,) * 7)),
        conv_kernels=tuple(args.get("conv_kernel", (10, 3, 3, 3, 3, 2, 2))),
        conv_strides=tuple(args.get("conv_stride", (5, 2, 2, 2, 2, 2, 2))),
        conv_bias=args.get("conv_bias", False),
        conv_norm=norm,
        pre_norm=args.get("do_stable_layer_norm", False),
        position_kernel=positions,
        position_groups=args.get("num_conv_pos_embedding_groups", 16),
        position_depth=depth,
    )
    if family == "wavlm":
        buckets, distance = args.get("num_buckets", 320), args.get("max_bucket_distance", 800)
        network = replace(network, num_buckets=buckets, max_distance=distance)
    if normalize is None:
        normalize = norm == "layer"
    return HubertConfig(family=family, network=network, normalize=normalize)


def _conformer(args: Mapping[str, Any]) -> NetworkConfig:
    if args.get("position_embeddings_type", "relative_key") != "relative_key":
        raise ConfigError("only w2v-BERT with position_embeddings_type 'relative_key' (2.0) can be converted")
    return NetworkConfig(
        dim=args.get("hidden_size", 1024),
        num_layers=args.get("num_hidden_layers", 24),
        num_heads=args.get("num_attention_heads", 16),
        ffn_dim=args.get("intermediate_size", 4096),
        dropout=args.get("hidden_dropout", 0.1),
        layer_drop=args.get("layerdrop", 0.05),
        left_positions=args.get("left_max_position_embeddings", 64),
        right_positions=args.get("right_max_position_embeddings", 8),
        depthwise_kernel=args.get("conv_depthwise_kernel_size", 31),
    )


def to_huggingface_config(config: HubertConfig) -> dict[str, Any]:
    """Write a transformers configuration."""
    arguments = network_arguments(config)
    model_type = next(name for name, family in _FAMILIES.items() if family == config.family)
    return {"model_type": model_type, **arguments, "layerdrop": config.network.layer_drop}


def fairseq_config(state: Mapping[str, Tensor], *, num_heads: int | None = None) -> HubertConfig:
    """Read a network's sizes off its weights.

    Models with a group norm take raw audio and normalise after each part, the others want normalised audio and
    normalise before (data2vec: after): so all published ones are.

    Raises:
        CheckpointError: names of another network.
    """
    try:
        family, head = _fairseq_family(state)
        dim = len(state["post_extract_proj.weight"])
        convs = [
            state[f"feature_extractor.conv_layers.{i}.0.weight"].shape for i in range(_count(state, "conv_layers"))
        ]
        layered = "feature_extractor.conv_layers.0.2.1.weight" in state
        first = "encoder.pos_conv.0.0.weight" if family == "data2vec" else "encoder.pos_conv.0.weight_v"
        position = state[first].shape
        ffn_dim = len(state["encoder.layers.0.fc1.weight"])
    except KeyError as error:
        raise CheckpointError(f"these are no weights of fairseq's HuBERT family: {error} is missing") from error
    network = NetworkConfig(
        dim=dim,
        num_layers=_count(state, "encoder.layers"),
        num_heads=num_heads or {768: 12, 1024: 16, 1280: 16}.get(dim, max(1, dim // 64)),
        ffn_dim=ffn_dim,
        conv_channels=tuple(int(shape[0]) for shape in convs),
        conv_kernels=tuple(int(shape[2]) for shape in convs),
        conv_strides=(5, *(2,) * (len(convs) - 1)),
        conv_bias="feature_extractor.conv_layers.0.0.bias" in state,
        conv_norm="layer" if layered else "group",
        pre_norm=layered and family != "data2vec",
        position_kernel=int(position[2]),
        position_groups=dim // int(position[1]),
        position_depth=_count(state, "encoder.pos_conv") if family == "data2vec" else 1,
    )
    if family == "wavlm":
        network = replace(network, num_buckets=len(state["encoder.layers.0.self_attn.relative_attention_bias.weight"]))
    return HubertConfig(family=family, network=network, normalize=layered, head=head)


def _fairseq_family(state: Mapping[str, Tensor]) -> tuple[Family, HeadConfig | None]:
    if "encoder.layers.0.self_attn.grep_a" in state:
        return "wavlm", None
    if "encoder.pos_conv.0.0.weight" in state:
        return "data2vec", None
    if "quantizer.vars" in state:
        total, groups = len(state["quantizer.weight_proj.weight"]), 2
        label_dim = state["quantizer.vars"].shape[2] * groups
        if "final_proj.weight" in state and "project_q.weight" in state:
            return "wav2vec2", HeadConfig(objective="wav2vec2", num_labels=total // groups, label_dim=label_dim)
        return "wav2vec2", None
    if "label_embs_concat" in state and "final_proj.weight" in state:
        labels, label_dim = state["label_embs_concat"].shape
        if len(state["final_proj.weight"]) == label_dim:
            return "hubert", HeadConfig(objective="hubert", num_labels=labels, label_dim=label_dim)
    return "hubert", None


def _count(state: Mapping[str, Tensor], part: str) -> int:
    found = {name.split(f"{part}.")[1].split(".")[0] for name in state if f"{part}." in name}
    return len({number for number in found if number.isdigit()})


LAYOUTS = {"fairseq": "a file of weights", "huggingface": "a folder that transformers loads"}
MARKS = Marks(
    model_types=tuple(_FAMILIES),
    names=(
        "feature_extractor.conv_layers.0.0.weight",
        "w2v_encoder.w2v_model.feature_extractor.conv_layers.0.0.weight",
    ),
)


def import_checkpoint(
    source: Path, output: Path, *, units: Path | None = None, layer: int | None = None, num_heads: int | None = None
) -> Coverage:
    """Convert a published encoder into a checkpoint folder of ours.

    Args:
        source: a fairseq `.pt` file, or a Hugging Face folder.
        output: the folder to write.
        units: cluster centres to read units with, a `.bin` or `.npz`.
        layer: the layer that the centres were fitted on (mHuBERT km1000: 11).
        num_heads: attention heads of a fairseq model, where its width does not tell.

    Raises:
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        ConfigError: a variant whose parts do not exist here, or centres of another encoder.
    """
    if source.is_dir():
        config, state, table = *_read_huggingface(source), HUGGINGFACE
    else:
        state = read_fairseq(source)
        config = fairseq_config(state, num_heads=num_heads)
        table = fairseq_table(config)
    model = SpeechEncoder(config)
    coverage = load_foreign(model, state, table, str(source))
    provenance: dict[str, object] = {"imported": {"from": source.name, "licence": "as its source states"}}
    if units is None:
        checkpoint.save(output, system="hubert", config=config, state=model.state_dict(), provenance=provenance)
    else:
        provenance["units"] = {"from": units.name, "layer": layer}
        save_with_centers(model, config, read_centers(units), output, layer=layer, provenance=provenance)
    return coverage


def import_units(encoder: str | Path, centers: Path, output: Path, *, layer: int | None) -> None:
    """Give an encoder checkpoint of ours published cluster centres of one of its layers.

    Raises:
        CheckpointError: damaged centres, or a checkpoint of another system.
        ConfigError: centres of another width, or no such layer.
    """
    model, found, config = load_encoder(encoder)
    provenance = {**found.provenance, "units": {"from": centers.name, "layer": layer}}
    save_with_centers(model, config, read_centers(centers), output, layer=layer, provenance=provenance)


def export_checkpoint(folder: Path, output: Path, layout: Layout) -> list[str]:
    """Write a checkpoint of ours as a Hugging Face folder or a fairseq file; returns what has no place there (centres).

    Raises:
        CheckpointError: not a checkpoint of this system, or weights without a place.
        ConfigError: the layout has no such family.
    """
    model, _, config = load_encoder(folder)
    state = model.state_dict()
    if layout == "fairseq":
        if config.family == "w2v_bert":
            raise ConfigError("w2v-BERT 2.0 does not exist in fairseq's layout; export it as huggingface")
        table = fairseq_table(config)
        with atomic_path(output) as temporary:
            save_tensors(temporary, export(state, table))
    else:
        table = HUGGINGFACE
        with folder_written_atomically(output) as temporary:
            (temporary / "config.json").write_text(json.dumps(to_huggingface_config(config), indent=1))
            extractor = {"do_normalize": config.normalize, "sampling_rate": config.sample_rate_hz}
            (temporary / "preprocessor_config.json").write_text(json.dumps(extractor, indent=1))
            save_tensors(temporary / "model.safetensors", export(state, table))
    kept = {name for name in state if not table.is_ours_only(name)}
    return sorted(set(checkpoint.load_state(folder)) - kept)


def _read_huggingface(folder: Path) -> tuple[HubertConfig, dict[str, Tensor]]:
    content = read_settings(folder / "config.json")
    family = _FAMILIES.get(str(content.get("model_type")))
    if family is None:
        raise CheckpointError(
            f"{folder / 'config.json'} has model_type {content.get('model_type')!r}; allowed are {', '.join(_FAMILIES)}"
        )
    extractor = folder / "preprocessor_config.json"
    normalize = read_settings(extractor).get("do_normalize") if extractor.is_file() else None
    return huggingface_config(content, family, normalize=normalize), strip_prefix(read_folder(folder))


def strip_prefix(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Take off the name of the network that models with a head put before its weights."""
    prefix = next((p for p in _PREFIXES if any(name.startswith(p) for name in state)), "")
    return {name.removeprefix(prefix): value for name, value in state.items()}


def _import_with_units(file: str, layer: int) -> Callable[[Path, Path], Coverage]:
    def run(folder: Path, output: Path) -> Coverage:
        return import_checkpoint(folder, output, units=folder / file, layer=layer)

    return run


def _row(
    name: str,
    what: str,
    licence: str,
    weights: HubSource,
    convert: Callable[[Path, Path], Coverage] = import_checkpoint,
) -> Published:
    return Published(
        name=name,
        system="hubert",
        what=what,
        licence=licence,
        origin=f"as {weights.repository} has it",
        convert=convert,
        hub=(weights,),
    )


PUBLISHED = (
    *(_row(*found) for found in ENCODERS),
    _row(*MHUBERT, _import_with_units(MHUBERT_CENTRES, MHUBERT_LAYER)),
)
