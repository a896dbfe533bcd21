"""A language model that another system is built over, frozen: a checkpoint of `lm`, taken along as the part `lm`.

A setting names it (`task.lm=smollm2-135m-instruct`). The system takes its sizes and its tokenizer, loads its weights,
and its checkpoints hold them by hard link (`Task.parts`, `Task.borrowed`), so that what is trained is small on disk.
"""

from collections.abc import Callable, Mapping
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


class LentLm:
    """The frozen language model of a system in training: it fills the system's network, and its checkpoints borrow it.

    Without a name there is none: the network stays as it is, reads bytes, and is saved whole.
    """

    def __init__(self, name: str, model: nn.Module, names: Mapping[str, str]) -> None:
        """`names` gives for each frozen weight of `model` that of the base (`borrowed_names`).

        Raises:
            CheckpointError: as `find_base_lm`; or the weights are of other sizes.
        """
        base = find_base_lm(name) if name else None
        self.tokenizer = byte_tokenizer() if base is None else base.tokenizer
        self.parts = {} if base is None else {PART: base.folder}
        """What `Task.parts` returns."""
        self.borrowed = {} if base is None else borrowed(names)
        """What `Task.borrowed` returns."""
        if base is not None:
            state = checkpoint.load_state(base.folder)
            lent = {ours: state[_THEIRS + theirs] for ours, theirs in names.items()}
            checkpoint.load_into(model, model.state_dict() | lent, base.folder)


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


def fitted_lm(
    name: str, own: CausalLmConfig, trained_on: str | None, fit: Callable[[CausalLmConfig], CausalLmConfig]
) -> tuple[CausalLmConfig, str]:
    """Sizes and tokenizer of the language model that `task.lm` names, or `own` sizes and bytes where it names none.

    Args:
        name: the setting.
        own: the system's sizes so far.
        trained_on: the tokenizer of the checkpoint that is started from, if one is.
        fit: what the system changes about the language model's own sizes.

    Raises:
        FittedPartMismatch: the checkpoint that is started from was trained on another language model.
    """
    found = find_base_lm(name) if name else None
    tokenizer = BYTES if found is None else found.tokenizer_name
    sizes = own if found is None else fit(found.config)
    if trained_on is not None and (trained_on, own) != (tokenizer, sizes):
        raise FittedPartMismatch(
            f"the checkpoint to start from has a language model with the tokenizer {trained_on}, and task.lm={name!r} "
            f"one with {tokenizer}; set task.lm to the same language model"
        )
    return sizes, tokenizer


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
