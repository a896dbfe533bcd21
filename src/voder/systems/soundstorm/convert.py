"""The published SoundStorm checkpoint and ours, both ways.

official     a bare state dict (`soundstorm/speechtokenizer_soundstorm_mls.pt`) from the Hugging Face repository
             fnlp/AnyGPT-speech-modules, over the SpeechTokenizer that lies beside it.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch import Tensor

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch
from voder.interop import Coverage, Marks, RenameTable, Rule, export, load_foreign, read_state, rules, write_state
from voder.published import Published, hub_source, of_file
from voder.roles import Codec
from voder.systems.soundstorm.config import SoundStormConfig
from voder.systems.soundstorm.model import SoundStorm

LAYOUTS = {"official": "a .pt file"}
MARKS = Marks(names=("net.code_embeds.weight",))

_BLOCK = {
    "ff1.fn.fn.net.0": "first.inward",
    "ff1.fn.fn.net.3": "first.outward",
    "ff1.fn.norm": "first.norm",
    "ff2.fn.fn.net.0": "second.inward",
    "ff2.fn.fn.net.3": "second.outward",
    "ff2.fn.norm": "second.norm",
    "attn.fn.to_q": "attention.query",
    "attn.fn.to_kv": "attention.key_value",
    "attn.fn.to_out": "attention.out",
    "attn.norm": "attention.norm",
    "conv.net1.0": "conv.norm",
    "conv.net1.2": "conv.inward",
    "conv.ds_conv.conv": "conv.depthwise",
    "conv.net2.2": "conv.outward",
    "post_norm": "norm",
}
_AROUND = {
    "net.code_embeds": "codes",
    "net.heads.0": "heads.project",
    "net.to_logits.0": "heads.norm",
    "net.to_logits.2": "heads",
    "semantic_token_emb": "semantic",
}
TABLE = RenameTable(
    *rules("net.conformer.layers.{i}.", "blocks.{i}.", _BLOCK),
    Rule("net.conformer.layers.{i}.conv.net2.1.gamma", "blocks.{i}.conv.channel_norm.gain"),
    *rules("", "", _AROUND),
    ignored=("net.conformer.rotary_emb.inv_freq", "net.quantizer_offsets", "net.mask_tokens"),
)


def official_config(args: Mapping[str, Any]) -> SoundStormConfig:
    """Translate the original's sizes (`dim`, `depth`, `heads`, `dim_head`, `codebook`, `q`, `sem`)."""
    return SoundStormConfig(
        width=args["dim"],
        num_layers=args["depth"],
        num_heads=args["heads"],
        head_width=args["dim_head"],
        codebook_size=args["codebook"],
        num_levels=args["q"],
        num_semantic=args["sem"],
    )


def config_of(state: Mapping[str, Tensor], head_width: int = 128) -> SoundStormConfig:
    """Read the sizes off the weights; only the width of a head cannot be seen there.

    Raises:
        CheckpointError: they are of something else.
    """
    try:
        levels, width, codes = state["net.to_logits.2.weight"].shape
        inner = state["net.conformer.layers.0.attn.fn.to_q.weight"].shape[0]
        hidden = state["net.conformer.layers.0.ff1.fn.fn.net.0.weight"].shape[0]
        convolved, _, kernel = state["net.conformer.layers.0.conv.ds_conv.conv.weight"].shape
        semantic = state["semantic_token_emb.weight"].shape[0]
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"these are no weights of SoundStorm over SpeechTokenizer: {error}") from error
    layers = {name.split(".")[3] for name in state if name.startswith("net.conformer.layers.")}
    return SoundStormConfig(
        width=width,
        num_layers=len(layers),
        num_heads=inner // head_width,
        head_width=head_width,
        ffn_expansion=hidden // width,
        conv_expansion=convolved // width,
        kernel=kernel,
        num_semantic=semantic,
        codebook_size=codes,
        num_levels=levels,
    )


def import_checkpoint(source: Path, output: Path, *, codec: Path | None = None, head_width: int = 128) -> Coverage:
    """Convert the official weight file; `codec` is our checkpoint of the SpeechTokenizer that lies beside it.

    Raises:
        ConfigError: no codec was named.
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        FittedPartMismatch: the codec has other codebooks than these weights fill.
    """
    if codec is None:
        raise ConfigError("a soundstorm speaks through its codec: name our checkpoint of it (codec=FOLDER)")
    state = read_state(source)
    part: Codec = hub.load_codec(codec)
    folder = checkpoint.resolve(hub.locate(codec))
    config = replace(config_of(state, head_width), codec_identity=checkpoint.identity(folder))
    fits = (part.num_codebooks, part.codebook_size) == (config.num_levels + 1, config.codebook_size)
    if not fits or part.codebook_size != config.num_semantic:
        raise FittedPartMismatch(
            f"{source} fills {config.num_levels} levels of {config.codebook_size} codes behind {config.num_semantic}, "
            f"but {codec} has {part.num_codebooks} codebooks of {part.codebook_size}"
        )
    model = SoundStorm(config)
    coverage = load_foreign(model, state, TABLE, str(source))
    provenance = {"converted_from": [source.name]}
    checkpoint.save(
        output,
        system="soundstorm",
        config=config,
        state=model.state_dict(),
        parts={"codec": folder},
        provenance=provenance,
    )
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: str = "official") -> list[str]:
    """Write a checkpoint of ours as an official file; returns what has no place there, which is nothing.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "soundstorm")
    write_state(output, export(checkpoint.load_state(found.folder), TABLE))
    return []


_WEIGHTS = "soundstorm/speechtokenizer_soundstorm_mls.pt"
PUBLISHED = (
    Published(
        name="soundstorm-mls",
        system="soundstorm",
        what="the first codes of speechtokenizer-snake to all of them, 351 M parameters",
        licence="not stated, code Apache-2.0",
        origin="AnyGPT's, trained on Multilingual LibriSpeech",
        convert=of_file(_WEIGHTS, import_checkpoint),
        hub=(hub_source("fnlp/AnyGPT-speech-modules", "main", {_WEIGHTS: 1_406_000_000}),),
        needs={"codec": "speechtokenizer-snake"},
    ),
)
