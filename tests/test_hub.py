"""The hub: systems by name, fresh models from presets, trained ones from folders; nothing is ever fetched."""

import json
import socket
from pathlib import Path

import pytest
import torch
import toys

from voder import checkpoint, hub
from voder.errors import CheckpointError, ConfigError
from voder.systems import SYSTEMS
from voder.train.run import train


@pytest.fixture(autouse=True)
def _toys() -> None:
    toys.install()


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A short run."""
    train(toys.request("toygan", tmp_path / "run", loop__steps=2), say=lambda text: None)
    return tmp_path / "run"


def test_every_system_of_the_table_is_found_by_its_own_name() -> None:
    for name, line in SYSTEMS.items():
        assert hub.find(name).name == name
        assert line


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: hub.find("vale"), "no system 'vale'; the nearest is 'valle'"),
        (lambda: hub.build("spectral/tinny"), "spectral has no preset 'tinny'; the nearest is 'tiny'"),
        (lambda: hub.build("../../etc"), "there is no system '..'"),
    ],
)
def test_unknown_names_are_refused_with_the_nearest(call: object, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        call()  # type: ignore[operator]


def test_build_is_random_and_takes_the_default_preset() -> None:
    torch.manual_seed(0)
    first, second = hub.build("toylm"), hub.build("toylm/tiny")
    assert type(first) is type(second) is toys.ToyLm
    assert not torch.equal(first.out.weight, second.out.weight)


def test_load_returns_trained_weights_ready_to_use(run: Path) -> None:
    model = hub.load(run)
    assert not model.training
    assert not any(p.requires_grad for p in model.parameters())
    state = checkpoint.load_state(run)
    assert all(torch.equal(value, state[name]) for name, value in model.state_dict().items())


def test_a_name_that_is_nowhere_says_what_is_bundled(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "ctc" / "demo").mkdir(parents=True)
    (tmp_path / "ctc" / "demo" / "config.json").write_text("{}")
    monkeypatch.setattr(hub, "BUNDLED", tmp_path)
    with pytest.raises(
        CheckpointError, match="neither a folder nor the name of a bundled checkpoint; bundled are ctc/demo"
    ):
        hub.load("valle/demo")


def test_a_bundled_name_is_found(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")
    target = tmp_path / "bundled" / "toygan" / "demo"
    target.parent.mkdir(parents=True)
    checkpoint.resolve(run).rename(target)
    assert hub.locate("toygan/demo") == target
    assert isinstance(hub.load("toygan/demo"), toys.ToyGan)


def edit(run: Path, **changes: object) -> None:
    """Change a checkpoint's record."""
    file = checkpoint.resolve(run) / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | changes))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"system": "later"}, "of a system that this version does not have: there is no system 'later'"),
        ({"model": {"width": 8, "depth": 2}}, "has no setting 'depth'.*another version of voder"),
        ({"model": {"width": 16}}, "do not fit the configuration beside them: of another shape"),
        ({"model": {"width": "wide"}}, "width is 'wide'"),
    ],
)
def test_a_checkpoint_of_another_version_is_named(run: Path, changes: dict[str, object], message: str) -> None:
    edit(run, **changes)
    with pytest.raises(CheckpointError, match=message):
        hub.load(run)


def test_a_role_that_a_checkpoint_lacks_is_named(run: Path) -> None:
    with pytest.raises(CheckpointError, match=r"is a toygan .*; a Codec is wanted here"):
        hub.load_codec(run)


def test_nothing_is_fetched(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **kwargs: object) -> None:
        raise AssertionError("the network was touched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    with pytest.raises(CheckpointError):
        hub.load("openai/whisper-tiny.en")
