"""Checkpoints: a folder that says what it is.

    config.json          format, system, model configuration, provenance
    model.safetensors    weights
    companions/          weights of modules that training goes on with, where there are any
    parts/<name>/        checkpoints of the parts that this one was fitted on (a codec inside a voice)

Weights that a part has are not written twice: `borrowed` in config.json says where `load_state` finds them (a frozen
language model in `parts/`, whose large files are hard links and so take no room in the next checkpoint either).

A folder is written beside its place and renamed into it, so a reader sees a whole checkpoint or none. Trainer
state is kept apart, in the run's folder, and nothing here executes code from a file.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from voder.config import to_dict
from voder.errors import CheckpointError, FittedPartMismatch, ResourceError
from voder.files import folder_written_atomically, link_tree, standing

FORMAT = "voder-checkpoint/1"
CONFIG_FILE = "config.json"
WEIGHTS_FILE = "model.safetensors"
COMPANIONS = "companions"
INDEX_FILE = "model.safetensors.index.json"
"""What Hugging Face folders of several weight files have beside them."""


@dataclass(frozen=True, kw_only=True)
class Checkpoint:
    """A checkpoint folder that was found and whose configuration was read."""

    folder: Path
    system: str
    config: dict[str, Any]
    provenance: dict[str, Any]
    borrowed: dict[str, str] = field(default_factory=dict)
    """Weights that are those of a part: name -> `part/its name`."""

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
    borrowed: Mapping[str, str] | None = None,
    companions: Mapping[str, Mapping[str, Tensor]] | None = None,
) -> None:
    """Write a checkpoint folder atomically.

    `config` is the model's dataclass, `parts` are folders to copy in. `borrowed` names weights that `state` leaves out
    because a part has them: name -> `part/its name`. `companions` are weights of modules that training goes on with
    (a discriminator), by name.
    """
    record: dict[str, Any] = {
        "format": FORMAT,
        "system": system,
        "model": to_dict(config),
        "provenance": dict(provenance or {}),
    }
    if borrowed:
        record["borrowed"] = dict(borrowed)
    with folder_written_atomically(folder) as temporary:
        (temporary / CONFIG_FILE).write_text(json.dumps(record, indent=1, ensure_ascii=False), encoding="utf-8")
        save_tensors(temporary / WEIGHTS_FILE, state, place=folder / WEIGHTS_FILE)
        for name, tensors in (companions or {}).items():
            (temporary / COMPANIONS).mkdir(exist_ok=True)
            file = Path(COMPANIONS, f"{name}.safetensors")
            save_tensors(temporary / file, tensors, place=folder / file)
        for name, part in (parts or {}).items():
            link_tree(part, temporary / "parts" / name)


def save_tensors(file: Path, state: Mapping[str, Tensor], *, place: Path | None = None) -> None:
    """Write tensors as safetensors; of tied weights, which safetensors refuses, each name gets a copy.

    `place` is the name that the file will have, for the message when it cannot be written.
    """
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
        raise ResourceError(
            f"cannot write {place or file}: {error}; free space or choose another folder with -o"
        ) from error


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
    path = standing(path)
    if (path / CONFIG_FILE).is_file():
        return path
    best = path / "checkpoints" / "best.json"
    if best.is_file():
        named = standing(path / "checkpoints" / named_in(best))
        if (named / CONFIG_FILE).is_file():
            return named
    steps = [step for step in (path / "checkpoints").glob("step-*") if (step / CONFIG_FILE).is_file()]
    if steps:
        return max(steps)
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
            folder=folder,
            system=record["system"],
            config=record["model"],
            provenance=record["provenance"],
            borrowed={str(name): str(place) for name, place in record.get("borrowed", {}).items()},
        )
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged or not a voder checkpoint ({error})") from error
    if not isinstance(checkpoint.system, str) or not isinstance(checkpoint.config, dict):
        raise CheckpointError(f"{folder / CONFIG_FILE} is damaged: system must be a name and model a mapping")
    return checkpoint


def read_of(path: Path, system: str) -> Checkpoint:
    """As `read`, of a checkpoint that must be of one system.

    Raises:
        CheckpointError: it is another system's.
    """
    found = read(path)
    if found.system != system:
        raise CheckpointError(f"{path} is a checkpoint of {found.system}; one of {system} is wanted here")
    return found


def fitted_part(found: Checkpoint, name: str, wanted: str | None) -> Path:
    """The folder of a part, which must be the very one that the model beside it was fitted on (its `identity`).

    Raises:
        CheckpointError: it is missing.
        FittedPartMismatch: it is another one.
    """
    folder = found.parts.get(name)
    if folder is None:
        raise CheckpointError(f"{found.folder} holds no parts/{name}, which {found.system} needs; copy it whole")
    held = identity(folder)
    if held != wanted:
        raise FittedPartMismatch(
            f"{folder} is {name} {held}, but the {found.system} beside it was trained on tokens of {wanted}"
        )
    return folder


def load_state(path: Path) -> dict[str, Tensor]:
    """Read the weights of a checkpoint, with those that its parts have for it.

    Raises:
        CheckpointError: missing, cut short or not safetensors.
    """
    folder = resolve(path)
    return load_tensors(folder / WEIGHTS_FILE) | load_borrowed(folder)


def load_borrowed(folder: Path) -> dict[str, Tensor]:
    """Read the weights that a checkpoint has from its parts alone.

    Raises:
        CheckpointError: a part or a weight in it is missing.
    """
    state: dict[str, Tensor] = {}
    by_file: dict[Path, list[tuple[str, str]]] = {}
    for name, place in read(folder).borrowed.items():
        part, _, theirs = place.partition("/")
        by_file.setdefault(_weight_file(folder / "parts" / Path(part).name, theirs), []).append((name, theirs))
    for file, names in by_file.items():
        try:
            with safe_open(file, framework="pt") as tensors:
                state |= {name: tensors.get_tensor(theirs) for name, theirs in names}
        except (OSError, SafetensorError, ValueError) as error:
            raise CheckpointError(
                f"{file} lacks weights that {folder} borrows ({error}); copy the checkpoint again with its parts"
            ) from error
    return state


def _weight_file(part: Path, name: str) -> Path:
    """The file of a part that holds a weight: its only one, or the one that its index names."""
    index = part / INDEX_FILE
    if not index.is_file():
        return part / WEIGHTS_FILE
    try:
        return part / Path(str(json.loads(index.read_text(encoding="utf-8"))["weight_map"][name])).name
    except (OSError, ValueError, KeyError, TypeError, RecursionError) as error:
        raise CheckpointError(f"{index} does not say where {name} is ({error}); copy the checkpoint again") from error


def load_into(module: Any, state: Mapping[str, Tensor], where: Path | str) -> None:
    """Load weights strictly: every name and every shape must fit.

    Raises:
        CheckpointError: names that are missing, unexpected or of another shape.
    """
    check_fit(module.state_dict(), state, where)
    module.load_state_dict(dict(state))


def check_fit(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: Path | str) -> None:
    """Compare the names and shapes of weights with those of a network.

    Raises:
        CheckpointError: names that are missing, unexpected or of another shape.
    """
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


def identity(path: Path) -> str:
    """A name for exactly these weights and this configuration: what tokens and adapters are compared by."""
    folder = resolve(path)
    digest = hashlib.sha256()
    try:
        record = json.loads((folder / CONFIG_FILE).read_text(encoding="utf-8"))
        digest.update(json.dumps([record["system"], record["model"]], sort_keys=True).encode())
        for weights in [folder / WEIGHTS_FILE, *_borrowed_files(folder, record.get("borrowed", {}))]:
            with open(weights, "rb") as file:
                while block := file.read(1 << 20):
                    digest.update(block)
    except (OSError, ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
        raise CheckpointError(f"{folder} cannot be identified ({error})") from error
    return digest.hexdigest()[:16]


def _borrowed_files(folder: Path, borrowed: Mapping[str, str]) -> list[Path]:
    """The weight files of the parts that are borrowed from, in order."""
    parts = sorted({Path(place.partition("/")[0]).name for place in borrowed.values()})
    return [file for part in parts for file in sorted((folder / "parts" / part).glob("*.safetensors"))]
