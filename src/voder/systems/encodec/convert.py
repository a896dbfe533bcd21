"""Published EnCodec checkpoints and ours, both ways.

official     bare state dicts `encodec_{24khz,48khz}-*.th` and `encodec_lm_{24khz,48khz}-*.th`, from
             dl.fbaipublicfiles.com/encodec/v0
huggingface  folders with `config.json` and `model.safetensors`: facebook/encodec_24khz,
facebook/encodec_48khz

The eight hexadecimal digits in an official file's name begin its sha256; `import_checkpoint` compares them.
The code is MIT. For the weights no licence is stated there; the Hub says MIT of the 48 kHz ones. `PUBLISHED` says what
`voder fetch` brings.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError
from voder.files import folder_written_atomically
from voder.interop import WEIGHT_NORM, Coverage, Marks, RenameTable, Rule, export, load_foreign, read_state, write_state
from voder.nn.quantize.rvq import RVQConfig
from voder.nn.seanet import SEANetConfig
from voder.published import Published
from voder.systems.encodec.config import PRESETS, EncodecConfig
from voder.systems.encodec.lm import EntropyLMConfig
from voder.systems.encodec.model import EncodecCodec
from voder.systems.encodec.sources import CODECS

Layout = Literal["official", "huggingface"]
LAYOUTS = {"official": "a .th or .safetensors file", "huggingface": "a folder that transformers loads"}
MARKS = Marks(model_types=("encodec",), names=("encoder.model.0.conv.conv.",))


OFFICIAL_FILES = {
    "encodec_24khz-d7cc33bc.th": "24khz",
    "encodec_48khz-7e698e3e.th": "48khz",
    "encodec_lm_24khz-1608e3c0.th": "24khz",
    "encodec_lm_48khz-7add9fc3.th": "48khz",
}
"""Names of the authors' files, each with the preset that it is of."""

CODEBOOK_STATE = (("embed", "vectors"), ("embed_avg", "sums"), ("cluster_size", "counts"), ("inited", "initialised"))
_TRAINING_ONLY = ("quantizer.steps",)

_SEANET = (
    Rule("{side}.model.{i}.conv.conv.{w...}", "{side}.layers.{i}.conv.{w...}"),
    Rule("{side}.model.{i}.conv.norm.{w}", "{side}.layers.{i}.norm.{w}"),
    Rule("{side}.model.{i}.block.{j}.conv.conv.{w...}", "{side}.layers.{i}.block.{j}.conv.{w...}"),
    Rule("{side}.model.{i}.block.{j}.conv.norm.{w}", "{side}.layers.{i}.block.{j}.norm.{w}"),
    Rule("{side}.model.{i}.shortcut.conv.conv.{w...}", "{side}.layers.{i}.shortcut.conv.{w...}"),
    Rule("{side}.model.{i}.shortcut.conv.norm.{w}", "{side}.layers.{i}.shortcut.norm.{w}"),
    Rule("{side}.model.{i}.lstm.{w}", "{side}.layers.{i}.lstm.{w}"),
)
HUGGINGFACE = RenameTable(
    *(
        Rule(f"quantizer.layers.{{q}}.codebook.{theirs}", f"quantizer.codebooks.{{q}}.{ours}")
        for theirs, ours in CODEBOOK_STATE
    ),
    Rule("{side}.layers.{rest...}", "{side}.layers.{rest...}"),
    spelling=WEIGHT_NORM,
    export_spelling=False,
    ours_only=_TRAINING_ONLY,
)
OFFICIAL_LM = RenameTable(
    Rule("emb.{k}.weight", "embeddings.{k}.weight"),
    Rule("linears.{k}.{w}", "heads.{k}.{w}"),
    Rule("transformer.norm_in.{w}", "norm_in.{w}"),
    Rule("transformer.layers.{i}.self_attn.in_proj_weight", "layers.{i}.in_proj.weight"),
    Rule("transformer.layers.{i}.self_attn.in_proj_bias", "layers.{i}.in_proj.bias"),
    Rule("transformer.layers.{i}.self_attn.out_proj.{w}", "layers.{i}.out_proj.{w}"),
    Rule("transformer.layers.{i}.{w...}", "layers.{i}.{w...}"),
)
DISCRIMINATOR = RenameTable(
    Rule("discriminators.{i}.convs.{j}.conv.{w...}", "scales.{i}.layers.{j}.{w...}"),
    Rule("discriminators.{i}.conv_post.conv.{w...}", "scales.{i}.last.{w...}"),
    spelling=WEIGHT_NORM,
    ignored=("discriminators.{i}.spec_transform.window",),
)


