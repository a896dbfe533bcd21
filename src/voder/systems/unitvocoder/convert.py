"""Published unit vocoders and ours.

fairseq      `{"generator": …}` files with a `config.json` beside them (CodeHiFiGAN)
seamless     Hugging Face's SeamlessM4TCodeHifiGan: languages and speakers
speecht5     Hugging Face's SpeechT5HifiGan: mel frames in
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from voder import checkpoint
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError
from voder.files import atomic_path
from voder.interop import (
    WEIGHT_NORM,
    Coverage,
    Marks,
    RenameTable,
    Rule,
    export,
    load_foreign,
    read_folder,
    read_sections,
    read_settings,
)
from voder.published import ByHand, HubFile, HubSource, Published, of_file
from voder.systems.unitvocoder.config import DurationConfig, HifiGanConfig, VocoderConfig
from voder.systems.unitvocoder.model import UnitVocoder

Layout = Literal["fairseq", "seamless", "speecht5"]


def _generator(prefix: str, up: str) -> tuple[Rule, ...]:
    names = (
        ("conv_pre.{w...}", "first.{w...}"),
        (up + ".{i}.{w...}", "upsamplers.{i}.{w...}"),
        ("resblocks.{i}.convs1.{j}.{w...}", "blocks.{i}.dilated.{j}.{w...}"),
        ("resblocks.{i}.convs2.{j}.{w...}", "blocks.{i}.plain.{j}.{w...}"),
        ("conv_post.{w...}", "last.{w...}"),
    )
    return tuple(Rule(prefix + theirs, f"generator.{ours}") for theirs, ours in names)


_PREDICTOR = (
    Rule("dur_predictor.ln1.{w}", "durations.norm1.{w}"),
    Rule("dur_predictor.ln2.{w}", "durations.norm2.{w}"),
    Rule("dur_predictor.proj.{w}", "durations.project.{w}"),
)
TABLES: dict[Layout, RenameTable] = {
    "fairseq": RenameTable(
        *_generator("", "ups"),
        Rule("dict.weight", "units.weight"),
        Rule("spkr.weight", "speakers.weight"),
        Rule("dur_predictor.conv1.0.{w}", "durations.conv1.{w}"),
        Rule("dur_predictor.conv2.0.{w}", "durations.conv2.{w}"),
        *_PREDICTOR,
        spelling=WEIGHT_NORM,
    ),
    "seamless": RenameTable(
        *_generator("hifi_gan.", "upsampler"),
        Rule("unit_embedding.weight", "units.weight"),
        Rule("speaker_embedding.weight", "speakers.weight"),
        Rule("language_embedding.weight", "languages.weight"),
        Rule("dur_predictor.conv1.{w}", "durations.conv1.{w}"),
        Rule("dur_predictor.conv2.{w}", "durations.conv2.{w}"),
        *_PREDICTOR,
        spelling=WEIGHT_NORM,
    ),
    "speecht5": RenameTable(
        *_generator("", "upsampler"), Rule("mean", "mean"), Rule("scale", "scale"), spelling=WEIGHT_NORM
    ),
}


def _hifigan(args: Mapping[str, Any], *, weight_norm: bool) -> HifiGanConfig:
    dilations = {tuple(row) for row in args["resblock_dilation_sizes"]}
    if len(dilations) != 1 or str(args.get("resblock", "1")) != "1":
        raise ConfigError("only residual blocks of type 1 with equal dilations can be converted")
    return HifiGanConfig(
        initial_channels=args["upsample_initial_channel"],
        upsample_rates=tuple(args["upsample_rates"]),
        upsample_kernels=tuple(args["upsample_kernel_sizes"]),
        block_kernels=tuple(args["resblock_kernel_sizes"]),
        block_dilations=next(iter(dilations)),
        slope=args.get("leaky_relu_slope", 0.1),
        weight_norm=weight_norm,
    )


def fairseq_config(args: Mapping[str, Any]) -> VocoderConfig:
    """Translate the `config.json` of a CodeHiFiGAN.

    Raises:
        ConfigError: a variant with pitch, or blocks of another type.
    """
    if args.get("f0") or args.get("f0_quantizer_path"):
        raise ConfigError("vocoders that are given pitch cannot be converted; use one of units alone")
    predictor = args.get("dur_predictor_params")
    durations = None
    if predictor:
        durations = DurationConfig(
            hidden_dim=predictor["var_pred_hidden_dim"],
            kernel=predictor["var_pred_kernel_size"],
            dropout=predictor["var_pred_dropout"],
        )
    config = VocoderConfig(
        sample_rate_hz=args.get("sampling_rate", 16_000),
        num_units=args["num_embeddings"],
        unit_dim=args["embedding_dim"],
        generator=_hifigan(args, weight_norm=True),
        durations=durations,
    )
    if args.get("multispkr"):
        return replace(config, num_speakers=args.get("num_speakers", 200), speaker_dim=args["embedding_dim"])
    return config


def seamless_config(args: Mapping[str, Any]) -> VocoderConfig:
    """Translate the vocoder's part of a SeamlessM4T configuration."""
    dim = args["unit_embed_dim"]
    return VocoderConfig(
        sample_rate_hz=args.get("sampling_rate", 16_000),
        num_units=args["unit_hifi_gan_vocab_size"],
        unit_dim=dim,
        num_speakers=args["vocoder_num_spkrs"],
        speaker_dim=args["spkr_embed_dim"],
        num_languages=args["vocoder_num_langs"],
        language_dim=args["lang_embed_dim"],
        generator=_hifigan(args, weight_norm=False),
        durations=DurationConfig(
            hidden_dim=dim, kernel=args["variance_predictor_kernel_size"], dropout=args["var_pred_dropout"]
        ),
    )


