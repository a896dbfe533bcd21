"""Reference vectors: recorded inputs, weights and outputs of published implementations, read and compared.

A case is `NAME.json` with, in most cases, `NAME.safetensors` beside it. Tensors are called `weights/KEY`,
`in/NAME` and `out/NAME`; the JSON has the `kind` that says how to run it, the constructor's `args`, and for
every output either `"match": "exact"` or an absolute tolerance.
"""

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from voder.errors import InputError
from voder.interop import RenameTable, load_foreign


@dataclass(frozen=True, kw_only=True)
class Case:
    """One reference case, as a runner sees it."""

    path: Path
    """The JSON file."""
    kind: str
    """`SYSTEM/WHAT`: which runner handles it."""
    meta: Mapping[str, Any]
    """Everything in the JSON."""
    weights: Mapping[str, Tensor] = field(default_factory=dict)
    """By official key, as float32."""
    inputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What goes in."""
    outputs: Mapping[str, Tensor] = field(default_factory=dict)
    """What the reference gave: for shapes of partial recordings, and judgements that need both sides."""

    @property
    def name(self) -> str:
        """Folder and file, such as encodec/rvq."""
        return f"{self.path.parent.name}/{self.path.stem}"

    @property
    def args(self) -> Mapping[str, Any]:
        """The constructor arguments of the original."""
        args: Mapping[str, Any] = self.meta.get("args", {})
        return args

    def weights_under(self, prefix: str) -> dict[str, Tensor]:
        """Weights whose key starts with `prefix`, without it."""
        return {k[len(prefix) :]: v for k, v in self.weights.items() if k.startswith(prefix)}

    def tolerance(self, output: str) -> float:
        """Allowed absolute error of an output; 0 where it must be equal."""
        spec = self.meta["tensors"][f"out/{output}"]
        return 0.0 if spec.get("match") == "exact" else float(spec["atol"])


@dataclass(frozen=True, kw_only=True)
class Judged:
    """An output that its runner compared itself, because equality of numbers is not the criterion."""

    passed: bool
    error: float
    tolerance: float
    note: str
    """Why, in a few words."""


Runner = Callable[[Case], Mapping[str, Any]]
"""Runs a case and returns its outputs by name: tensors, `Judged`, or JSON values for `out_json`."""


@dataclass(frozen=True, kw_only=True)
class Comparison:
    """How the outputs of a case compare with the recorded ones."""

    problems: tuple[str, ...]
    """One line per output that fails, empty when all pass."""
    error: float
    """Largest error relative to its own tolerance decides which output is shown; this is its absolute
    error."""
    tolerance: float
    """Tolerance of that output."""
    output: str
    """Name of that output."""


def find_cases(folder: Path) -> list[Path]:
    """List the case files under a folder (or the one file given), in order of path.

    Raises:
        InputError: there is none.
    """
    files = [folder] if folder.suffix == ".json" else sorted(folder.rglob("*.json"))
    found = [file for file in files if file.is_file() and "kind" in _read_json(file)]
    if not found:
        raise InputError(f"{folder} holds no reference vectors (NAME.json with a 'kind' in it)")
    return found


def _read_json(file: Path) -> dict[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise InputError(f"{file} is not readable JSON ({error})") from error
    return content if isinstance(content, dict) else {}


def read_case(path: Path) -> Case:
    """Read a case; weights become float32, everything else stays as recorded.

    Raises:
        InputError: its files are damaged.
    """
    meta = _read_json(path)
    tensors: dict[str, Tensor] = {}
    if (data := path.with_suffix(".safetensors")).is_file():
        try:
            tensors = load_file(data)
        except (OSError, ValueError, SafetensorError) as error:
            raise InputError(f"{data} is damaged ({error})") from error

    def pick(prefix: str) -> dict[str, Tensor]:
        return {name[len(prefix) :]: value for name, value in tensors.items() if name.startswith(prefix)}

    weights = {k: v.float() if v.is_floating_point() else v for k, v in pick("weights/").items()}
    return Case(path=path, kind=meta["kind"], meta=meta, weights=weights, inputs=pick("in/"), outputs=pick("out/"))


def load_official(module: nn.Module, weights: Mapping[str, Tensor], table: RenameTable, case: Case) -> None:
    """Load a case's weights strictly and switch to evaluation."""
    load_foreign(module, weights, table, case.name)
    module.eval()


