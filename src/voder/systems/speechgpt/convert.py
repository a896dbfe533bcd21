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
from typing import Any

import torch
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.config import from_dict
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch
from voder.interop import Coverage, Marks, RenameTable, Rule, rename
from voder.nn.causal_lm import LoraSizes, merge_lora, read_plain, save_plain
from voder.published import Published, hub_source
from voder.roles import Codec, UnitTokenizer
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary, grown_size
from voder.text.subwords import fingerprint, read_tokenizer, read_without_additions
from voder.train.base_lm import TOKENIZER, tokenizer_of
from voder.train.lm_rows import grown_tokenizer

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
    for markers in (False, True):
        if size == grown_size(32_000, num_units, markers=markers):
            return 32_000, markers
    raise CheckpointError(
        f"the vocabulary has {size} ids; SpeechGPT over Llama has {grown_size(32_000, num_units, markers=False)} after "
        f"its first stage and {grown_size(32_000, num_units, markers=True)} after its second"
    )


def check_added_tokens(folder: Path, vocabulary: SpeechGptVocabulary) -> None:
    """Raise CheckpointError where the folder's `added_tokens.json` says other ids than ours."""
    file = folder / "added_tokens.json"
    if not file.is_file():
        return
    said = json.loads(file.read_text(encoding="utf-8"))
    ours = {token: vocabulary.text_size + number for number, token in enumerate(vocabulary.tokens)}
    wrong = [f"{token} {said[token]} instead of {id_}" for token, id_ in ours.items() if said.get(token, id_) != id_]
    if wrong:
        raise CheckpointError(f"{file} has other ids than SpeechGPT: {', '.join(wrong[:5])}")


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
    reader = hub.load(units)
    if not isinstance(reader, Codec | UnitTokenizer):
        raise CheckpointError(f"{units} makes no units; a hubert with cluster centres or a codec is wanted here")
    count = reader.num_units if isinstance(reader, UnitTokenizer) else reader.codebook_size
    text_size, markers = vocabulary_of(found.vocabulary_size, count)
    folder = checkpoint.resolve(hub.locate(units))
    tokenizer = read_without_additions(source)
    check_added_tokens(source, SpeechGptVocabulary(text_size, count, markers=markers))
    parts = {"units": folder} | ({"vocoder": checkpoint.resolve(hub.locate(vocoder))} if vocoder else {})
    _check_vocoder(parts, checkpoint.identity(folder))
    state = {f"network.{name}": value for name, value in network.state_dict().items()}
    state["holds_trained"] = torch.ones((), dtype=torch.bool)
    config = SpeechGptConfig(
        lm=replace(found, vocabulary_size=text_size),
        num_units=count,
        units_identity=checkpoint.identity(folder),
        markers=markers,
    )
    save(output, config, state, tokenizer, parts, {"converted_from": [source.name]})
    return Coverage(state=state)


def _check_vocoder(parts: Mapping[str, Path], units_identity: str) -> None:
    if "vocoder" not in parts:
        return
    fitted = checkpoint.read(parts["vocoder"]).config.get("tokenizer")
    if fitted is not None and fitted != units_identity:
        raise FittedPartMismatch(f"{parts['vocoder']} reads units of tokenizer {fitted}, not of {units_identity}")


def save(
    output: Path,
    config: SpeechGptConfig,
    state: Mapping[str, Tensor],
    tokenizer: Any,
    parts: Mapping[str, Path],
    provenance: Mapping[str, Any],
) -> None:
    """Write a checkpoint with the text tokenizer among its parts."""
    import tempfile

    with tempfile.TemporaryDirectory(prefix="voder-tokenizer-") as place:
        tokenizer.save_pretrained(place)
        named = replace(config, tokenizer=fingerprint(read_tokenizer(Path(place))))
        checkpoint.save(
            output,
            system="speechgpt",
            config=named,
            state=dict(state),
            parts={**parts, TOKENIZER: Path(place)},
            provenance=dict(provenance),
        )


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
    found = checkpoint.read(hub.locate(base))
    if found.system != "speechgpt":
        raise CheckpointError(f"{base} is a {found.system}; a speechgpt is wanted here")
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
        CheckpointError: not a checkpoint of this system, or an unknown layout.
    """
    if layout not in LAYOUTS:
        raise CheckpointError(f"speechgpt has no layout {layout!r}; there are {', '.join(LAYOUTS)}")
    found = checkpoint.read(folder)
    if found.system != "speechgpt":
        raise CheckpointError(f"{folder} is a {found.system}; a speechgpt is wanted here")
    config = from_dict(SpeechGptConfig, found.config, where=str(folder))
    model = SpeechGpt(config)
    checkpoint.load_into(model, checkpoint.load_state(found.folder), found.folder)
    tokenizer = tokenizer_of(config.tokenizer, found.parts, found.folder)
    network = model.network if config.lora is None else merge_lora(model.network)
    save_plain(network, grown_tokenizer(tokenizer, model.vocabulary.text_size, model.vocabulary.tokens), output)
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