def official_table(net: SEANetConfig) -> RenameTable:
    """The official names of a codec: transposed convolutions have names of their own there, so places
    count."""
    first, period = (3 if net.num_lstm_layers else 2), 2 + net.num_residual_layers
    transposed = [
        Rule(f"decoder.model.{i}.convtr.{theirs}.{{w...}}", f"decoder.layers.{i}.{ours}.{{w...}}")
        for i in range(first, first + period * len(net.ratios), period)
        for theirs, ours in (("convtr", "conv"), ("norm", "norm"))
    ]
    codebooks = [
        Rule(f"quantizer.vq.layers.{{q}}._codebook.{theirs}", f"quantizer.codebooks.{{q}}.{ours}")
        for theirs, ours in CODEBOOK_STATE
    ]
    return RenameTable(*transposed, *_SEANET, *codebooks, spelling=WEIGHT_NORM, ours_only=_TRAINING_ONLY)


def seanet_config(args: Mapping[str, Any]) -> SEANetConfig:
    """Translate the constructor arguments of the original SEANetEncoder and SEANetDecoder."""
    names = {
        "dimension": "dim",
        "n_filters": "num_filters",
        "n_residual_layers": "num_residual_layers",
        "kernel_size": "kernel",
        "last_kernel_size": "last_kernel",
        "residual_kernel_size": "residual_kernel",
        "lstm": "num_lstm_layers",
        "disable_norm_outer_blocks": "unnormed_outer_blocks",
        "trim_right_ratio": "trim_right",
    }
    same = ("channels", "ratios", "dilation_base", "compress", "norm", "causal", "pad_mode", "true_skip")
    known = {**names, **{name: name for name in same}}
    values = {known[name]: value for name, value in args.items() if name in known}
    return from_dict(SEANetConfig, values, where="the arguments of SEANet")


def official_config(args: Mapping[str, Any]) -> EncodecConfig:
    """Translate the arguments that make an official EncodecModel."""
    seanet = seanet_config(args)
    return EncodecConfig(
        sample_rate_hz=args["sample_rate"],
        seanet=seanet,
        rvq=RVQConfig(num_codebooks=args["n_q"], codebook_size=args["bins"], dim=seanet.dim),
        bandwidths_kbps=tuple(float(b) for b in args.get("target_bandwidths", ())),
        normalize=args.get("normalize", False),
        segment_s=args.get("segment"),
        overlap=args.get("overlap", 0.01),
        lm=lm_config(args["lm"]) if args.get("lm") else None,
    )


def official_codebooks(config: EncodecConfig, bandwidth_kbps: float) -> int:
    """Codebooks that the original uses at a bit rate: all of them where the rate asks for more, or for none."""
    wanted = bandwidth_kbps * 1000 / (math.log2(config.codebook_size) * config.frames_per_second)
    return config.num_codebooks if bandwidth_kbps <= 0 else min(config.num_codebooks, max(1, math.floor(wanted)))


def lm_config(args: Mapping[str, Any]) -> EntropyLMConfig:
    """Translate the arguments of the official LMModel."""
    return EntropyLMConfig(
        num_codebooks=args["n_q"],
        codebook_size=args["card"],
        dim=args["dim"],
        num_layers=args.get("num_layers", 5),
        num_heads=args.get("num_heads", 8),
        past_frames=args.get("past_context", 1000),
    )


def huggingface_config(config: Mapping[str, Any], num_codebooks: int) -> EncodecConfig:
    """Translate a Hugging Face EncodecConfig; the number of codebooks is counted in the weights."""
    hidden, books = config.get("hidden_size", 128), config.get("codebook_dim")
    if books not in (None, hidden):
        raise ConfigError(f"codebook_dim is {books} but hidden_size is {hidden}; only equal ones can be converted")
    seanet = SEANetConfig(
        channels=config.get("audio_channels", 1),
        dim=hidden,
        num_filters=config.get("num_filters", 32),
        num_residual_layers=config.get("num_residual_layers", 1),
        ratios=tuple(config.get("upsampling_ratios", (8, 5, 4, 2))),
        kernel=config.get("kernel_size", 7),
        last_kernel=config.get("last_kernel_size", 7),
        residual_kernel=config.get("residual_kernel_size", 3),
        dilation_base=config.get("dilation_growth_rate", 2),
        compress=config.get("compress", 2),
        num_lstm_layers=config.get("num_lstm_layers", 2),
        norm=config.get("norm_type", "weight_norm"),
        causal=config.get("use_causal_conv", True),
        pad_mode=config.get("pad_mode", "reflect"),
        true_skip=not config.get("use_conv_shortcut", True),
        trim_right=config.get("trim_right_ratio", 1.0),
    )
    return EncodecConfig(
        sample_rate_hz=config.get("sampling_rate", 24_000),
        seanet=seanet,
        rvq=RVQConfig(num_codebooks=num_codebooks, codebook_size=config.get("codebook_size", 1024), dim=hidden),
        bandwidths_kbps=tuple(float(b) for b in config.get("target_bandwidths", (1.5, 3.0, 6.0, 12.0, 24.0))),
        normalize=config.get("normalize", False),
        segment_s=config.get("chunk_length_s"),
        overlap=config.get("overlap") or 0.01,
    )