def compare(case: Case, got: Mapping[str, Any]) -> Comparison:
    """Compare everything that a case records with what a runner returned."""
    worst = ("", 0.0, 0.0, 0.0)  # output, error, tolerance, error in tolerances
    problems = []
    for name, wanted in case.outputs.items():
        problem, error, tolerance = _compare_one(case, name, wanted, got.get(name))
        if problem:
            problems.append(f"{name}: {problem}")
        share = float("inf") if problem else error / tolerance if tolerance else 0.0
        if share >= worst[3]:
            worst = (name, error, tolerance, share)
    expected_json = case.meta.get("out_json", {})
    for name, wanted in expected_json.items():
        if name not in got:
            problems.append(f"{name}: the runner gave nothing")
        elif mismatch := json_difference(wanted, got[name]):
            problems.append(f"{name}: {mismatch}")
    return Comparison(problems=tuple(problems), error=worst[1], tolerance=worst[2], output=worst[0])


def _compare_one(case: Case, name: str, wanted: Tensor, got: Any) -> tuple[str, float, float]:
    tolerance = case.tolerance(name)
    if got is None:
        return "the runner gave nothing", float("inf"), tolerance
    if isinstance(got, Judged):
        return ("" if got.passed else got.note), got.error, got.tolerance
    if not isinstance(got, Tensor):
        return f"the runner gave {type(got).__name__}", float("inf"), tolerance
    got = got.detach().cpu()
    if got.shape != wanted.shape:
        return f"shape {list(got.shape)} instead of {list(wanted.shape)}", float("inf"), tolerance
    if got.numel() == 0:
        return "", 0.0, tolerance
    if case.meta["tensors"][f"out/{name}"].get("match") == "exact":
        differ = int((got.to(wanted.dtype) != wanted).sum())
        return (f"{differ} of {wanted.numel()} values differ" if differ else ""), float(differ), 0.0
    finite = torch.isfinite(wanted)
    special = got.double()[~finite], wanted.double()[~finite]
    if not torch.equal(torch.isfinite(got), finite) or not torch.equal(*special):
        return "infinite values differ", float("inf"), tolerance
    error = float((got.double() - wanted.double())[finite].abs().max()) if finite.any() else 0.0
    return (f"error {error:.3g}, allowed {tolerance:.3g}" if error > tolerance else ""), error, tolerance


def json_difference(wanted: Any, got: Any, where: str = "") -> str:
    """Say where two JSON values differ (floats by more than 1e-4 of their size), or give an empty string."""
    if isinstance(wanted, float) and isinstance(got, int | float) and not isinstance(got, bool):
        return "" if abs(got - wanted) <= 1e-4 * max(abs(wanted), 1e-12) else f"{where} {got} instead of {wanted}"
    if isinstance(wanted, dict) and isinstance(got, Mapping):
        if wanted.keys() != got.keys():
            return f"{where} keys differ: {sorted(wanted.keys() ^ got.keys())[:5]}"
        differences = (json_difference(wanted[key], got[key], f"{where}.{key}") for key in wanted)
        return next((d for d in differences if d), "")
    if isinstance(wanted, list) and isinstance(got, list | tuple):
        if len(wanted) != len(got):
            return f"{where} has {len(got)} entries instead of {len(wanted)}"
        pairs = enumerate(zip(wanted, got, strict=True))
        return next((d for i, (w, g) in pairs if (d := json_difference(w, g, f"{where}[{i}]"))), "")
    same = wanted == got and isinstance(wanted, bool) == isinstance(got, bool)
    return "" if same else f"{where} {str(got)[:60]!r} instead of {str(wanted)[:60]!r}"
