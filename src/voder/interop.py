"""Foreign checkpoints and ours: an ordered table of names, read one way to import and the other way to
export.

A template matches a whole name. `{n}` stands for one part between dots, `{path...}` for one or more parts;
both sides of a rule use the same placeholders. The first matching rule wins, so special cases come before
general ones:

    RenameTable(
        Rule("encoder.model.{n}.conv.conv.{w...}", "encoder.layers.{n}.conv.{w...}"),
        ignored=("quantizer.vq.debug.{rest...}",),
    )

Loading is strict: a report names every leftover key, every parameter of ours left empty and every shape that
differs. Checkpoints are read as safetensors, or as torch files with `weights_only=True`; nothing runs from a
file.
"""

import json
import re
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from voder.errors import CheckpointError
from voder.files import atomic_path

_PLACEHOLDER = re.compile(r"\{(\w+)(\.\.\.)?\}")
_PATHS: list[Any] = [
    (PurePosixPath, f"{module}.{name}")
    for module in ("pathlib", "pathlib._local")
    for name in ("PosixPath", "WindowsPath", "PurePosixPath", "PureWindowsPath")
]
"""Some files have paths beside their weights (VALL-E-X those of a Windows machine): they are names, nothing runs."""


@dataclass(frozen=True)
class Rule:
    """One foreign name and ours, as templates with the same placeholders."""

    foreign: str
    ours: str

    def __post_init__(self) -> None:
        if sorted(_PLACEHOLDER.findall(self.foreign)) != sorted(_PLACEHOLDER.findall(self.ours)):
            raise ValueError(f"{self.foreign!r} and {self.ours!r} differ in placeholders")


def rules(theirs: str, ours: str, names: Mapping[str, str]) -> tuple[Rule, ...]:
    """A rule for each pair of layers behind two prefixes, for whatever they hold (`weight`, `bias`)."""
    return tuple(Rule(f"{theirs}{old}.{{w}}", f"{ours}{new}.{{w}}") for old, new in names.items())


WEIGHT_NORM = (
    Rule("{path...}.weight_g", "{path...}.parametrizations.weight.original0"),
    Rule("{path...}.weight_v", "{path...}.parametrizations.weight.original1"),
)
"""The spelling of weight norm in older checkpoints (foreign) and in torch since 2.0 (ours)."""


def _pattern(template: str) -> re.Pattern[str]:
    parts, end = [], 0
    for found in _PLACEHOLDER.finditer(template):
        parts.append(re.escape(template[end : found.start()]))
        parts.append(f"(?P<{found[1]}>{'.+' if found[2] else '[^.]+'})")
        end = found.end()
    return re.compile("".join(parts) + re.escape(template[end:]))


def _fill(template: str, values: Mapping[str, str]) -> str:
    return _PLACEHOLDER.sub(lambda found: values[found[1]], template)


class RenameTable:
    """Ordered rules between a foreign layout and ours.

    Args:
        rules: names by layout; a name that none matches is left over.
        spelling: rules tried on every foreign name first, for spellings that do not depend on the layout; a
        name
            that none matches passes as it is. On export they apply last, unless `spell` says otherwise.
        ignored: foreign names that are known and carry nothing (templates).
        ours_only: names of ours that exist nowhere else, such as training counters (templates).
    """

    def __init__(
        self,
        *rules: Rule,
        spelling: Sequence[Rule] = (),
        export_spelling: bool = True,
        ignored: Sequence[str] = (),
        ours_only: Sequence[str] = (),
    ) -> None:
        self._import = [(_pattern(rule.foreign), rule.ours) for rule in rules]
        self._export = [(_pattern(rule.ours), rule.foreign) for rule in rules]
        self._spell_in = [(_pattern(rule.foreign), rule.ours) for rule in spelling]
        self._spell_out = [(_pattern(rule.ours), rule.foreign) for rule in spelling if export_spelling]
        self._ignored = [_pattern(template) for template in ignored]
        self._ours_only = [_pattern(template) for template in ours_only]

    def to_ours(self, name: str) -> str | None:
        """Our name of a foreign one; None if no rule knows it."""
        return _first(self._import, _first(self._spell_in, name) or name)

    def to_foreign(self, name: str) -> str | None:
        """The foreign name of one of ours; None if no rule knows it."""
        found = _first(self._export, name)
        return None if found is None else (_first(self._spell_out, found) or found)

    def is_ignored(self, name: str) -> bool:
        """True for a foreign name that is known to carry nothing."""
        return any(pattern.fullmatch(name) for pattern in self._ignored)

    def is_ours_only(self, name: str) -> bool:
        """True for a name of ours that other layouts do not have."""
        return any(pattern.fullmatch(name) for pattern in self._ours_only)


