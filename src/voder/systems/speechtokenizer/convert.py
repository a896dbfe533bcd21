"""The published SpeechTokenizer checkpoints and ours, both ways.

official     a bare state dict (`SpeechTokenizer.pt`, AnyGPT's `ckpt.dev`) with a `config.json` beside it, from the
             Hugging Face repositories fnlp/SpeechTokenizer (`speechtokenizer_hubert_avg`) and
             fnlp/AnyGPT-speech-modules (`speechtokenizer`). The code is Apache-2.0; of the weights nothing is said.
"""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError
from voder.files import write_text
from voder.interop import WEIGHT_NORM, Coverage, Marks, RenameTable, Rule, export, load_foreign, read_state, write_state
from voder.nn.quantize.rvq import RVQConfig
from voder.published import HubSource, Published, hub_source, of_file
from voder.systems.speechtokenizer.config import SpeechTokenizerConfig
from voder.systems.speechtokenizer.model import SpeechTokenizerCodec

LAYOUTS = {"official": "a .pt or .safetensors file, its config.json beside it"}
MARKS = Marks(names=("transform.weight",))

_CODEBOOK = (("embed", "vectors"), ("embed_avg", "sums"), ("cluster_size", "counts"), ("inited", "initialised"))
_ACTIVATIONS = {"ELU": "elu", "Snake": "snake"}


def table(config: SpeechTokenizerConfig) -> RenameTable:
    """The official names: transposed convolutions have names of their own there, so places count."""
    first, period = (3 if config.num_lstm_layers else 2), 2 + config.num_residual_layers
    places = range(first, first + period * len(config.ratios), period)
    return RenameTable(
        *(Rule(f"decoder.model.{i}.convtr.convtr.{{w...}}", f"decoder.layers.{i}.conv.{{w...}}") for i in places),
        Rule("{side}.model.{i}.conv.conv.{w...}", "{side}.layers.{i}.conv.{w...}"),
        Rule("{side}.model.{i}.block.{j}.conv.conv.{w...}", "{side}.layers.{i}.block.{j}.conv.{w...}"),
        Rule("{side}.model.{i}.shortcut.conv.conv.{w...}", "{side}.layers.{i}.shortcut.conv.{w...}"),
        Rule("{side}.model.{i}.lstm.{w}", "{side}.layers.{i}.lstm.{w}"),
        Rule("{side}.model.{i}.block.{j}.alpha", "{side}.layers.{i}.block.{j}.alpha"),
        Rule("{side}.model.{i}.alpha", "{side}.layers.{i}.alpha"),
        Rule("transform.{w}", "transform.{w}"),
        *(
            Rule(f"quantizer.vq.layers.{{q}}._codebook.{theirs}", f"quantizer.codebooks.{{q}}.{ours}")
            for theirs, ours in _CODEBOOK
        ),
        spelling=WEIGHT_NORM,
        ours_only=("quantizer.steps",),
    )


def official_config(args: Mapping[str, Any]) -> SpeechTokenizerConfig:
    """Translate the original's `config.json`.

    Raises:
        ConfigError: it asks for something that this network does not have.
    """
    activation = args.get("activation", "ELU")
    if activation not in _ACTIVATIONS:
        raise ConfigError(f"activation is {activation!r}; allowed are {', '.join(_ACTIVATIONS)}")
    return SpeechTokenizerConfig(
        sample_rate_hz=args.get("sample_rate", 16_000),
        num_filters=args.get("n_filters", 32),
        ratios=tuple(args.get("strides", (8, 5, 4, 2))),
        num_residual_layers=args.get("n_residual_layers", 1),
        residual_kernel=args.get("residual_kernel_size", 3),
        dilation_base=args.get("dilation_base", 2),
        num_lstm_layers=args.get("lstm_layers", 2),
        bidirectional=args.get("bidirectional", False),
        activation="elu" if activation == "ELU" else "snake",
        rvq=RVQConfig(
            num_codebooks=args.get("n_q", 8), codebook_size=args.get("codebook_size", 1024), dim=args["dimension"]
        ),
        semantic_width=args.get("semantic_dimension", 768),
    )