def to_huggingface_config(config: EncodecConfig) -> dict[str, Any]:
    """Write a Hugging Face `config.json`.

    Raises:
        ConfigError: the model has parts that the Hugging Face class does not know.
    """
    net = config.seanet
    if config.quantizer != "rvq" or net.unnormed_outer_blocks or net.norm == "none":
        raise ConfigError("only models with rvq and a norm on every layer exist in the Hugging Face layout")
    return {
        "model_type": "encodec",
        "architectures": ["EncodecModel"],
        "target_bandwidths": _reaching_all_codebooks(config),
        "sampling_rate": config.sample_rate_hz,
        "audio_channels": net.channels,
        "normalize": config.normalize,
        "chunk_length_s": config.segment_s,
        "overlap": config.overlap if config.segment_s else None,
        "hidden_size": net.dim,
        "num_filters": net.num_filters,
        "num_residual_layers": net.num_residual_layers,
        "upsampling_ratios": list(net.ratios),
        "norm_type": net.norm,
        "kernel_size": net.kernel,
        "last_kernel_size": net.last_kernel,
        "residual_kernel_size": net.residual_kernel,
        "dilation_growth_rate": net.dilation_base,
        "use_causal_conv": net.causal,
        "pad_mode": net.pad_mode,
        "compress": net.compress,
        "num_lstm_layers": net.num_lstm_layers,
        "trim_right_ratio": net.trim_right,
        "codebook_size": config.codebook_size,
        "codebook_dim": net.dim,
        "use_conv_shortcut": not net.true_skip,
    }


def _reaching_all_codebooks(config: EncodecConfig) -> list[float]:
    """Bit rates whose last one needs every codebook: Hugging Face counts the codebooks by it."""
    per_codebook = (config.codebook_size - 1).bit_length() * config.frames_per_second
    full = (config.num_codebooks * per_codebook + 0.5) / 1000
    rates = list(config.bandwidths_kbps)
    reached = int(1000 * rates[-1] // per_codebook) if rates else 0
    return rates if reached == config.num_codebooks else [*rates, full]


def import_checkpoint(source: Path, output: Path, *, lm: Path | None = None, preset: str | None = None) -> Coverage:
    """Convert a published checkpoint into a checkpoint folder of ours.

    Args:
        source: an official `.th` file, or a Hugging Face folder.
        output: the folder to write.
        lm: the official file of the language model, to be kept with the codec.
        preset: which model an official file holds (`24khz`, `48khz`); told from its channels if not given.

    Raises:
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        ConfigError: the configuration cannot be converted.
    """
    if source.is_dir():
        config, state = _read_huggingface(source)
        table = HUGGINGFACE
    else:
        _check_digest(source)
        state = read_state(source)
        config = PRESETS[preset or _preset_of(state, source)]().model
        table = official_table(config.seanet)
    if lm is not None:
        _check_digest(lm)
        config = replace(config, lm=_published_lm(config))
    codec = EncodecCodec(config)
    language_model, codec.lm = codec.lm, None
    coverage = load_foreign(codec, state, table, str(source))
    codec.lm = language_model
    if lm is not None and language_model is not None:
        load_foreign(language_model, read_state(lm), OFFICIAL_LM, str(lm))
    provenance = {"converted_from": [source.name, *([lm.name] if lm else [])], "licence": _licence_of(source)}
    checkpoint.save(output, system="encodec", config=config, state=codec.state_dict(), provenance=provenance)
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: Layout) -> list[str]:
    """Write a checkpoint folder of ours in the authors' layout (a file) or Hugging Face's (a folder).

    Returns what had no place there, such as the language model. `output` is a `.th` or `.safetensors` file
    for the official layout, beside which a language model becomes NAME_lm.SUFFIX.

    Raises:
        CheckpointError: not a checkpoint of this system, or weights without a place.
        ConfigError: the layout has no such model.
    """
    found = checkpoint.read(folder)
    if found.system != "encodec":
        raise CheckpointError(f"{folder} is a {found.system}; an encodec is wanted here")
    config = from_dict(EncodecConfig, found.config, where=str(folder))
    state = checkpoint.load_state(folder)
    codec = {name: value for name, value in state.items() if not name.startswith("lm.")}
    language_model = {name.removeprefix("lm."): v for name, v in state.items() if name.startswith("lm.")}
    if config.quantizer != "rvq":
        raise ConfigError(f"the {layout} layout has no quantizer of kind {config.quantizer}; only rvq can be exported")
    if layout == "official":
        table = official_table(config.seanet)
        write_state(output, export(codec, table))
        if language_model:
            beside = output.with_name(f"{output.stem}_lm{output.suffix}")
            write_state(beside, export(language_model, OFFICIAL_LM))
        return sorted(name for name in codec if table.is_ours_only(name))
    _write_huggingface(output, config, export(codec, HUGGINGFACE))
    return sorted(name for name in state if HUGGINGFACE.is_ours_only(name) or name.startswith("lm."))


