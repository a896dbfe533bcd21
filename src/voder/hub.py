"""Find systems by name, build fresh models, load trained ones.

This is the one place that looks upward: it imports `voder.systems.NAME` by name, so nothing below knows which
systems exist. `build` always makes random weights; `load` only ever returns trained ones, and never downloads.
"""

import dataclasses
import importlib
import importlib.util
import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, cached_property
from pathlib import Path
from typing import Any, Literal

import platformdirs
import torch
from torch import nn
from torch.nn.modules.module import register_module_module_registration_hook
from torch.overrides import TorchFunctionMode

from voder import checkpoint
from voder.config import from_dict, nearest
from voder.devices import resolve_device
from voder.errors import CheckpointError, ConfigError
from voder.files import standing
from voder.published import Published

_MODULES, _MODULES_PER_TENSOR, _BUFFERED = 1000, 50, 50_000_000
"""How much larger than its weights a network may be: modules, and numbers in tables that are computed."""
_FILLS = {
    *(torch.Tensor.uniform_, torch.Tensor.normal_),
    *(getattr(nn.init, name) for name in dir(nn.init) if name.endswith("_") and not name.startswith("_")),
}
"""What draws the weights of a fresh network."""
BUNDLED = Path(__file__).parent / "bundled"
"""Small trained checkpoints that come with the package, as bundled/<system>/<preset>."""
INSIDE = {"spectral/demo": "valle/demo/parts/codec"}
"""Bundled checkpoints that are on disk once, inside the one that was fitted on them."""


@dataclass(frozen=True, kw_only=True)
class Preset:
    """One named choice of everything that a run needs."""

    model: Any
    """The model's configuration."""
    task: Any
    """What it is trained on and with which losses."""
    loop: Any
    """How long and how fast (`voder.train.LoopConfig`)."""


@dataclass(frozen=True, kw_only=True)
class System:
    """What a folder of `systems/` tells the rest of the package about itself."""

    name: str
    model_config: type
    build: Callable[[Any], nn.Module]
    """A fresh model from its configuration."""
    task_config: type
    task: Callable[[], type]
    """The Task class, imported when asked for."""
    presets: Mapping[str, Callable[[], Preset]]
    """`tiny` first; it builds and trains a step in a moment."""
    default_preset: str
    """What `voder train SYSTEM` uses when nothing is said."""
    roles: tuple[str, ...]
    trains_on: Literal["recordings", "tokens", "tokens and units"] = "recordings"
    """What `voder train --data` takes: a folder of `voder prepare`, or of `voder tokenize`, or one of these with units
    of the same recordings inside (`voder.data.paired`)."""
    verbs: Callable[[nn.Module, checkpoint.Checkpoint], nn.Module] = lambda model, _: model
    """Turn a loaded model into the object that has the verbs, adding the parts it was fitted on."""
    stages: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    """Stages of training by name (`voder.train.stages.Stage`), in order; empty where training is one."""
    anatomy: Callable[[Any], Mapping[str, str]] | None = None
    """From a model configuration: the five parts it has, by the survey's names (`encoder`, …, `generator`)."""
    original: Callable[[Mapping[str, Any], Mapping[str, torch.Tensor]], nn.Module] | None = None
    """A model from the original's configuration and weights, for systems that have this one as a part."""

    @cached_property
    def run_config(self) -> type:
        """The dataclass of a whole run: model, task and loop with their own types."""
        loop = type(next(iter(self.presets.values()))().loop)
        fields = [("model", self.model_config), ("task", self.task_config), ("loop", loop)]
        return dataclasses.make_dataclass(f"{self.name.title()}RunConfig", fields, frozen=True, kw_only=True)

    def preset(self, name: str) -> Any:
        """The run configuration of a preset.

        Raises:
            ConfigError: an unknown preset; the nearest is offered.
        """
        if name not in self.presets:
            raise ConfigError(f"{self.name} has no preset {name!r}{nearest(name, list(self.presets))}")
        preset = self.presets[name]()
        return self.run_config(model=preset.model, task=preset.task, loop=preset.loop)


