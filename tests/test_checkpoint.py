"""Checkpoints: whole or absent, and refused by name when they do not fit."""

import json
import os
import resource
import subprocess
import sys
import threading
from dataclasses import dataclass
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn

from voder import checkpoint, hub
from voder.errors import CheckpointError, FittedPartMismatch, ResourceError


@dataclass(frozen=True, kw_only=True)
class Config:
    """A model's settings."""

    width: int = 3


class Tied(nn.Module):
    """Two names for one weight."""

    def __init__(self) -> None:
        super().__init__()
        self.embed = nn.Embedding(5, 3)
        self.head = nn.Linear(3, 5, bias=False)
        self.head.weight = self.embed.weight


def write(folder: Path, value: float = 1.0, *, width: int = 3, **more: object) -> Path:
    """A checkpoint of one weight."""
    state = {"weight": torch.full((width, 2), value), "count": torch.tensor(7)}
    checkpoint.save(folder, system="toy", config=Config(width=width), state=state, **more)  # type: ignore[arg-type]
    return folder


def test_what_was_saved_is_read(tmp_path: Path) -> None:
    part = write(tmp_path / "codec", 2.0)
    folder = write(tmp_path / "voice", parts={"codec": part}, provenance={"seed": 3, "licences": ["CC0"]})
    found = checkpoint.read(folder)
    assert (found.system, found.config, found.provenance) == ("toy", {"width": 3}, {"seed": 3, "licences": ["CC0"]})
    assert checkpoint.load_state(folder)["weight"].tolist() == [[1.0, 1.0]] * 3
    assert checkpoint.load_state(folder)["count"].dtype == torch.int64
    assert checkpoint.identity(found.parts["codec"]) == checkpoint.identity(part)
    assert checkpoint.read_of(folder, "toy") == found
    with pytest.raises(CheckpointError, match="is a checkpoint of toy; one of pengi is wanted here"):
        checkpoint.read_of(folder, "pengi")


def test_another_systems_checkpoint_and_another_part_are_refused_by_name(tmp_path: Path) -> None:
    part = write(tmp_path / "codec", 2.0)
    folder = write(tmp_path / "voice", parts={"codec": part})
    assert checkpoint.read_of(folder, "toy").folder == folder
    with pytest.raises(CheckpointError, match="a checkpoint of toy; one of voice is wanted"):
        checkpoint.read_of(folder, "voice")
    found = checkpoint.read(folder)
    assert checkpoint.fitted_part(found, "codec", checkpoint.identity(part)) == found.parts["codec"]
    with pytest.raises(
        FittedPartMismatch, match=r"parts/codec is codec [0-9a-f]{16}, but the toy beside it .* of another"
    ):
        checkpoint.fitted_part(found, "codec", "another")
    with pytest.raises(CheckpointError, match="holds no parts/units, which toy needs"):
        checkpoint.fitted_part(found, "units", "another")


def test_strided_and_tied_weights_come_back(tmp_path: Path) -> None:
    model = Tied()
    checkpoint.save(tmp_path / "tied", system="toy", config=Config(), state=model.state_dict())
    other = Tied()
    checkpoint.load_into(other, checkpoint.load_state(tmp_path / "tied"), tmp_path)
    assert torch.equal(other.head.weight, model.embed.weight)
    checkpoint.save(tmp_path / "strided", system="toy", config=Config(), state={"w": torch.arange(6.0).view(2, 3).T})
    assert checkpoint.load_state(tmp_path / "strided")["w"].tolist() == [[0, 3], [1, 4], [2, 5]]


def test_identity_depends_on_weights_and_settings_alone(tmp_path: Path) -> None:
    first = checkpoint.identity(write(tmp_path / "a", provenance={"seed": 1}))
    assert checkpoint.identity(write(tmp_path / "b", provenance={"seed": 2})) == first
    assert checkpoint.identity(write(tmp_path / "c", 1.5)) != first
    assert checkpoint.identity(write(tmp_path / "d", width=4)) != first


