"""Checkpoints of lifeiteng/vall-e (VALL-E, VALL-F) and of Plachtaa/VALL-E-X, to and from `original.OriginalValle`.

lifeiteng   Apache-2.0 code; no official weights. Training checkpoints hold the network under `model`.
vall-e-x    `vallex-checkpoint.pt` (Hugging Face: Plachta/VALL-E-X, 1.5 GB, MIT), key `model`; text of 2048 phoneme BPE
            ids, three languages, a begin token, prefix mode 1.

Sizes are told from the weights; heads and prefix mode cannot be, and are those published unless given. A converted
checkpoint holds the codec whose codes it speaks as a part; without one it can be exported, not heard.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError, TextError
from voder.files import atomic_path
from voder.hub import find, locate
from voder.interop import Coverage, Marks, RenameTable, Rule, export, load_foreign, read_sections
from voder.published import Published, hub_source, of_file
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_layers import OriginalConfig, PrefixMode
from voder.systems.valle.original_speaker import read_symbols

MARKS = Marks(names=("ar_text_embedding.word_embeddings.weight",))
LAYOUTS = {"lifeiteng": "a .pt file, which VALL-E-X reads too"}

_BLOCK = "{side}_decoder.layers.{i}."
_OURS = "{side}_stack.layers.{i}."
LIFEITENG = RenameTable(
    Rule("{side}_text_embedding.word_embeddings.weight", "{side}_text.ids.weight"),
    Rule("{side}_language_embedding.word_embeddings.weight", "{side}_text.languages.weight"),
    Rule("{side}_text_prenet.{w...}", "{side}_text.prenet.{w...}"),
    Rule("{side}_text_position.alpha", "{side}_text.position.alpha"),
    Rule("ar_audio_embedding.word_embeddings.weight", "ar_audio.tables.0.weight"),
    Rule("nar_audio_embeddings.{j}.word_embeddings.weight", "nar_audio.tables.{j}.weight"),
    Rule("{side}_audio_prenet.{w...}", "{side}_audio.prenet.{w...}"),
    Rule("{side}_audio_position.alpha", "{side}_audio.position.alpha"),
    Rule(_BLOCK + "self_attn.in_proj_{w}", _OURS + "attention.in_projection.{w}"),
    Rule(_BLOCK + "self_attn.out_proj.{w}", _OURS + "attention.out_projection.{w}"),
    Rule(_BLOCK + "multihead_attn.in_proj_{w}", _OURS + "cross.in_projection.{w}"),
    Rule(_BLOCK + "multihead_attn.out_proj.{w}", _OURS + "cross.out_projection.{w}"),
    Rule(_BLOCK + "linear1.{w}", _OURS + "ffn_in.{w}"),
    Rule(_BLOCK + "linear2.{w}", _OURS + "ffn_out.{w}"),
    Rule(_BLOCK + "{norm}.project_layer.{w}", _OURS + "{norm}.projection.{w}"),
    Rule(_BLOCK + "{norm}.norm.{w}", _OURS + "{norm}.norm.{w}"),
    Rule(_BLOCK + "{norm}.{w}", _OURS + "{norm}.{w}"),
    Rule("{side}_decoder.norm.project_layer.{w}", "{side}_stack.norm.projection.{w}"),
    Rule("{side}_decoder.norm.norm.{w}", "{side}_stack.norm.norm.{w}"),
    Rule("{side}_decoder.norm.{w}", "{side}_stack.norm.{w}"),
    Rule("ar_predict_layer.weight", "ar_head.weight"),
    Rule("nar_predict_layers.{j}.weight", "nar_heads.{j}.weight"),
    Rule("nar_stage_embeddings.{j}.word_embeddings.weight", "nar_stages.{j}.weight"),
)


def with_shared_heads(state: Mapping[str, Tensor], config: OriginalConfig, where: str) -> dict[str, Tensor]:
    """Put in the output layers that a file may leave out because they are code tables.

    Raises:
        CheckpointError: an output layer differs from the table that it should be.
    """
    full = dict(state)
    for j in range(config.num_codebooks - 2 if config.share_embedding else 0):
        head, table = f"nar_predict_layers.{j}.weight", f"nar_audio_embeddings.{j + 2}.word_embeddings.weight"
        if head in full and table in full and not torch.equal(full[head], full[table]):
            raise CheckpointError(
                f"{head} in {where} is not {table}: these weights were trained with share_embedding=false"
            )
        if table in full:
            full.setdefault(head, full[table])
    return full


def load_original(model: OriginalValle, state: Mapping[str, Tensor], where: str) -> Coverage:
    """Fill a model strictly."""
    return load_foreign(model, with_shared_heads(state, model.config, where), LIFEITENG, where)


def config_of(state: Mapping[str, Tensor], where: str) -> OriginalConfig:
    """Tell the sizes and switches from the weights.

    Raises:
        CheckpointError: no VALL-E of this layout.
    """
    try:
        text = state["ar_text_embedding.word_embeddings.weight"]
        audio = state["ar_audio_embedding.word_embeddings.weight"]
        outputs = state["ar_predict_layer.weight"].shape[0]
    except KeyError as error:
        raise CheckpointError(f"{where} holds no VALL-E in lifeiteng's layout: {error.args[0]} is missing") from error
    num_books = max(1, sum(name.startswith("nar_audio_embeddings.") for name in state))
    languages = state.get("ar_language_embedding.word_embeddings.weight")
    heads = [state.get(f"nar_predict_layers.{j}.weight") for j in range(num_books - 2)]
    tables = [state.get(f"nar_audio_embeddings.{j + 2}.word_embeddings.weight") for j in range(num_books - 2)]
    pairs = zip(heads, tables, strict=True)
    return OriginalConfig(
        width=text.shape[1],
        num_layers=sum(n.startswith("ar_decoder.layers.") and n.endswith(".linear1.weight") for n in state),
        num_heads=max(1, text.shape[1] // 64),
        cross_attention=any(".multihead_attn." in name for name in state),
        norm_first="ar_decoder.norm.weight" in state,
        prenet=any(name.startswith("ar_text_prenet.") for name in state),
        share_embedding=all(h is None or (t is not None and torch.equal(h, t)) for h, t in pairs),
        prepend_bos=audio.shape[0] == outputs + 1,
        num_codebooks=num_books,
        codebook_size=outputs - 1,
        num_text_ids=text.shape[0],
        num_languages=0 if languages is None else languages.shape[0],
    )


def read_original(
    file: Path, *, num_heads: int | None = None, prefix_mode: int | None = None
) -> tuple[OriginalValle, Coverage]:
    """Read a checkpoint of either project; nothing runs from it.

    Args:
        file: the checkpoint, with the network under `model` or alone.
        num_heads: 64 channels per head if not given, as published.
        prefix_mode: 1 if not given, as both recommend.

    Raises:
        CheckpointError: damaged, of another layout, or with names that have no place; all are named.
    """
    content = read_sections(file)
    section = content.get("model", content)
    if not isinstance(section, dict):
        raise CheckpointError(f"{file} must hold the network under 'model' or alone, not a {type(section).__name__}")
    state = {str(k): v.float() for k, v in section.items() if isinstance(v, Tensor)}
    config = config_of(state, str(file))
    if num_heads is not None:
        config = replace(config, num_heads=num_heads)
    if prefix_mode is not None:
        if prefix_mode not in (0, 1, 2, 4):
            raise CheckpointError(f"prefix_mode is {prefix_mode}; allowed are 0, 1, 2 and 4")
        config = replace(config, prefix_mode=cast(PrefixMode, prefix_mode))
    model = OriginalValle(config)
    coverage = load_original(model, state, str(file))
    return model.eval(), coverage


def import_checkpoint(
    source: Path,
    output: Path,
    *,
    codec: Path | None = None,
    symbols: Path | None = None,
    num_heads: int | None = None,
    prefix_mode: int | None = None,
) -> Coverage:
    """Convert a checkpoint of either project into a checkpoint folder of ours.

    Args:
        source: the checkpoint, with the network under `model` or alone.
        output: the folder to write.
        codec: a checkpoint of ours of the codec whose codes it speaks (EnCodec at 24 kHz), kept inside.
        symbols: the table of phonemes it was trained with (`unique_text_tokens.k2symbols`); without it, ids are said.
        num_heads: 64 channels per head if not given.
        prefix_mode: 1 if not given.

    Raises:
        CheckpointError: damaged, of another layout, or a codec of other codes.
        TextError: the table of symbols is none, or has more symbols than the network ids.
    """
    model, coverage = read_original(source, num_heads=num_heads, prefix_mode=prefix_mode)
    original, table = model.config, _symbols(symbols, model.config.num_text_ids)
    parts, known = ({}, ValleConfig()) if codec is None else _codec(codec, original)
    config = replace(
        known,
        original=original,
        symbols=table,
        num_codebooks=original.num_codebooks,
        codebook_size=original.codebook_size,
    )
    provenance = {"converted_from": [source.name], "licence": "as its source states"}
    checkpoint.save(output, system="valle", config=config, state=model.state_dict(), parts=parts, provenance=provenance)
    return coverage


def _symbols(file: Path | None, num_text_ids: int) -> tuple[str, ...]:
    if file is None:
        return ()
    try:
        table = read_symbols(file.read_text(encoding="utf-8").splitlines())
    except (OSError, UnicodeDecodeError, TextError) as error:
        raise TextError(f"{file} is no table of symbols ({error})") from error
    if len(table) > num_text_ids:
        raise TextError(f"{file} has {len(table)} symbols, but the network reads {num_text_ids} ids: it is another's")
    return table


def _codec(name: Path, original: OriginalConfig) -> tuple[dict[str, Path], ValleConfig]:
    """The codec as a part, and what the configuration says of it."""
    found = checkpoint.read(locate(name))
    system = find(found.system)
    if "Codec" not in system.roles:
        raise CheckpointError(f"{name} is a {found.system}; a codec is wanted here")
    with torch.device("meta"):
        codec: Any = system.build(from_dict(system.model_config, found.config, where=str(found.folder)))
    if codec.num_codebooks < original.num_codebooks or codec.codebook_size != original.codebook_size:
        raise CheckpointError(
            f"{name} has {codec.num_codebooks} codebooks of {codec.codebook_size}, but the network speaks "
            f"{original.num_codebooks} of {original.codebook_size}; give the codec that it was trained on"
        )
    known = ValleConfig(codec_identity=checkpoint.identity(found.folder), frame_rate_hz=codec.frame_rate_hz)
    return {"codec": found.folder}, known


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a converted checkpoint as its authors' code reads it.

    Raises:
        CheckpointError: not a checkpoint of this system.
        ConfigError: it holds our own network, which no other code reads.
    """
    found = checkpoint.read(folder)
    if found.system != "valle":
        raise CheckpointError(f"{folder} is a {found.system}; a valle is wanted here")
    config = from_dict(ValleConfig, found.config, where=str(folder))
    if config.original is None:
        raise ConfigError(f"{folder} holds voder's own network, which the layout {layout} has no place for")
    model = OriginalValle(config.original)
    checkpoint.load_into(model, checkpoint.load_state(found.folder), found.folder)
    write_original(model, output)
    return []


def write_original(model: OriginalValle, file: Path) -> None:
    """Write a model in lifeiteng's layout, under `model`."""
    state = {name: value.detach().cpu().clone() for name, value in export(model.state_dict(), LIFEITENG).items()}
    with atomic_path(file) as temporary:
        torch.save({"model": state}, temporary)


_VALLE_X = "vallex-checkpoint.pt"
PUBLISHED = (
    Published(
        name="vall-e-x",
        system="valle",
        what="ids of phonemes in English, Chinese or Japanese to speech in a prompt's voice",
        licence="MIT",
        origin="Plachta's, after Microsoft's VALL-E X, without its tables of phonemes",
        convert=of_file(_VALLE_X, import_checkpoint),
        hub=(hub_source("Plachta/VALL-E-X", "d7240d71278df7b8ab9960f5b91107de15a2d016", {_VALLE_X: 1_480_000_000}),),
        needs={"codec": "encodec-24khz"},
    ),
)