def _first(rules: Sequence[tuple[re.Pattern[str], str]], name: str) -> str | None:
    for pattern, template in rules:
        if found := pattern.fullmatch(name):
            return _fill(template, found.groupdict())
    return None


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What an import found: `state` holds our names; the rest says what did not fit."""

    state: dict[str, Tensor]
    ignored: tuple[str, ...] = ()
    """Foreign names that are known to carry nothing."""
    leftover: tuple[str, ...] = ()
    """Foreign names that found no place."""
    missing: tuple[str, ...] = ()
    """Names of ours that stay empty."""
    wrong_shape: tuple[str, ...] = ()
    """Our names whose shapes differ, with both shapes."""
    twice: tuple[str, ...] = ()
    """Our names that more than one foreign tensor claims."""

    @property
    def is_complete(self) -> bool:
        """True when everything of ours is filled and nothing is left over."""
        return not (self.leftover or self.missing or self.wrong_shape or self.twice)

    def summary(self) -> str:
        """Every name that did not fit, on one line; or how many tensors were filled."""
        if self.is_complete:
            return f"{len(self.state)} tensors filled, {len(self.ignored)} ignored, none left over"
        groups = {
            "left over": self.leftover,
            "missing": self.missing,
            "of another shape": self.wrong_shape,
            "claimed twice": self.twice,
        }
        return "; ".join(f"{label}: {', '.join(names)}" for label, names in groups.items() if names)


def rename(foreign: Mapping[str, Tensor], own: Mapping[str, Tensor], table: RenameTable) -> Coverage:
    """Bring a foreign state dict to our names and compare it with the state dict `own`."""
    state: dict[str, Tensor] = {}
    ignored, leftover, wrong, twice = [], [], [], []
    for name, value in foreign.items():
        if table.is_ignored(name):
            ignored.append(name)
            continue
        ours = table.to_ours(name)
        if ours is None or ours not in own:
            leftover.append(name)
        elif ours in state:
            twice.append(ours)
        elif own[ours].shape != value.shape:
            wrong.append(f"{ours} {list(value.shape)} instead of {list(own[ours].shape)}")
            state[ours] = value
        else:
            state[ours] = value.to(own[ours].dtype)
    missing = [name for name in own if name not in state and not table.is_ours_only(name)]
    return Coverage(
        state=state,
        ignored=tuple(ignored),
        leftover=tuple(leftover),
        missing=tuple(missing),
        wrong_shape=tuple(wrong),
        twice=tuple(twice),
    )


def rename_all(
    foreign: Mapping[str, Tensor], own: Mapping[str, Tensor], table: RenameTable, where: str, what: str = "model"
) -> Coverage:
    """Sort foreign tensors into our names, strictly: `own` are the weights to fill, on the meta device at will.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    coverage = rename(foreign, own, table)
    if not coverage.is_complete:
        raise CheckpointError(f"the weights in {where} do not fit this {what}: {coverage.summary()}")
    return coverage


def load_foreign(module: nn.Module, foreign: Mapping[str, Tensor], table: RenameTable, where: str) -> Coverage:
    """Load a foreign state dict into a module, strictly.

    Raises:
        CheckpointError: something is left over, missing or of another shape; every name is given.
    """
    own = module.state_dict()
    coverage = rename_all(foreign, own, table, where)
    module.load_state_dict({**own, **coverage.state})
    return coverage


def export(state: Mapping[str, Tensor], table: RenameTable) -> dict[str, Tensor]:
    """Give a state dict of ours the foreign names.

    Raises:
        CheckpointError: a tensor of ours has no place in that layout; all are named.
    """
    named = {name: table.to_foreign(name) for name in state if not table.is_ours_only(name)}
    homeless = [name for name, foreign in named.items() if foreign is None]
    if homeless:
        raise CheckpointError(f"these weights have no place in the layout asked for: {', '.join(homeless)}")
    return {foreign: state[name] for name, foreign in named.items() if foreign is not None}


def read_sections(file: Path) -> dict[str, Any]:
    """Read a safetensors or torch file whose tensors may lie in sections (`model`, `cfg`); nothing runs from it.

    Raises:
        CheckpointError: missing, damaged, not a dict, or holding objects that would need to run.
    """
    try:
        if file.suffix == ".safetensors":
            loaded: Any = load_file(file)
        else:
            loaded = _load_torch(file)
    except FileNotFoundError as error:
        raise CheckpointError(f"there is no file {file}") from error
    except Exception as error:  # a damaged pickle may raise whatever its bytes happen to ask for
        reason = str(error).splitlines()[0] if str(error) else type(error).__name__
        raise CheckpointError(f"{file} is not a readable checkpoint of plain tensors ({reason})") from error
    if not isinstance(loaded, dict):
        raise CheckpointError(f"{file} must hold a table of tensors, not {type(loaded).__name__}")
    return loaded