def speecht5_config(args: Mapping[str, Any]) -> VocoderConfig:
    """Translate a SpeechT5HifiGan configuration."""
    return VocoderConfig(
        source="mel",
        sample_rate_hz=args.get("sampling_rate", 16_000),
        mel_bands=args["model_in_dim"],
        normalize_mel=args.get("normalize_before", True),
        generator=_hifigan(args, weight_norm=False),
        durations=None,
    )


LAYOUTS = {"fairseq": "a generator file"}
MARKS = Marks(
    model_types=("hifigan", "code_hifigan", "seamless_m4t", "seamless_m4t_v2"),
    names=("dict.weight", "conv_pre.weight_v"),
)


def import_checkpoint(source: Path, output: Path, *, settings: Path | None = None) -> Coverage:
    """Convert a published vocoder into a checkpoint folder of ours.

    Args:
        source: fairseq's generator file, or a Hugging Face folder.
        output: the folder to write.
        settings: fairseq's `config.json`; the one beside the file if not given.

    Raises:
        CheckpointError: damaged, of another model, or with names that have no place; all are named.
        ConfigError: a variant that does not exist here.
    """
    folder = source if source.is_dir() else source.parent
    args = read_settings(settings or folder / "config.json")
    try:
        if not source.is_dir():
            layout, config, state = "fairseq", fairseq_config(args), _read_generator(source)
        elif args.get("model_type") == "hifigan":
            layout, config, state = "speecht5", speecht5_config(args), read_folder(source)
        else:
            layout, config = "seamless", seamless_config(args)
            state = {n.removeprefix("vocoder."): v for n, v in read_folder(source).items()}
    except KeyError as error:
        raise CheckpointError(f"the settings of {source} have no {error}; they are of another model") from error
    model = UnitVocoder(config)
    table: RenameTable = TABLES[layout]  # type: ignore[index]
    coverage = load_foreign(model, state, table, str(source))
    provenance = {"imported": {"from": source.name, "licence": "as its source states"}}
    checkpoint.save(output, system="unitvocoder", config=config, state=model.state_dict(), provenance=provenance)
    return coverage


def export_checkpoint(folder: Path, output: Path, layout: str = "fairseq") -> list[str]:
    """Write a checkpoint folder of ours as fairseq's generator file.

    Raises:
        CheckpointError: not a checkpoint of this system, or weights without a place there.
    """
    found = checkpoint.read(folder)
    if found.system != "unitvocoder":
        raise CheckpointError(f"{folder} is a {found.system}; a unitvocoder is wanted here")
    model = UnitVocoder(from_dict(VocoderConfig, found.config, where=str(folder)))
    checkpoint.load_into(model, checkpoint.load_state(folder), folder)
    export_generator(model, output)
    return []


def export_generator(model: UnitVocoder, output: Path) -> None:
    """Write a vocoder of units as fairseq's `{"generator": …}` file.

    Raises:
        CheckpointError: weights without a place there (languages, mel statistics).
    """
    state = export(model.state_dict(), TABLES["fairseq"])
    with atomic_path(output) as temporary:
        torch.save({"generator": {name: value.detach().cpu().clone() for name, value in state.items()}}, temporary)


def _read_generator(file: Path) -> dict[str, Tensor]:
    content = read_sections(file)
    state = content.get("generator", content)
    if not isinstance(state, Mapping) or not all(isinstance(value, Tensor) for value in state.values()):
        raise CheckpointError(f"{file} must hold a table of weights called 'generator'")
    return {str(name): value.float() for name, value in state.items()}


_PLACE = "fairseq/speech_to_speech/vocoder/code_hifigan/mhubert_vp_en_es_fr_it3_400k_layer11_km1000_lj"
PUBLISHED = (
    Published(
        name="mhubert-vocoder-lj",
        system="unitvocoder",
        what="units of mhubert-km1000 to speech in one voice, with durations",
        licence="MIT (fairseq) or CC-BY-NC-4.0 (Hub)",
        origin="Meta's unit vocoder of LJSpeech, which SpeechGPT speaks with",
        convert=of_file("g_00500000", import_checkpoint),
        by_hand=ByHand(
            place=f"https://dl.fbaipublicfiles.com/{_PLACE}/",
            files=("g_00500000", "config.json"),
            num_bytes=54_000_000,
        ),
    ),
    Published(
        name="speecht5-hifigan",
        system="unitvocoder",
        what="log-mels to speech",
        licence="MIT",
        origin="Microsoft's vocoder of SpeechT5",
        convert=import_checkpoint,
        hub=(
            HubSource(
                repository="microsoft/speecht5_hifigan",
                revision="bb6f429406e86a9992357a972c0698b22043307d",
                files=(
                    HubFile("config.json", 636),
                    HubFile(
                        "pytorch_model.bin",
                        50_672_453,
                        "b171e9bcd8a2b50dc9780040478dfa26783a9ee4be012cf5776914f091d6887b",
                    ),
                ),
            ),
        ),
    ),
)