def find(name: str) -> System:
    """Return the system called `name`.

    Raises:
        ConfigError: no such system; the nearest is offered.
    """
    from voder.systems import SYSTEMS

    if name not in SYSTEMS:
        raise ConfigError(f"there is no system {name!r}{nearest(name, list(SYSTEMS))}")
    system: System = importlib.import_module(f"voder.systems.{name}").SYSTEM
    return system


def build(name: str) -> nn.Module:
    """Make a fresh, random model from `system/preset`, such as `valle/tiny`."""
    system_name, _, preset = name.partition("/")
    system = find(system_name)
    return system.build(system.preset(preset or system.default_preset).model)


def load_model(path: Path) -> tuple[nn.Module, checkpoint.Checkpoint, Any]:
    """Load the bare network of a checkpoint, with the checkpoint and the model configuration it was built from."""
    found = checkpoint.read(path)
    try:
        system = find(found.system)
    except ConfigError as error:
        raise CheckpointError(f"{found.folder} is of a system that this version does not have: {error}") from error
    try:
        config: Any = from_dict(system.model_config, found.config, where=str(found.folder / checkpoint.CONFIG_FILE))
    except ConfigError as error:
        raise CheckpointError(f"{error}; the checkpoint is of another version of voder") from error
    state = checkpoint.load_state(found.folder)
    model = _build_to_fit(system, config, state, found.folder)
    checkpoint.load_into(model, state, found.folder)
    return model, found, config


class _Unfilled(TorchFunctionMode):
    """Leaves parameters as they are allocated: a checkpoint's weights follow at once, and others take long to draw."""

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        kwargs = kwargs or {}
        filled = args[0] if args else kwargs.get("tensor")
        if func in _FILLS and isinstance(filled, nn.Parameter):
            return filled
        return func(*args, **kwargs)


def _build_to_fit(system: System, config: Any, state: Mapping[str, torch.Tensor], folder: Path) -> nn.Module:
    """Build the network of some weights: first without memory, so that no figure of a file decides what is allocated.

    Raises:
        CheckpointError: the configuration describes no network, or another one than the weights'.
    """
    most = _MODULES + _MODULES_PER_TENSOR * len(state)

    def count(*_: object) -> None:
        nonlocal most
        most -= 1
        if most < 0:
            raise ValueError("it describes far more layers than there are weights")

    hook = register_module_module_registration_hook(count)
    try:
        with torch.device("meta"):
            outline = system.build(config)
        checkpoint.check_fit(outline.state_dict(), state, folder)
        held = sum(buffer.numel() for buffer in outline.buffers())
        if held > _BUFFERED + sum(value.numel() for value in state.values()):
            raise ValueError(f"it describes tables of {held:,} numbers beside the weights")
        with _Unfilled():
            return system.build(config)
    except (ValueError, RuntimeError, ArithmeticError, TypeError, LookupError, AssertionError, MemoryError) as error:
        place, reason = folder / checkpoint.CONFIG_FILE, " ".join(str(error).split())[:200]
        raise CheckpointError(f"{place} describes no network that can be built ({reason}); copy it again") from error
    finally:
        hook.remove()


