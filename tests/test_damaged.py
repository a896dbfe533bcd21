"""Damaged checkpoints and settings are read or refused in one sentence; the long run is scripts/fuzz.py."""

from contextlib import suppress
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voder import checkpoint, hub
from voder.config import resolve, to_yaml
from voder.errors import VoderError

relaxed = settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])


def damaged(original: bytes, data: st.DataObject) -> bytes:
    """A copy with a few bytes changed, and perhaps cut."""
    raw = bytearray(original)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + 2] = data.draw(st.binary(min_size=1, max_size=4))
    return bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)


@pytest.fixture(scope="module")
def intact(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("intact") / "ctc"
    system = hub.find("ctc")
    config = system.preset("tiny").model
    checkpoint.save(folder, system="ctc", config=config, state=system.build(config).state_dict())
    return folder


@pytest.mark.parametrize("name", ["config.json", "model.safetensors"])
@relaxed
@given(data=st.data())
def test_damaged_checkpoints_are_read_or_refused(name: str, intact: Path, data: st.DataObject) -> None:
    file = intact / name
    original = file.read_bytes()
    try:
        file.write_bytes(damaged(original, data))
        with suppress(VoderError):  # anything else is a crash
            hub.load(intact)
    finally:
        file.write_bytes(original)


@relaxed
@given(data=st.data())
def test_damaged_settings_are_read_or_refused(tmp_path: Path, data: st.DataObject) -> None:
    default = hub.find("ctc").preset("tiny")
    file = tmp_path / "settings.yaml"
    file.write_bytes(damaged(to_yaml(default).encode(), data))
    with suppress(VoderError):
        resolve(default, file=file)
