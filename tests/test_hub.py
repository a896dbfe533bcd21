"""The hub: systems by name, fresh models from presets, trained ones from folders; nothing is ever fetched."""

import json
import socket
import time
from pathlib import Path
from typing import Any

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


def test_a_fetched_name_is_found_in_the_cache_and_nowhere_else(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VODER_HOME", str(tmp_path / "home"))
    folder = hub.fetched_folder("whisper-base")
    assert folder == tmp_path / "home" / "models" / "whisper-base"
    with pytest.raises(CheckpointError, match=r"`voder fetch whisper-base` brings it \(145 MB, MIT\)"):
        hub.locate("whisper-base")
    folder.parent.mkdir(parents=True)
    checkpoint.resolve(run).rename(folder)
    assert hub.locate("whisper-base") == folder
    with pytest.raises(CheckpointError, match="elsewhere/whisper-base is neither a folder nor the name"):
        hub.locate("elsewhere/whisper-base")


def test_without_voder_home_the_cache_is_the_platforms(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VODER_HOME", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert hub.cache_folder() == tmp_path / "voder"
    monkeypatch.setenv("VODER_HOME", "~/weights")
    assert hub.cache_folder() == Path.home() / "weights"


def test_the_tables_of_all_systems_are_whole() -> None:
    rows = hub.published()
    assert {"whisper-base", "whisper-tiny.en"} <= rows.keys()
    for name, row in rows.items():
        assert name == row.name
        assert row.system in SYSTEMS
        assert callable(row.convert)
        for file in row.wheels:
            assert len(file.sha256) == 64
            assert file.num_bytes > 0
            assert file.members


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"channels": -4}, "describes no network"),
        ({"channels": 2**40}, "do not fit|describes no network"),
        ({"dilations": [1] * 100_000}, "far more layers than there are weights"),
        ({"f_max_hz": -9000.0}, "describes no network"),
        ({"n_fft": 2**30}, "n_fft"),
    ],
)
def test_no_figure_of_a_file_decides_what_is_allocated(changes: dict[str, Any], message: str, tmp_path: Path) -> None:
    system = hub.find("ctc")
    config = system.preset("tiny").model
    checkpoint.save(tmp_path / "run", system="ctc", config=config, state=system.build(config).state_dict())
    file = tmp_path / "run" / "config.json"
    record = json.loads(file.read_text())
    _put(record["model"], changes)
    file.write_text(json.dumps(record))
    started = time.monotonic()
    with pytest.raises(CheckpointError, match=message):
        hub.load(tmp_path / "run")
    assert time.monotonic() - started < 20


def _put(model: dict[str, Any], changes: dict[str, Any]) -> None:
    """Change settings wherever they stand."""
    for value in model.values():
        if isinstance(value, dict):
            _put(value, changes)
    model.update({key: value for key, value in changes.items() if key in model})


def test_loading_draws_nothing() -> None:
    before = torch.random.get_rng_state()
    voice = hub.load("ctc/demo")
    assert torch.equal(torch.random.get_rng_state(), before)
    assert all(parameter.isfinite().all() for parameter in voice.parameters())