def load(name: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """Load a trained system: a checkpoint or run folder, or the name of a bundled one (`valle/demo`).

    Returns the object with the verbs of its roles, in evaluation mode.

    Raises:
        CheckpointError: nothing trained is found there.
    """
    target = resolve_device(device) if isinstance(device, str) else device
    model, found, _ = load_model(locate(name))
    role = find(found.system).verbs(model, found)
    return role.to(target).eval().requires_grad_(False)


def locate(name: str | Path) -> Path:
    """Return the folder that a name means: a path that exists, a bundled checkpoint, or a fetched one.

    What was fetched goes by its own name and by its repository's on the Hub (`facebook/hubert-base-ls960`).

    Raises:
        CheckpointError: nothing there; says how to fetch it if it can be had.
    """
    path = standing(Path(name))
    if path.exists():
        return path
    bundled = BUNDLED / INSIDE.get(str(name), str(name))
    if bundled.is_dir():
        return bundled
    called = _own_name(str(name))
    fetched = fetched_folder(called)
    if Path(called).name == called and is_checkpoint(fetched):
        return fetched
    rows = published()
    if called in rows:
        row = rows[called]
        does = "says what to download by hand" if row.by_hand else "brings it"
        raise CheckpointError(f"{name} is not on this machine yet: `voder fetch {called}` {does} ({terms(row)})")
    known = bundled_names()
    listed = f"; bundled are {', '.join(known)}" if known else ""
    raise CheckpointError(
        f"{name} is neither a folder nor the name of a bundled checkpoint{listed}; to fetch are {', '.join(rows)}"
    )


def _own_name(name: str) -> str:
    """The name in our table of what is called by its repository on the Hub; other names stay what they are."""
    if name.count("/") != 1:  # the table takes a moment to read
        return name
    return next((row.name for row in published().values() if row.hub and row.hub[0].repository == name), name)


def cache_folder() -> Path:
    """Where fetched weights are kept: the folder VODER_HOME, or the platform's cache."""
    home = os.environ.get("VODER_HOME")
    return Path(home).expanduser() if home else Path(platformdirs.user_cache_dir("voder"))


def fetched_folder(name: str) -> Path:
    """Where the weights published as `name` are once they have been fetched."""
    return standing(cache_folder() / "models" / Path(name).name)


def is_checkpoint(folder: Path) -> bool:
    """Whether there is a checkpoint in a folder (one is written whole or not at all)."""
    return (folder / checkpoint.CONFIG_FILE).is_file()


@cache
def published() -> Mapping[str, Published]:
    """What can be fetched, by name: the tables of every system's `convert.py`."""
    from voder.systems import SYSTEMS

    rows: dict[str, Published] = {}
    for system in SYSTEMS:
        module = f"voder.systems.{system}.convert"
        if importlib.util.find_spec(module) is not None:
            rows |= {row.name: row for row in getattr(importlib.import_module(module), "PUBLISHED", ())}
    return rows


def is_fetched(name: str) -> bool:
    """True when `voder fetch NAME` has brought it to this machine."""
    return is_checkpoint(fetched_folder(name))


def parts_of(row: Published, *, missing: bool = False) -> list[Published]:
    """What a row is put together with, each once, before what needs it; `missing`: only what is not here yet."""
    found: dict[str, Published] = {}
    for name in row.needs.values():
        if not (missing and is_fetched(name)):
            part = published()[name]
            found |= {each.name: each for each in (*parts_of(part, missing=missing), part)}
    return list(found.values())


def terms(row: Published) -> str:
    """Size and licence of what has to be downloaded for a row, with those of the parts that are not here yet."""
    parts = [f"its part {part.name}: {part.terms}" for part in parts_of(row, missing=True)]
    return "; ".join([row.terms, *parts])


def bundled_names() -> list[str]:
    """Names of the trained checkpoints that came with the package."""
    inside = [name for name, place in INSIDE.items() if (BUNDLED / place / checkpoint.CONFIG_FILE).is_file()]
    return sorted([*inside, *(str(path.parent.relative_to(BUNDLED)) for path in BUNDLED.glob("*/*/config.json"))])


def load_codec(name: str | Path, *, device: str | torch.device = "cpu") -> Any:
    """Load a checkpoint that must be a codec.

    Raises:
        CheckpointError: it is something else.
    """
    return load_role(name, "Codec", device=device)


def load_role(name: str | Path, role: str, *, device: str | torch.device = "cpu") -> Any:
    """Load a checkpoint that must have a role (`Codec`, `Speaker`, `Transcriber`).

    Raises:
        CheckpointError: it is something else; says what.
    """
    return load_any(name, (role,), device=device)


def load_any(name: str | Path, roles: Sequence[str], *, device: str | torch.device = "cpu") -> Any:
    """Load a checkpoint that must have one of several roles.

    Raises:
        CheckpointError: it is something else; says what.
    """
    read_any(name, roles)
    return load(name, device=device)


def read_any(name: str | Path, roles: Sequence[str]) -> checkpoint.Checkpoint:
    """Find a checkpoint that must have one of several roles, without its weights.

    Raises:
        CheckpointError: it is something else; says what.
    """
    found = checkpoint.read(locate(name))
    has = find(found.system).roles
    if not set(roles) & set(has):
        wanted = " or ".join(roles)
        raise CheckpointError(f"{name} is a {found.system} ({', '.join(has)}); a {wanted} is wanted here")
    return found
