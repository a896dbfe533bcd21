"""The published SpeechGPT checkpoints and ours, both ways.

huggingface  folders of a Llama with 33,002 ids (`fnlp/SpeechGPT-7B-ma`) or 33,006 (`fnlp/SpeechGPT-7B-cm`), with
             their tokenizer; code Apache-2.0, LLaMA-1's weights non-commercial
adapter      `fnlp/SpeechGPT-7B-com`: peft's `adapter_model.bin` (names without `.default`) over the second of them

The units are those of mHuBERT (layer 11, 1000 centres), which `hubert` imports; the vocoder is `unitvocoder`'s.
"""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError
from voder.generate.units import fitted_generator, load_reader, num_units
from voder.interop import Coverage, Marks, RenameTable, Rule, rename
from voder.nn.causal_lm import read_plain
from voder.nn.grown_lm import save_grown, trained_state, wrong_ids
from voder.nn.lora import LoraSizes
from voder.published import Published, hub_source
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.text.subwords import read_unchanged, tokenizer_files
from voder.train.base_lm import TOKENIZER, tokenizer_of

LAYOUTS = {"huggingface": "a folder that transformers loads, units and markers in its tokenizer; LoRA is merged"}
MARKS = Marks(files=("adapter_config.json+adapter_model.bin",))
"""The folders look like any Llama's, so they must be named (`--system speechgpt`)."""
ADAPTER = RenameTable(
    Rule("base_model.{path...}.lora_A.weight", "base_model.{path...}.lora_A.default.weight"),
    Rule("base_model.{path...}.lora_B.weight", "base_model.{path...}.lora_B.default.weight"),
)
"""Names in a peft adapter file, and in the model that peft builds."""


def vocabulary_of(size: int, num_units: int = 1000) -> tuple[int, bool]:
    """Own ids of the language model and whether the markers are there, from the size of a grown vocabulary.

    Raises:
        CheckpointError: neither 33,002 nor 33,006 for Llama's 32,000.
    """
    sizes = {SpeechGptVocabulary(32_000, num_units, markers=markers).size: markers for markers in (False, True)}
    if size not in sizes:
        first, second = sizes
        raise CheckpointError(
            f"the vocabulary has {size} ids; SpeechGPT over Llama has {first} after its first stage and {second} after "
            "its second"
        )
    return 32_000, sizes[size]


def import_checkpoint(
    source: Path,
    output: Path,
    *,
    units: Path | None = None,
    vocoder: Path | None = None,
    base: Path | None = None,
) -> Coverage:
    """Convert a published folder; `units` is our checkpoint of the unit tokenizer, `vocoder` of the vocoder.

    With `base`, our checkpoint of the second stage, the source is the published adapter over it.

    Raises:
        ConfigError: neither units nor base are named.
        CheckpointError: damaged, of another size, or with weights that have no place.
        FittedPartMismatch: the tokenizer makes another number of units.
    """
    if base is not None:
        return import_adapter(source, base, output)
    if units is None:
        raise ConfigError("name our checkpoint of its unit tokenizer (units=FOLDER), or for an adapter base=FOLDER")
    network, found = read_plain(source)
    count = num_units(load_reader(units))
    text_size, markers = vocabulary_of(found.vocabulary_size, count)
    if wrong := wrong_ids(SpeechGptVocabulary(text_size, count, markers=markers), source):
        raise CheckpointError(f"the tokenizer of {source} has other ids than SpeechGPT: {', '.join(wrong[:5])}")
    folder = checkpoint.resolve(hub.locate(units))
    parts, identity = {"units": folder}, checkpoint.identity(folder)
    if vocoder is not None:
        parts["vocoder"] = fitted_generator(vocoder, identity, "vocoder")
    state = trained_state(network)
    config = SpeechGptConfig(
        lm=replace(found, vocabulary_size=text_size), num_units=count, units_identity=identity, markers=markers
    )
    provenance = {"converted_from": [source.name]}
    with tokenizer_files(read_unchanged(source, text_size)) as (words, name):
        parts[TOKENIZER], config = words, replace(config, tokenizer=name)
        checkpoint.save(output, system="speechgpt", config=config, state=state, parts=parts, provenance=provenance)
    return Coverage(state=state)