def to_official_config(config: SpeechTokenizerConfig) -> dict[str, Any]:
    """Write the original's `config.json`."""
    names = {ours: theirs for theirs, ours in _ACTIVATIONS.items()}
    return {
        "sample_rate": config.sample_rate_hz,
        "n_filters": config.num_filters,
        "strides": list(config.ratios),
        "n_residual_layers": config.num_residual_layers,
        "residual_kernel_size": config.residual_kernel,
        "dilation_base": config.dilation_base,
        "lstm_layers": config.num_lstm_layers,
        "bidirectional": config.bidirectional,
        "activation": names[config.activation],
        "n_q": config.rvq.num_codebooks,
        "codebook_size": config.rvq.codebook_size,
        "dimension": config.rvq.dim,
        "semantic_dimension": config.semantic_width,
    }


def import_checkpoint(source: Path, output: Path, *, config: Path | None = None) -> Coverage:
    """Convert an official weight file, with the `config.json` beside it unless another is named.

    Raises:
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        ConfigError: the configuration cannot be converted.
    """
    settings = config or source.with_name("config.json")
    try:
        args = json.loads(settings.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{settings} is not readable ({error}); it says what model {source} is") from error
    if not isinstance(args, dict) or "dimension" not in args:
        raise CheckpointError(f"{settings} is not of a SpeechTokenizer: it has no dimension")
    ours = official_config(args)
    codec = SpeechTokenizerCodec(ours)
    coverage = load_foreign(codec, read_state(source), table(ours), str(source))
    provenance = {"converted_from": [source.name], "licence": "not stated, code Apache-2.0"}
    checkpoint.save(output, system="speechtokenizer", config=ours, state=codec.state_dict(), provenance=provenance)
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: str = "official") -> list[str]:
    """Write a checkpoint of ours as an official file (`.pt` or `.safetensors`), `config.json` beside it.

    Returns what has no place there.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "speechtokenizer")
    config = from_dict(SpeechTokenizerConfig, found.config, where=str(folder))
    names, state = table(config), checkpoint.load_state(folder)
    write_state(output, export(state, names))
    write_text(output.with_name("config.json"), json.dumps(to_official_config(config), indent=1) + "\n")
    return sorted(name for name in state if names.is_ours_only(name))


def _row(name: str, what: str, file: str, weights: HubSource) -> Published:
    return Published(
        name=name,
        system="speechtokenizer",
        what=what,
        licence="not stated, code Apache-2.0",
        origin=f"the authors', as {weights.repository} has it",
        convert=of_file(file, import_checkpoint),
        hub=(weights,),
    )


PUBLISHED = (
    _row(
        "speechtokenizer-hubert",
        "codec of speech at 16 kHz whose first codebook has the words (LibriSpeech)",
        "speechtokenizer_hubert_avg/SpeechTokenizer.pt",
        hub_source(
            "fnlp/SpeechTokenizer",
            "793c3ac97eeb36463bdbb5e1d5e5e9a6b16cc656",
            {
                "speechtokenizer_hubert_avg/config.json": 906,
                "speechtokenizer_hubert_avg/SpeechTokenizer.pt": 482_000_000,
            },
        ),
    ),
    _row(
        "speechtokenizer-snake",
        "the same with Snake activations, AnyGPT's (LibriSpeech and Common Voice)",
        "speechtokenizer/ckpt.dev",
        hub_source(
            "fnlp/AnyGPT-speech-modules",
            "3db6555dc490d08dbf3da66349404f0fd39d5e6c",
            {"speechtokenizer/config.json": 1_000, "speechtokenizer/ckpt.dev": 482_000_000},
        ),
    ),
)
