"""Foreign checkpoints in, ours out, and back: `voder convert` and `voder export`.

A system takes part through its `convert.py`:

    MARKS              what its foreign checkpoints look like from outside (`voder.interop.Marks`)
    LAYOUTS            the layouts that it writes, by name, each with what is written
    import_checkpoint(source, output, **more) -> Coverage
    export_checkpoint(folder, output, layout) -> names that have no place there

Like `hub`, this module looks upward by name alone.
"""

import importlib
import importlib.util
import types
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, get_args, get_type_hints

from voder import checkpoint, hub
from voder.config import nearest
from voder.errors import CheckpointError, ConfigError
from voder.interop import Coverage, Outside, look

_GIVEN = ("source", "output")


def converters() -> Iterator[tuple[str, Any]]:
    """Systems that read foreign checkpoints, with their `convert` modules."""
    from voder.systems import SYSTEMS

    for name in SYSTEMS:
        module = _converter(name)
        if module is not None and hasattr(module, "MARKS"):
            yield name, module


def _converter(system: str) -> types.ModuleType | None:
    name = f"voder.systems.{system}.convert"
    return importlib.import_module(name) if importlib.util.find_spec(name) else None


def recognise(source: Path) -> str:
    """The system whose foreign checkpoint lies at `source`.

    Raises:
        CheckpointError: no system knows it, or several do; says what was seen.
    """
    outside = look(source)
    known = [(name, module.MARKS) for name, module in converters()]
    fitting = [name for name, marks in known if marks.fit(outside)]
    if len(fitting) == 1:
        return fitting[0]
    if fitting:
        raise CheckpointError(f"{source} may be of {' or '.join(fitting)}; say which with --system")
    names = ", ".join(name for name, _ in known)
    raise CheckpointError(f"{source} is no checkpoint that can be read here ({_seen(outside)}); readable are {names}")


def _seen(outside: Outside) -> str:
    if outside.model_type:
        return f"its model_type is {outside.model_type}"
    if outside.names:
        first = sorted(outside.names)[:3]
        return f"its {len(outside.names)} tensors begin with {', '.join(first)}"
    return "no tensors and no config.json were found in it"


def convert(source: Path, output: Path, *, system: str | None = None, more: Sequence[str] = ()) -> tuple[str, Coverage]:
    """Turn a foreign checkpoint into a checkpoint folder of ours.

    Args:
        source: a file or folder in one of the layouts that a system reads.
        output: the folder to write; it must not exist, or be empty.
        system: whose it is; recognised if not given.
        more: `name=value` for further arguments of the system's `import_checkpoint`, such as the language model beside
            a codec (`lm=FILE`).

    Returns:
        The system, and which tensors were filled.

    Raises:
        CheckpointError: missing, damaged, unknown, or with names that have no place; all are named.
        ConfigError: an argument that the system does not take, or an output folder in use.
    """
    if not source.exists():
        raise CheckpointError(f"there is no {source}; give a checkpoint file or folder")
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise ConfigError(f"{output} exists; choose another folder with -o")
    name = system or recognise(source)
    hub.find(name)
    module = _converter(name)
    if module is None or not hasattr(module, "MARKS"):
        readers = [n for n, _ in converters()]
        raise ConfigError(f"{name} has no foreign layouts; those of {', '.join(readers)} can be read")
    coverage: Coverage = module.import_checkpoint(source, output, **_arguments(module.import_checkpoint, more, name))
    return name, coverage


def _arguments(function: Any, more: Sequence[str], system: str) -> dict[str, Any]:
    """Parse `name=value` by the annotations of a function's keyword arguments."""
    hints = {n: h for n, h in get_type_hints(function).items() if n not in (*_GIVEN, "return")}
    values = {}
    for each in more:
        name, equals, text = each.partition("=")
        if not equals or name not in hints:
            taken = nearest(name, list(hints)) if hints else "; it takes none"
            raise ConfigError(f"converting a checkpoint of {system} does not take {each!r}{taken}")
        values[name] = _value(hints[name], text, each)
    return values


def _value(hint: Any, text: str, given: str) -> Any:
    kinds = [kind for kind in (get_args(hint) or (hint,)) if kind is not types.NoneType]
    if Path in kinds:
        if not Path(text).exists():
            raise ConfigError(f"{given}: there is no {text}")
        return Path(text)
    if int in kinds:
        try:
            return int(text)
        except ValueError:
            raise ConfigError(f"{given}: a whole number is wanted") from None
    return text


def layouts(system: str) -> dict[str, str]:
    """Foreign layouts that a system's checkpoints can be written in, with what is written."""
    module = _converter(system)
    found: dict[str, str] = getattr(module, "LAYOUTS", {})
    return found


def export(model: str | Path, output: Path, layout: str) -> list[str]:
    """Write a checkpoint of ours in a foreign layout; returns the names that have no place there.

    Raises:
        CheckpointError: nothing of ours is at `model`, or a weight has no place.
        ConfigError: the system has no such layout, or `output` exists.
    """
    folder = checkpoint.resolve(hub.locate(model))
    system = checkpoint.read(folder).system
    hub.find(system)
    known = layouts(system)
    if layout not in known:
        can = nearest(layout, list(known)) if known else "; it has none"
        raise ConfigError(f"{system} has no layout {layout!r}{can}")
    if output.exists():
        raise ConfigError(f"{output} exists; choose another name with -o")
    module: Any = _converter(system)
    return list(module.export_checkpoint(folder, output, layout) or [])