def read_state(file: Path) -> dict[str, Tensor]:
    """Read a flat state dict from a safetensors or torch file; floats become float32.

    Raises:
        CheckpointError: as `read_sections`, or not a flat dict of tensors.
    """
    loaded = read_sections(file)
    if not all(isinstance(value, Tensor) for value in loaded.values()):
        raise CheckpointError(f"{file} must hold a flat table of tensors, not {type(loaded).__name__}")
    return {str(k): v.float() if v.is_floating_point() else v for k, v in loaded.items()}


def read_folder(folder: Path) -> dict[str, Tensor]:
    """Read the weights of a Hugging Face folder: `model.safetensors`, else `pytorch_model.bin`.

    Raises:
        CheckpointError: as `read_state`.
    """
    weights = folder / "model.safetensors"
    return read_state(weights if weights.is_file() else folder / "pytorch_model.bin")


def read_settings(file: Path) -> dict[str, Any]:
    """Read a table of settings in JSON.

    Raises:
        CheckpointError: missing, damaged, or no table.
    """
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise CheckpointError(f"{file} is not readable ({error})") from error
    if not isinstance(content, dict):
        raise CheckpointError(f"{file} must hold a table, not {type(content).__name__}")
    return content


def write_state(file: Path, state: Mapping[str, Any]) -> None:
    """Write a table of tensors whole or not at all: as safetensors if the file is called so, else as a torch file."""
    with atomic_path(file) as temporary:
        if file.suffix == ".safetensors":
            save_file({name: value.contiguous() for name, value in state.items()}, temporary, metadata={"format": "pt"})
        else:
            torch.save(dict(state), temporary)


def _load_torch(file: Path) -> object:
    with warnings.catch_warnings(), torch.serialization.safe_globals(_PATHS):
        warnings.simplefilter("ignore")  # torch warns of old protocols before it decides whether it can read them
        loaded: object = torch.load(file, map_location="cpu", weights_only=True)
    return loaded


@dataclass(frozen=True, kw_only=True)
class Outside:
    """What a foreign checkpoint looks like before anybody knows whose it is."""

    model_type: str = ""
    """`model_type` of a Hugging Face folder's config.json."""
    names: frozenset[str] = frozenset()
    """Names of its tensors; those in sections come without the section's name."""
    sections: frozenset[str] = frozenset()
    """Names at the top of the file."""
    files: frozenset[str] = frozenset()
    """Names of the files in a folder."""


@dataclass(frozen=True, kw_only=True)
class Marks:
    """What tells a system's foreign checkpoints from others: any one of these."""

    model_types: tuple[str, ...] = ()
    """Of Hugging Face folders."""
    names: tuple[str, ...] = ()
    """Tensors that only this system has; a prefix that ends in a dot stands for all below it."""
    files: tuple[str, ...] = ()
    """Sets of files in a folder, each joined with `+`."""

    def fit(self, outside: Outside) -> bool:
        """True when the checkpoint is one of these."""
        if outside.model_type:
            return outside.model_type in self.model_types
        if any(set(files.split("+")) <= outside.files for files in self.files):
            return True
        return any(n == m or (m.endswith(".") and n.startswith(m)) for n in outside.names for m in self.names)


def look(source: Path) -> Outside:
    """See what a foreign checkpoint looks like; nothing runs from it.

    Raises:
        CheckpointError: damaged, or no table of tensors.
    """
    if not source.is_dir():
        return _look_inside(source)
    files = frozenset(path.name for path in source.iterdir())
    try:
        content = json.loads((source / "config.json").read_text(encoding="utf-8")) if "config.json" in files else {}
    except (OSError, ValueError) as error:
        raise CheckpointError(f"{source / 'config.json'} is not readable ({error})") from error
    kind = content.get("model_type") if isinstance(content, dict) else None
    return Outside(model_type=kind if isinstance(kind, str) else "", files=files)


def _look_inside(file: Path) -> Outside:
    content = read_sections(file)
    inner = [value for value in content.values() if isinstance(value, Mapping)]
    names = {str(name) for table in (content, *inner) for name, value in table.items() if isinstance(value, Tensor)}
    return Outside(names=frozenset(names), sections=frozenset(map(str, content)))