def adapter_state(weights: Mapping[str, Tensor], network: nn.Module, where: str) -> Coverage:
    """Names of an adapter file as those of a network with LoRA; every LoRA weight must be there, and nothing else.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    own = {name: value for name, value in network.state_dict().items() if ".lora_" in name}
    coverage = rename(weights, own, ADAPTER)
    if not coverage.is_complete:
        raise CheckpointError(f"the adapter in {where} does not fit this model: {coverage.summary()}")
    return coverage


def import_adapter(source: Path, base: Path, output: Path, *, sizes: LoraSizes | None = None) -> Coverage:
    """Put a published adapter (its folder or file) over our checkpoint of the second stage.

    `sizes` are read from `adapter_config.json` where it lies beside the file.

    Raises:
        CheckpointError: damaged, or the two do not fit.
    """
    from voder.interop import read_state
    from voder.systems.speechgpt.train import SpeechGptTask

    file = next(
        (source / name for name in ("adapter_model.safetensors", "adapter_model.bin") if (source / name).is_file()),
        source,
    )
    found = checkpoint.read_of(hub.locate(base), "speechgpt")
    start = from_dict(SpeechGptConfig, found.config, where=str(found.folder))
    config = replace(start, lora=sizes or _adapter_sizes(file.with_name("adapter_config.json")))
    state = SpeechGptTask.adapt_state(checkpoint.load_state(found.folder), start, config)
    with torch.device("meta"):
        network = SpeechGpt(config).network
    coverage = adapter_state(read_state(file), network, str(file))
    state |= {f"network.{name}": value for name, value in coverage.state.items()}
    provenance = {"converted_from": [file.name, str(found.folder.name)]}
    checkpoint.save(output, system="speechgpt", config=config, state=state, parts=found.parts, provenance=provenance)
    return coverage


def _adapter_sizes(file: Path) -> LoraSizes:
    if not file.is_file():
        return LoraSizes(rank=8, alpha=16, dropout=0.05)
    said = json.loads(file.read_text(encoding="utf-8"))
    return LoraSizes(rank=said["r"], alpha=said["lora_alpha"], dropout=said.get("lora_dropout", 0.0))


def export_checkpoint(folder: Path, output: Path, layout: str = "huggingface") -> list[str]:
    """Write a checkpoint as a plain Hugging Face folder, units and markers in its tokenizer; LoRA is merged.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "speechgpt")
    model = SpeechGpt(from_dict(SpeechGptConfig, found.config, where=str(folder)))
    checkpoint.load_into(model, checkpoint.load_state(found.folder), found.folder)
    save_grown(model, tokenizer_of(model.config.tokenizer, found.parts, found.folder), output)
    return ["holds_trained"]


def _row(stage: str, what: str, files: Mapping[str, int], needs: Mapping[str, str]) -> Published:
    repository = f"fnlp/SpeechGPT-7B-{stage}"
    return Published(
        name=f"speechgpt-7b-{stage}",
        system="speechgpt",
        what=what,
        licence="not stated, code Apache-2.0, LLaMA's",
        origin=f"the authors', as {repository} has it",
        convert=import_checkpoint,
        hub=(hub_source(repository, "main", files),),
        needs=needs,
    )


_FOLDER = {
    "config.json": 507,
    "pytorch_model.bin": 27_000_000_000,
    "tokenizer.model": 500_000,
    "added_tokens.json": 18_000,
}
_SPEECH = {"units": "mhubert-km1000", "vocoder": "mhubert-vocoder-lj"}
PUBLISHED = (
    _row("ma", "goes on with speech as units: the first stage, 7 B parameters", _FOLDER, _SPEECH),
    _row("cm", "transcribes and speaks on request: the second stage, 7 B parameters", _FOLDER, _SPEECH),
    _row(
        "com",
        "answers spoken questions by way of text: the third stage, an adapter",
        {"adapter_config.json": 406, "adapter_model.bin": 16_800_000},
        {"base": "speechgpt-7b-cm"},
    ),
)
