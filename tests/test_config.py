"""Configurations: strict, from presets, files and overrides."""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml

from voder.config import from_dict, nearest, read_yaml, resolve, to_dict, to_yaml
from voder.errors import ConfigError


@dataclass(frozen=True, kw_only=True)
class Inner:
    """A nested part."""

    width: int = 8
    """How wide."""
    rates: tuple[float, ...] = (0.5, 0.25)
    """Some rates."""
    shape: Literal["cosine", "linear"] = "cosine"
    """One of two."""

    def __post_init__(self) -> None:
        if self.width < 1:
            raise ValueError(f"width is {self.width}; 1 or more is wanted")


@dataclass(frozen=True, kw_only=True)
class Outer:
    """A whole."""

    name: str = "x"
    """A name."""
    inner: Inner = field(default_factory=Inner)
    """The nested part."""
    learning_rate: float = 1e-3
    """A rate."""
    minutes: float | None = None
    """Optional."""
    verbose: bool = False
    """A switch."""
    pair: tuple[int, str] = (1, "a")
    """Two of different kinds."""
    extra: Inner | None = None
    """A part that may be absent."""


@dataclass(frozen=True, kw_only=True)
class Needy:
    """Has no default."""

    size: int
    """Needed."""


def test_there_and_back_is_the_same() -> None:
    config = Outer(inner=Inner(width=3, rates=(1.0,)), minutes=2.5, verbose=True, pair=(7, "b"))
    assert from_dict(Outer, to_dict(config)) == config
    assert from_dict(Outer, yaml.safe_load(to_yaml(config))) == config


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"nam": "y"}, r"no setting 'nam'; the nearest is 'name'"),
        ({"zzz": 1}, r"no setting 'zzz'; allowed are extra, inner, learning_rate, minutes, name"),
        ({"inner": {"widht": 3}}, r"inner has no setting 'widht'; the nearest is 'width'"),
        ({"inner": {"width": "3"}}, r"inner: width is '3'; int is wanted"),
        ({"inner": {"width": True}}, r"width is True; int is wanted"),
        ({"inner": {"width": 0}}, r"width is 0; 1 or more is wanted"),
        ({"inner": {"shape": "cosin"}}, r"shape is 'cosin'; allowed are 'cosine', 'linear'"),
        ({"inner": {"rates": 0.5}}, r"rates is 0\.5; a list is wanted"),
        ({"inner": {"rates": ["a"]}}, r"rates\[0\] is 'a'; float is wanted"),
        ({"inner": 3}, r"inner must be a mapping, not 3"),
        ({"pair": [1]}, r"pair has 1 entries; 2 are wanted"),
        ({"verbose": 1}, r"verbose is 1; bool is wanted"),
        ({"minutes": "long"}, r"minutes is 'long'"),
    ],
)
def test_what_does_not_fit_is_refused_by_name(values: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        from_dict(Outer, values)


def test_a_missing_setting_is_named() -> None:
    with pytest.raises(ConfigError, match="the model lacks size"):
        from_dict(Needy, {}, where="the model")


def test_a_whole_number_serves_as_a_float_and_not_the_other_way() -> None:
    assert from_dict(Outer, {"learning_rate": 1}).learning_rate == 1.0
    with pytest.raises(ConfigError, match=r"width is 3\.0"):
        from_dict(Inner, {"width": 3.0})


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name=some words = and more", {"name": "some words = and more"}),
        ("learning_rate=1e-4", {"learning_rate": 1e-4}),
        ("inner.width=5", {"inner": Inner(width=5)}),
        ("inner.rates=[0.1, 2]", {"inner": Inner(rates=(0.1, 2.0))}),
        ("inner.shape=linear", {"inner": Inner(shape="linear")}),
        ("minutes=3", {"minutes": 3.0}),
        ("minutes=null", {"minutes": None}),
        ("verbose=true", {"verbose": True}),
        ("--inner.width=5", {"inner": Inner(width=5)}),
        ('inner={"width": 2}', {"inner": Inner(width=2)}),
    ],
)
def test_overrides_are_dotted(override: str, expected: dict[str, Any]) -> None:
    assert resolve(Outer(), overrides=[override]) == Outer(**expected)


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("inner.with=5", r"no setting 'inner\.with'; the nearest is 'inner\.width'"),
        ("inner.width", r"is not an override; write name=value"),
        ("inner.width=wide", r"inner\.width"),
        ("inner.width=0", r"width is 0"),
        ("inner.shape=square", r"inner\.shape"),
        ("learning_rate=fast", r"learning_rate"),
    ],
)
def test_bad_overrides_are_refused_by_name(override: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        resolve(Outer(), overrides=[override])


def test_an_optional_part_has_dotted_settings_too() -> None:
    made = resolve(Outer(), overrides=["extra.width=3"])
    assert made.extra == Inner(width=3)
    grown = resolve(made, overrides=["extra.shape=linear", "extra.rates=[1.0]"])
    assert grown.extra == Inner(width=3, shape="linear", rates=(1.0,))
    assert resolve(grown, overrides=["extra=null"]).extra is None
    with pytest.raises(ConfigError, match=r"no setting 'extra.widht'; the nearest is 'extra.width'"):
        resolve(Outer(), overrides=["extra.widht=3"])
    with pytest.raises(ConfigError, match="width is 0"):
        resolve(Outer(), overrides=["extra.width=0"])


def test_a_file_goes_over_the_preset_and_overrides_over_the_file(tmp_path: Path) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text("name: from file\nlearning_rate: 3e-4\ninner:\n  width: 4\n")
    config = resolve(Outer(name="preset", verbose=True), file=file, overrides=["inner.width=6"])
    assert config == Outer(name="from file", learning_rate=3e-4, verbose=True, inner=Inner(width=6))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("- a\n- b\n", "must hold a mapping of settings, not list"),
        ("a: [1", "is not readable YAML"),
        ("", "must hold a mapping"),
        ("nam: x\n", "no setting 'nam'; the nearest is 'name'"),
        ("inner:\n  widht: 3\n", "inner has no setting 'widht'"),
        ("!!python/object/apply:os.system ['true']\n", "is not readable YAML"),
        ("[" * 1200, "is not readable YAML"),
    ],
)
def test_bad_files_are_refused_by_name(tmp_path: Path, text: str, message: str) -> None:
    file = tmp_path / "settings.yaml"
    file.write_text(text)
    with pytest.raises(ConfigError, match=message):
        resolve(Outer(), file=file)


def test_files_that_are_absent_or_no_text_are_named(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"absent\.yaml is not readable YAML"):
        read_yaml(tmp_path / "absent.yaml")
    (tmp_path / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ConfigError, match=r"binary\.yaml is not readable YAML"):
        read_yaml(tmp_path / "binary.yaml")


@pytest.mark.parametrize(
    ("text", "value"), [("1e-3", 1e-3), ("2E5", 2e5), ("-1.5e-3", -1.5e-3), ("7", 7), ("'1e-3'", "1e-3")]
)
def test_numbers_with_exponents_are_numbers(tmp_path: Path, text: str, value: object) -> None:
    file = tmp_path / "numbers.yaml"
    file.write_text(f"value: {text}\n")
    assert read_yaml(file) == {"value": value}


def test_nearest_lists_all_when_nothing_is_near() -> None:
    assert nearest("stps", ["steps", "width"]) == "; the nearest is 'steps'"
    assert nearest("qqqq", ["steps", "width"]) == "; allowed are steps, width"
