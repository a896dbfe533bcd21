"""Configurations: frozen dataclasses, to dictionaries and YAML and back, strictly.

A run's settings come from a preset, then a YAML file, then dotted overrides (`model.num_layers=4`), through
jsonargparse. A name that no dataclass knows is refused together with the nearest one that exists.
"""

import dataclasses
import difflib
import re
import types
import typing
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar, get_args, get_origin

import yaml

from voder.errors import ConfigError

T = TypeVar("T")


class _Loader(yaml.SafeLoader):
    """The safe loader, with 1e-3 a number as in YAML 1.2 (PyYAML takes it for text)."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?[0-9]+(\.[0-9]*)?[eE][-+]?[0-9]+$"), list("-+0123456789")
)


def to_dict(config: Any) -> Any:
    """Turn a configuration into plain dictionaries, lists and numbers."""
    if dataclasses.is_dataclass(config) and not isinstance(config, type):
        return {field.name: to_dict(getattr(config, field.name)) for field in dataclasses.fields(config)}
    if isinstance(config, Mapping):
        return {str(key): to_dict(value) for key, value in config.items()}
    if isinstance(config, tuple | list):
        return [to_dict(value) for value in config]
    if isinstance(config, Path):
        return str(config)
    return config


def from_dict(cls: type[T], values: Any, *, where: str = "the configuration") -> T:
    """Build a dataclass from a mapping of plain values, strictly.

    Raises:
        ConfigError: an unknown or missing name, or a value of another type; says where and what is allowed.
    """
    if not isinstance(values, Mapping):
        raise ConfigError(f"{where} must be a mapping, not {values!r}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(cls)}  # type: ignore[arg-type]
    for name in values:
        if name not in fields:
            raise ConfigError(f"{where} has no setting {name!r}{nearest(str(name), list(fields))}")
    built = {name: _convert(hints[name], value, f"{where}: {name}") for name, value in values.items()}
    absent = [n for n, f in fields.items() if n not in built and _has_no_default(f)]
    if absent:
        raise ConfigError(f"{where} lacks {', '.join(absent)}")
    try:
        return cls(**built)
    except ValueError as error:
        raise ConfigError(f"{where}: {error}") from error


def nearest(name: str, allowed: Sequence[str]) -> str:
    """A phrase that offers the nearest valid name, and the whole list when none is near."""
    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]!r}" if close else f"; allowed are {', '.join(sorted(allowed))}"


def resolve(default: T, *, file: Path | None = None, overrides: Sequence[str] = ()) -> T:
    """Apply a YAML file and then dotted overrides (`loop.steps=500`) to a default configuration.

    Raises:
        ConfigError: an unknown name (the nearest valid one is offered) or a value of another type.
    """
    values = to_dict(default)
    cls = type(default)
    if file is not None:
        _check_names(cls, document := read_yaml(file), str(file))
        values = _merged(values, document)
    paths = list(_dotted_paths(cls))
    arguments = []
    for override in overrides:
        name, equals, _ = override.lstrip("-").partition("=")
        if not equals:
            raise ConfigError(f"{override!r} is not an override; write name=value, such as loop.steps=500")
        if name not in paths:
            raise ConfigError(f"there is no setting {name!r}{nearest(name, paths)}")
        arguments.append("--" + override.lstrip("-"))
    if arguments:
        values = _parse(cls, values, arguments)
    return from_dict(cls, values, where="the configuration")


def read_yaml(file: Path) -> dict[str, Any]:
    """Read a YAML mapping with the safe loader.

    Raises:
        ConfigError: missing, not YAML, or not a mapping.
    """
    try:
        document = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, yaml.YAMLError, ValueError, RecursionError) as error:
        raise ConfigError(f"{file} is not readable YAML ({' '.join(str(error).split())})") from error
    if not isinstance(document, dict):
        raise ConfigError(f"{file} must hold a mapping of settings, not {type(document).__name__}")
    return document


def to_yaml(config: Any) -> str:
    """The configuration as YAML, in field order."""
    return yaml.safe_dump(to_dict(config), sort_keys=False, allow_unicode=True)


def _parse(cls: type, values: dict[str, Any], arguments: list[str]) -> dict[str, Any]:
    from jsonargparse import ArgumentParser, Namespace

    parser = ArgumentParser(exit_on_error=False)
    parser.add_class_arguments(cls, as_group=False)
    parser.set_defaults(dict(_leaves(cls, values)))
    try:
        parsed: Namespace = parser.parse_args(arguments)
    except Exception as error:  # jsonargparse raises its own type, and argparse's, for one bad value
        raise ConfigError(f"{' '.join(a[2:] for a in arguments)}: {_first_line(error)}") from error
    given = {a[2:].partition("=")[0] for a in arguments}
    for name in given:
        _assign(values, name.split("."), to_dict(_plain(parsed[name])))
    return values


def _plain(value: Any) -> Any:
    return value.as_dict() if hasattr(value, "as_dict") else value


def _first_line(error: Exception) -> str:
    return next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)


def _assign(values: dict[str, Any], path: list[str], value: Any) -> None:
    for name in path[:-1]:
        if values[name] is None:  # an optional part that was absent begins with its defaults
            values[name] = {}
        values = values[name]
    values[path[-1]] = value


def _merged(base: dict[str, Any], over: Mapping[str, Any]) -> dict[str, Any]:
    result = dict(base)
    for name, value in over.items():
        both = isinstance(value, Mapping) and isinstance(base.get(name), dict)
        result[name] = _merged(base[name], value) if both else value
    return result


def _check_names(cls: type, document: Mapping[str, Any], where: str) -> None:
    hints = typing.get_type_hints(cls)
    for name, value in document.items():
        if name not in hints:
            raise ConfigError(f"{where} has no setting {name!r}{nearest(str(name), list(hints))}")
        if dataclasses.is_dataclass(hints[name]) and isinstance(value, Mapping):
            _check_names(typing.cast(type, hints[name]), value, f"{where}: {name}")


def _dotted_paths(cls: type, prefix: str = "") -> Iterator[str]:
    for name, hint in typing.get_type_hints(cls).items():
        yield prefix + name
        part = _part(hint)
        if part is not None:
            yield from _dotted_paths(part, f"{prefix}{name}.")


def _part(hint: Any) -> type | None:
    """The dataclass that a setting is, or may be."""
    options = get_args(hint) if get_origin(hint) in (typing.Union, types.UnionType) else (hint,)
    return next((option for option in options if isinstance(option, type) and dataclasses.is_dataclass(option)), None)


def _leaves(cls: type, values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    """Dotted name and value of every setting that is not itself a dataclass."""
    for name, hint in typing.get_type_hints(cls).items():
        if dataclasses.is_dataclass(hint):
            yield from _leaves(typing.cast(type, hint), values[name], f"{prefix}{name}.")
        else:
            yield prefix + name, values[name]


def _has_no_default(field: "dataclasses.Field[Any]") -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _convert(hint: Any, value: Any, where: str) -> Any:
    """Check `value` against a type hint, building nested dataclasses and tuples."""
    origin = get_origin(hint)
    if hint is Any:
        return value
    if dataclasses.is_dataclass(hint) and isinstance(hint, type):
        return value if isinstance(value, hint) else from_dict(hint, value, where=where)
    if origin in (typing.Union, types.UnionType):
        return _convert_union(get_args(hint), value, where)
    if origin is typing.Literal:
        if value not in get_args(hint):
            raise ConfigError(f"{where} is {value!r}; allowed are {', '.join(map(repr, get_args(hint)))}")
        return value
    if origin is tuple:
        return _convert_tuple(get_args(hint), value, where)
    if origin is dict:
        if not isinstance(value, Mapping):
            raise ConfigError(f"{where} is {value!r}; a mapping is wanted")
        return {k: _convert(get_args(hint)[1], v, f"{where}.{k}") for k, v in value.items()}
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if hint is type(None) or hint is None:
        hint = type(None)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}; {getattr(hint, '__name__', hint)} is wanted")
    return value


def _convert_union(options: tuple[Any, ...], value: Any, where: str) -> Any:
    problems = []
    for option in options:
        try:
            return _convert(option, value, where)
        except ConfigError as error:
            problems.append(str(error))
    raise ConfigError(problems[0] if len(problems) == 1 else "; or ".join(dict.fromkeys(problems)))


def _convert_tuple(args: tuple[Any, ...], value: Any, where: str) -> Any:
    if not isinstance(value, list | tuple):
        raise ConfigError(f"{where} is {value!r}; a list is wanted")
    if len(args) == 2 and args[1] is Ellipsis:
        return tuple(_convert(args[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if len(args) != len(value):
        raise ConfigError(f"{where} has {len(value)} entries; {len(args)} are wanted")
    return tuple(_convert(arg, item, f"{where}[{i}]") for i, (arg, item) in enumerate(zip(args, value, strict=True)))
