"""A language model that speaks by its vocabulary (method A) as a plain Hugging Face folder.

There are no published weights. What leaves here is a causal language model with a grown vocabulary, LoRA merged, that
transformers (and what serves its models) loads unchanged; `voder.json` beside it says which ids are codes and marks.
"""

import copy
import json
from pathlib import Path
from typing import Any

import torch

from voder import hub
from voder.errors import ConfigError
from voder.files import write_text
from voder.nn.causal_lm import expand_vocabulary, save_plain
from voder.nn.lora import merge_lora
from voder.systems.llmtts.infer import LlmTtsSpeaker
from voder.systems.llmtts.model import LlmTts


@torch.no_grad()
def plain_language_model(model: LlmTts) -> Any:
    """A copy of the language model with LoRA merged and the new ids in its tables.

    Raises:
        ConfigError: the language model does not speak itself (methods B and C).
    """
    if model.config.method != "vocabulary":
        raise ConfigError(
            f"method {model.config.method} speaks through VALL-E's decoder; only a model of method vocabulary is a "
            "language model by itself"
        )
    reader = copy.deepcopy(model.reader)
    network = merge_lora(reader.network)
    assert reader.new_ids is not None
    first, last = reader.size, reader.size + reader.num_said
    expand_vocabulary(network, reader.size + reader.new_ids.num_embeddings)
    network.get_input_embeddings().weight[first:] = reader.new_ids.weight
    if reader.said is not None:
        head = network.get_output_embeddings()
        head.weight[first:last] = reader.said.weight
        if getattr(head, "bias", None) is not None:
            head.bias[first:] = 0
    return network.requires_grad_(True)


LAYOUTS = {"huggingface": "a folder that transformers loads, with codes as new ids and LoRA merged (method vocabulary)"}


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint's language model; returns the weights that have no place there: those of the other codebooks.

    Raises:
        ConfigError: another layout, or not a model of method A.
    """
    if layout not in LAYOUTS:
        raise ConfigError(f"{layout!r} is no layout of llmtts; choose {' or '.join(LAYOUTS)}")
    speaker = hub.load(folder)
    export_plain(speaker, output)
    return [name for name in speaker.model.state_dict() if name.startswith("nar.")]


def export_plain(speaker: LlmTtsSpeaker, folder: Path) -> None:
    """Write the folder.

    Raises:
        ConfigError: not a model of method A.
    """
    network = plain_language_model(speaker.model)
    save_plain(network, speaker.tokenizer, folder)
    ranges = {each.name: [each.start, each.size] for each in speaker.layout.ids.ranges}
    record = {"new_ids": ranges, "speakers": speaker.speakers, "codec": speaker.model.config.codec_identity}
    write_text(folder / "voder.json", json.dumps(record, indent=1) + "\n")