def test_the_best_of_a_run_is_meant_or_else_the_newest(tmp_path: Path) -> None:
    run = tmp_path / "run"
    for step in (2, 4, 10):
        write(run / "checkpoints" / f"step-{step:08d}", float(step))
    assert checkpoint.resolve(run).name == "step-00000010"
    (run / "checkpoints" / "best.json").write_text('{"checkpoint": "step-00000004"}')
    assert checkpoint.resolve(run).name == "step-00000004"
    (run / "checkpoints" / "best.json").write_text('{"checkpoint": "step-00000099"}')
    assert checkpoint.resolve(run).name == "step-00000010"


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", "null", "[" * 100_000, "\x00"])
def test_a_damaged_best_mark_is_named(tmp_path: Path, text: str) -> None:
    write(tmp_path / "checkpoints" / "step-00000002")
    (tmp_path / "checkpoints" / "best.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"best\.json is damaged .* delete it"):
        checkpoint.resolve(tmp_path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "{}",
        "[" * 100_000,
        '{"format": "voder-checkpoint/1"}',
        '{"format": "voder-checkpoint/1", "system": 3, "model": {}, "provenance": {}}',
    ],
)
def test_a_damaged_config_is_named(tmp_path: Path, text: str) -> None:
    (write(tmp_path / "a") / "config.json").write_text(text)
    with pytest.raises(CheckpointError, match=r"config\.json is damaged"):
        checkpoint.read(tmp_path / "a")


def test_another_format_version_is_named(tmp_path: Path) -> None:
    file = write(tmp_path / "a") / "config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | {"format": "voder-checkpoint/9"}))
    with pytest.raises(
        CheckpointError, match=r"has format 'voder-checkpoint/9'; this version of voder reads 'voder-checkpoint/1'"
    ):
        checkpoint.read(tmp_path / "a")


@pytest.mark.parametrize("kept", [0, 1, 7, 8, 40, -1])
def test_weights_cut_short_are_named(tmp_path: Path, kept: int) -> None:
    file = write(tmp_path / "a") / "model.safetensors"
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(CheckpointError, match=r"model\.safetensors cannot be read"):
        checkpoint.load_state(tmp_path / "a")


def test_nothing_there_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    for path in (tmp_path, tmp_path / "absent", tmp_path / "file"):
        with pytest.raises(CheckpointError, match="holds no checkpoint"):
            checkpoint.read(path)
    (write(tmp_path / "a") / "model.safetensors").unlink()
    with pytest.raises(CheckpointError, match="cannot be read"):
        checkpoint.load_state(tmp_path / "a")


@pytest.mark.parametrize(
    ("state", "message"),
    [
        ({"weight": torch.zeros(2, 2)}, "missing bias"),
        ({"weight": torch.zeros(2, 2), "bias": torch.zeros(2), "more": torch.zeros(1)}, "unexpected more"),
        ({"weight": torch.zeros(3, 2), "bias": torch.zeros(2)}, "of another shape weight"),
    ],
)
def test_weights_that_do_not_fit_are_named_and_none_is_loaded(state: dict[str, torch.Tensor], message: str) -> None:
    module = nn.Linear(2, 2)
    before = module.weight.detach().clone()
    with pytest.raises(CheckpointError, match=message):
        checkpoint.load_into(module, state, "somewhere")
    assert torch.equal(module.weight, before)


KILLED_WRITERS = """
import os, sys
from pathlib import Path
import toys, torch
from voder import checkpoint, files

def write(folder, value, parts={}):
    state = {"weight": torch.full((3,), value)}
    checkpoint.save(folder, system="toy", config=toys.ToyConfig(), state=state, parts=parts)

part = Path(sys.argv[1], "part")
write(part, 0.0)
for number, moment in enumerate(sys.argv[2:]):
    folder = Path(sys.argv[1], str(number))
    write(folder, 1.0)
    if (child := os.fork()) == 0:
        how, _, function = moment.rpartition(" ")
        if "apart" in how:  # as where the system cannot exchange two names in one step
            files.exchange = lambda first, second: False
        toys.happen_at(function, 1, "after" if "after" in how else "before")
        write(folder, 2.0, {"part": part})
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def test_a_writer_killed_midway_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    moments = [
        "voder.files:exchange",
        "safetensors.torch:serialize_file",
        "shutil:copytree",
        "pathlib:Path.write_text",
        "apart os:rename",
        "apart after os:rename",
    ]
    done = subprocess.run(
        [sys.executable, "-c", KILLED_WRITERS, str(tmp_path), *moments],
        capture_output=True,
        text=True,
        check=True,
        env={**os.environ, "PYTHONPATH": str(Path(__file__).parent)},
    )
    assert done.stdout.split() == ["-9"] * len(moments)
    for number in range(len(moments)):
        folder = tmp_path / str(number)
        assert checkpoint.load_state(folder)["weight"].tolist() == [1.0] * 3
        assert checkpoint.load_state(hub.locate(folder))["weight"].tolist() == [1.0] * 3
        write(folder, 3.0)
        assert checkpoint.load_state(folder)["weight"][0, 0] == 3.0


def test_a_full_disk_is_one_sentence_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    folder = write(tmp_path / "a", 1.0)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match=r"cannot write .*/a/model\.safetensors: .*free space or choose"):
            checkpoint.save(folder, system="toy", config=Config(), state={"weight": torch.zeros(100, 100)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert checkpoint.load_state(folder)["weight"].shape == (3, 2)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("x")
    with pytest.raises(ResourceError, match=r"cannot write .*file/below"):
        write(tmp_path / "file" / "below")


def test_a_name_is_never_absent_while_its_folder_is_replaced(tmp_path: Path) -> None:
    folder, seen = write(tmp_path / "a", 0.0), []
    stop = threading.Event()

    def look() -> None:
        while not stop.is_set():
            seen.append(folder.is_dir())

    looker = threading.Thread(target=look)
    looker.start()
    for value in range(1, 40):
        write(folder, float(value))
    stop.set()
    looker.join()
    assert all(seen)
    assert checkpoint.load_state(folder)["weight"][0, 0] == 39.0
    assert [path.name for path in tmp_path.iterdir()] == ["a"]


def test_large_files_of_parts_share_their_bytes_and_small_ones_do_not(tmp_path: Path) -> None:
    part, cache = tmp_path / "part", tmp_path / "cache.bin"
    large = {"weight": torch.zeros(600, 500)}
    checkpoint.save(part, system="toy", config=Config(), state=large)
    cache.write_bytes(bytes(2 << 20))
    (part / "linked.bin").symlink_to(cache)
    folder = write(tmp_path / "whole", parts={"lm": part})
    inside = folder / "parts" / "lm"
    assert (inside / "model.safetensors").stat().st_ino == (part / "model.safetensors").stat().st_ino
    assert (inside / "config.json").stat().st_ino != (part / "config.json").stat().st_ino
    assert (inside / "linked.bin").stat().st_ino == cache.stat().st_ino
    checkpoint.save(part, system="toy", config=Config(), state={"weight": torch.ones(600, 500)})
    assert checkpoint.load_state(inside)["weight"].sum() == 0


def test_parts_are_copied_where_links_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    part = tmp_path / "part"
    checkpoint.save(part, system="toy", config=Config(), state={"weight": torch.zeros(600, 500)})

    def refuse(source: object, target: object) -> None:
        raise OSError(18, "Invalid cross-device link")

    monkeypatch.setattr(os, "link", refuse)
    folder = write(tmp_path / "whole", parts={"lm": part})
    assert checkpoint.identity(folder / "parts" / "lm") == checkpoint.identity(part)
    assert (folder / "parts" / "lm" / "model.safetensors").stat().st_nlink == 1


@pytest.mark.parametrize("files", [1, 2])
def test_weights_of_a_part_are_borrowed_and_not_repeated(tmp_path: Path, files: int) -> None:
    base = tmp_path / "base"
    base.mkdir()
    weights = {"a": torch.arange(3.0), "b": torch.ones(2, 2)}
    if files == 1:
        save_file(weights, base / "model.safetensors")
    else:
        for name, value in weights.items():
            save_file({name: value}, base / f"model-{name}.safetensors")
        places = {name: f"model-{name}.safetensors" for name in weights}
        (base / "model.safetensors.index.json").write_text(json.dumps({"weight_map": places}))
    borrowed = {"lm.a": "lm/a", "lm.b": "lm/b", "lm.tied": "lm/b"}
    state = {"bridge": torch.full((2,), 7.0)}
    for name in ("first", "second"):
        checkpoint.save(
            tmp_path / name, system="toy", config=Config(), state=state, parts={"lm": base}, borrowed=borrowed
        )
    assert set(load_file(tmp_path / "first" / "model.safetensors")) == {"bridge"}
    found = checkpoint.load_state(tmp_path / "first")
    assert {name: value.tolist() for name, value in found.items()} == {
        "bridge": [7, 7],
        "lm.a": [0, 1, 2],
        "lm.b": [[1, 1], [1, 1]],
        "lm.tied": [[1, 1], [1, 1]],
    }
    assert checkpoint.identity(tmp_path / "first") == checkpoint.identity(tmp_path / "second")
    other = next((tmp_path / "second" / "parts" / "lm").glob("*.safetensors"))
    save_file({name: value + 1 for name, value in load_file(other).items()}, other)
    assert checkpoint.identity(tmp_path / "first") != checkpoint.identity(tmp_path / "second")


def test_a_part_without_a_borrowed_weight_is_named(tmp_path: Path) -> None:
    base = tmp_path / "base"
    base.mkdir()
    save_file({"a": torch.ones(1)}, base / "model.safetensors")
    folder = tmp_path / "whole"
    checkpoint.save(folder, system="toy", config=Config(), state={}, parts={"lm": base}, borrowed={"lm.b": "lm/b"})
    with pytest.raises(CheckpointError, match=r"lm/model\.safetensors lacks weights that .*whole borrows .* b"):
        checkpoint.load_state(folder)
    (base / "model.safetensors.index.json").write_text("{}")
    checkpoint.save(folder, system="toy", config=Config(), state={}, parts={"lm": base}, borrowed={"lm.b": "lm/b"})
    with pytest.raises(CheckpointError, match=r"index\.json does not say where b is"):
        checkpoint.load_state(folder)
