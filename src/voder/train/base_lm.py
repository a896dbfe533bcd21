"""A language model that another system is built over, frozen: a checkpoint of `lm`, taken along as the part `lm`.

A setting names it (`task.lm=smollm2-135m-instruct`). The system takes its sizes and its tokenizer, loads its weights,
and its checkpoints hold them by hard link (`Task.parts`, `Task.borrowed`), so that what is trained is small on disk.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from torch import nn

from voder import checkpoint, hub
from voder.config import from_dict
from voder.errors import CheckpointError, FittedPartMismatch
from voder.nn.causal_lm import CausalLmConfig
from voder.text.subwords import BYTES as BYTES
from voder.text.subwords import NUM_BYTE_IDS, byte_tokenizer, fingerprint, read_tokenizer

PART, TOKENIZER = "lm", "tokenizer"
"""What the language model, and a tokenizer alone, are called among the parts of a checkpoint."""
_THEIRS = "network."
TINY = CausalLmConfig(
    vocabulary_size=NUM_BYTE_IDS,
    width=16,
    ffn_width=32,
    num_layers=2,
    num_heads=2,
    num_kv_heads=1,
    max_positions=512,
    tie_embeddings=True,
    pad_id=0,
)
"""Sizes of `lm/tiny`, which reads bytes, for tests."""
SMOLLM2_135M = CausalLmConfig(
    vocabulary_size=49_152,
    width=576,
    ffn_width=1536,
    num_layers=30,
    num_heads=9,
    num_kv_heads=3,
    max_positions=8192,
    norm_epsilon=1e-5,
    rope_theta=100_000.0,
    tie_embeddings=True,
    bos_id=1,
    eos_id=2,
    pad_id=2,
)
"""Sizes of `smollm2-135m-instruct`, for presets over it."""


@dataclass(frozen=True, kw_only=True)
class BaseLm:
    """A language model on disk."""

    folder: Path
    """Its checkpoint."""
    config: CausalLmConfig
    """Its sizes."""
    tokenizer: Any
    """What it reads."""
    tokenizer_name: str
    """`bytes`, or the tokenizer's fingerprint."""

    def load_into(self, network: nn.Module, names: Mapping[str, str]) -> None:
        """Fill a network; `names` gives for each weight of the base that of the network (`borrowed_names`)."""
        state = checkpoint.load_state(self.folder)
        own = network.state_dict()
        checkpoint.load_into(
            network, own | {ours: state[_THEIRS + theirs] for ours, theirs in names.items()}, self.folder
        )


def find_base_lm(name: str) -> BaseLm:
    """The language model that a setting names: a checkpoint or run folder, or a name that `voder fetch` knows.

    Raises:
        CheckpointError: nothing is there, another system is, or it has LoRA of its own.
    """
    found = checkpoint.read(hub.locate(name))
    if found.system != "lm":
        raise CheckpointError(f"{name} is a {found.system}; a language model of text (lm) is wanted here")
    if found.config.get("lora") is not None:
        raise CheckpointError(
            f"{name} has LoRA of its own: export it (voder export --layout huggingface), convert that"
        )
    config = from_dict(CausalLmConfig, found.config["network"], where=str(found.folder / checkpoint.CONFIG_FILE))
    called = str(found.config["tokenizer"])
    return BaseLm(
        folder=found.folder,
        config=config,
        tokenizer=tokenizer_of(called, found.parts, found.folder),
        tokenizer_name=called,
    )


def tokenizer_of(name: str, parts: Mapping[str, Path], where: Path, part: str = TOKENIZER) -> Any:
    """The tokenizer called `name` (`bytes`, or a fingerprint) that lies among the parts of a checkpoint, or of its lm.

    Raises:
        CheckpointError: its files are missing or damaged.
        FittedPartMismatch: they are another tokenizer's.
    """
    if name == BYTES:
        return byte_tokenizer()
    inside = parts[PART] / "parts" / TOKENIZER if PART in parts else None
    folder = parts.get(part, inside)
    if folder is None or not folder.is_dir():
        raise CheckpointError(f"{where} lacks its tokenizer (parts/{part}); copy the checkpoint again")
    tokenizer = read_tokenizer(folder)
    if fingerprint(tokenizer) != name:
        raise FittedPartMismatch(
            f"the tokenizer in {folder} is {fingerprint(tokenizer)}; what lies beside it was fitted on {name}"
        )
    return tokenizer


def borrowed_names(network: nn.Module, prefix: str = "") -> dict[str, str]:
    """For each frozen weight of a network, its name in the base: LoRA is left out, peft's spelling taken away.

    `prefix` is what the names of the network begin with in the model that holds it.
    """
    names = {}
    for name in network.state_dict():
        if ".lora_" not in name:
            plain = name.removeprefix("base_model.model.").replace(".base_layer.", ".")
            names[prefix + name] = plain
    return names


def borrowed(names: Mapping[str, str]) -> dict[str, str]:
    """What `Task.borrowed` returns for `borrowed_names`."""
    return {ours: f"{PART}/{_THEIRS}{theirs}" for ours, theirs in names.items()}
