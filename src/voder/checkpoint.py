"""Checkpoints: a folder that says what it is.

    config.json          format, system, model configuration, provenance
    model.safetensors    weights
    parts/<name>/        checkpoints of the parts that this one was fitted on (a codec inside a voice)

A folder is written beside its place and renamed into it, so a reader sees a whole checkpoint or none. Trainer
state is kept apart, in the run's folder, and nothing here executes code from a file.
"""

import hashlib
import json
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from voder.config import to_dict
from voder.errors import CheckpointError, ResourceError
from voder.files import folder_written_atomically

FORMAT = "voder-checkpoint/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder that was found and whose configuration was read."""

    folder: Path
    system: str
    config: dict[str, Any]
    provenance: dict[str, Any]

    @property
    def parts(self) -> dict[str, Path]:
        """Nested checkpoints by name."""
        folder = self.folder / "parts"
        return {path.name: path for path in sorted(folder.iterdir())} if folder.is_dir() else {}


def save(
    folder: Path,
    *,
    system: str,
    config: Any,
    state: Mapping[str, Tensor],
    parts: Mapping[str, Path] | None = None,
    provenance: Mapping[str, Any] | None = None,
) -> None:
    """Write a checkpoint folder atomically. `config` is the model's dataclass, `parts` are folders to copy in."""
    record = {
        "format": FORMAT,
        "system": system,
        "model": to_dict(config),
        "provenance": dict(provenance or {}),
    }
    with folder_written_atomically(folder) as temporary:
        (temporary / CONFIG_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        save_tensors(temporary / WEIGHTS_FILE, state)
        for name, part in (parts or {}).items():
            shutil.copytree(part, temporary / "parts" / name)


def save_tensors(file: Path, state: Mapping[str, Tensor]) -> None:
    """Write tensors as safetensors; of tied weights, which safetensors refuses, each name gets a copy."""
    copies: dict[str, Tensor] = {}
    taken: set[int] = set()
    for name, value in state.items():
        tensor = value.detach().cpu().contiguous()
        address = tensor.untyped_storage().data_ptr()
        copies[name] = tensor.clone() if address in taken else tensor
        taken.add(address)
    try:
        save_file(copies, file)
    except SafetensorError as error:
        raise ResourceError(f"cannot write {file}: {error}; free space or choose another folder with -o") from error


def load_tensors(file: Path) -> dict[str, Tensor]:
    """Read a safetensors file.

    Raises:
        CheckpointError: missing, cut short or not safetensors.
    """
    try:
        return load_file(file)
    except (OSError, SafetensorError, ValueError) as error:
        raise CheckpointError(f"{file} cannot be read ({error}); copy the checkpoint again") from error


def resolve(path: Path) -> Path:
    """Return the checkpoint folder that `path` means: itself, or the best or newest checkpoint of a run folder.

    Raises:
        CheckpointError: nothing there is a checkpoint.
    """
    if (path / CONFIG_FILE).is_file():
        return path
    best = path / "checkpoints" / "best.json"
    if best.is_file():
        named = path / "checkpoints" / named_in(best)
        if (named / CONFIG_FILE).is_file():
            return named
    steps = sorted((path / "checkpoints").glob("step-*"))
    if steps:
        return steps[-1]
    raise CheckpointError(f"{path} holds no checkpoint: expected {CONFIG_FILE} and {WEIGHTS_FILE}, or a run folder")


def named_in(best: Path) -> str:
    """The checkpoint that a run's best.json names.

    Raises:
        CheckpointError: the file is damaged.
    """
    try:
        return Path(str(json.loads(best.read_text(encoding="utf-8"))["checkpoint"])).name
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{best} is damaged ({error}); delete it to use the newest checkpoint") from error


def read(path: Path) -> Checkpoint:
    """Find a checkpoint and read its configuration, without its weights.

    Raises:
        CheckpointError: missing, cut short, or of a format that this version cannot read.
    """
    folder = resolve(path)
    try:
        record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        found = record["format"]
        if found != FORMAT:
            raise CheckpointError(f"{folder} has format {found!r}; this version of voder reads {FORMAT!r}")
        checkpoint = Checkpoint(
            folder=folder, system=record["system"], config=record["model"], provenance=record["provenance"]
        )
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged or not a voder checkpoint ({error})") from error
    if not isinstance(checkpoint.system, str) or not isinstance(checkpoint.config, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: system must be a name and model a mapping")
    return checkpoint


def load_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint.

    Raises:
        CheckpointError: missing, cut short or not safetensors.
    """
    return load_tensors(resolve(path) / WEIGHTS_FILE)


def load_into(module: Any, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Load weights strictly: every name and every shape must fit.

    Raises:
        CheckpointError: names that are missing, unexpected or of another shape.
    """
    own = module.state_dict()
    missing, extra = sorted(own.keys() - state.keys()), sorted(state.keys() - own.keys())
    wrong = [n for n in own.keys() & state.keys() if own[n].shape != state[n].shape]
    if missing or extra or wrong:
        detail = "; ".join(
            f"{label} {', '.join(names[:4])}{' …' if len(names) > 4 else ''}"
            for label, names in (
                ("missing", missing),
                ("unexpected", extra),
                ("of another shape", sorted(wrong)),
            )
            if names
        )
        raise CheckpointError(f"the weights in {where} do not fit the configuration beside them: {detail}")
    module.load_state_dict(dict(state))


def identity(path: Path) -> str:
    """A name for exactly these weights and this configuration: what tokens and adapters are compared by."""
    folder = resolve(path)
    digest = hashlib.sha256()
    try:
        record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        digest.update(json.dumps([record["system"], record["model"]], sort_keys=True).encode())
        with open(folder / WEIGHTS_FILE, "rb") as file:
            while block := file.read(1 << 20):
                digest.update(block)
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{folder} cannot be identified ({error})") from error
    return digest.hexdigest()[:16]