def _read_huggingface(folder: Path) -> tuple[EncodecConfig, dict[str, Tensor]]:
    try:
        content = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{folder / 'config.json'} is not readable ({error})") from error
    if not isinstance(content, dict) or content.get("model_type") != "encodec":
        raise CheckpointError(f"{folder} holds no EnCodec model: model_type in its config.json must be 'encodec'")
    weights = folder / "model.safetensors"
    state = read_state(weights if weights.is_file() else folder / "pytorch_model.bin")
    count = sum(name.endswith(".codebook.embed") for name in state)
    return huggingface_config(content, count), state


def _write_huggingface(folder: Path, config: EncodecConfig, state: Mapping[str, Tensor]) -> None:
    net = config.seanet
    extractor = {
        "feature_extractor_type": "EncodecFeatureExtractor",
        "feature_size": net.channels,
        "sampling_rate": config.sample_rate_hz,
        "chunk_length_s": config.segment_s,
        "overlap": config.overlap if config.segment_s else None,
        "padding_side": "right",
        "padding_value": 0.0,
        "return_attention_mask": True,
    }
    with folder_written_atomically(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(to_huggingface_config(config), indent=1))
        (temporary / "preprocessor_config.json").write_text(json.dumps(extractor, indent=1))
        write_state(temporary / "model.safetensors", state)


def _check_digest(file: Path) -> None:
    """Published files carry the beginning of their sha256 in their name."""
    if file.name not in OFFICIAL_FILES or not file.is_file():
        return
    begins = file.stem.rpartition("-")[2]
    digest = hashlib.sha256(file.read_bytes()).hexdigest()
    if not digest.startswith(begins):
        raise CheckpointError(f"{file} is damaged: its sha256 begins {digest[:8]}, not {begins}")


def _preset_of(state: Mapping[str, Tensor], file: Path) -> str:
    """Told from the file's name if it is a published one, else from the channels of the first layer."""
    if file.name in OFFICIAL_FILES:
        return OFFICIAL_FILES[file.name]
    first = next((v for k, v in state.items() if re.fullmatch(r"encoder\.model\.0\.conv\.conv\.weight(_v)?", k)), None)
    if first is None or first.ndim != 3:
        raise CheckpointError(f"{file} holds no official EnCodec codec: it has no encoder.model.0.conv.conv")
    return "48khz" if first.shape[1] == 2 else "24khz"


def _published_lm(config: EncodecConfig) -> EntropyLMConfig:
    """3.5 s of past, whatever the frame rate."""
    past = int(3.5 * config.frames_per_second)
    return EntropyLMConfig(num_codebooks=config.num_codebooks, codebook_size=config.codebook_size, past_frames=past)


def _licence_of(source: Path) -> str:
    return "not stated, code MIT" if source.name in OFFICIAL_FILES else "as its source states"


PUBLISHED = tuple(
    Published(
        name=name,
        system="encodec",
        what=what,
        licence=licence,
        origin=f"Meta's, as {weights.repository} has it (without the language model of codes)",
        convert=import_checkpoint,
        hub=(weights,),
    )
    for name, what, licence, weights in CODECS
)
