"""Every published set of weights goes from files of its layout, under their very names, to a model that loads."""

from dataclasses import replace

import numpy as np
import pytest
from fetch_toys import publish
from published_layouts import ROWS

from voder import checkpoint, fetch, hub
from voder.audio.io import AudioClip, write_audio
from voder.errors import CheckpointError, ConfigError, ResourceError
from voder.generate.units import load_pair, resynthesize
from voder.published import ByHand, Published
from voder.systems import SYSTEMS
from voder.systems.nextgpt import convert as nextgpt
from voder.systems.nextgpt.config import tiny as tiny_nextgpt
from voder.systems.pengi import convert as pengi
from voder.systems.pengi.config import tiny as tiny_pengi

TABLE = dict(hub.published())
WITH_TOYS = {"whisper-tiny.en", "whisper-base", "smollm2-135m-instruct", "ge2e"}
"""Rows whose real files are fetched by the tests marked real."""
ALIKE = {"salmonn-13b": "salmonn-7b", "speechgpt-7b-ma": "speechgpt-7b-cm", "anygpt-chat": "anygpt-base"} | {
    "pengi-base-no-text-enc": "pengi-base"
}
"""Rows that another one stands for: the same files under other names."""


def without_sums(row):
    sources = tuple(
        replace(source, files=tuple(replace(file, sha256="") for file in source.files)) for source in row.hub
    )
    return replace(row, hub=sources)


@pytest.fixture
def published(monkeypatch, tmp_path):
    """The real table, but for the sums, which tiny weights do not have; and an empty cache."""
    publish(monkeypatch, *(without_sums(row) for row in TABLE.values()))
    monkeypatch.setenv("VODER_HOME", str(tmp_path / "home"))
    # the sizes of these two are not told from the weights
    monkeypatch.setattr(nextgpt, "NextGptConfig", lambda **known: replace(tiny_nextgpt().model, **known))
    monkeypatch.setattr(pengi, "published_config", lambda state: tiny_pengi().model)


def test_every_row_is_tried_here_or_stood_for():
    whispers = {name for name in TABLE if name.startswith("whisper-")}
    assert set(TABLE) == set(ROWS) | set(ALIKE) | whispers | WITH_TOYS


@pytest.mark.parametrize("name", ROWS)
def test_files_of_a_row_become_a_checkpoint_that_loads(published, tmp_path, name):
    ROWS[name](tmp_path / "files", tmp_path / "scratch")
    said = []
    folder = fetch.fetch(name, source_folder=tmp_path / "files", say=said.append)
    row = TABLE[name]
    assert checkpoint.read(folder).system == row.system
    assert row.licence in said[0]
    assert all(hub.is_fetched(part) for part in row.needs.values())
    assert hub.load(name) is not None


def test_parts_are_those_that_were_fetched(published, tmp_path):
    ROWS["speechgpt-7b-com"](tmp_path / "files", tmp_path / "scratch")
    folder = fetch.fetch("speechgpt-7b-com", source_folder=tmp_path / "files")
    units = hub.fetched_folder("mhubert-km1000")
    assert checkpoint.identity(folder / "parts" / "units") == checkpoint.identity(units)
    assert hub.load(folder).reader.num_units == 6
    assert hub.load("mhubert-km1000").config.layer == 11


def test_what_soundstorm_refines_is_read_with_the_codec_that_it_keeps(published, tmp_path):
    ROWS["soundstorm-mls"](tmp_path / "files", tmp_path / "scratch")
    fetch.fetch("soundstorm-mls", source_folder=tmp_path / "files")
    write_audio(tmp_path / "in.wav", AudioClip(np.full((1, 4000), 0.1, np.float32), 16_000))
    assert hub.locate("fnlp/AnyGPT-speech-modules") == hub.fetched_folder("speechtokenizer-snake")
    made = resynthesize(tmp_path / "in.wav", load_pair("soundstorm-mls"))
    assert made.clip.duration_s == pytest.approx(0.25, abs=0.1)


def test_what_is_called_by_its_repository_and_not_here_is_said_with_the_name_to_fetch(published):
    with pytest.raises(CheckpointError, match=r"voder fetch hubert-base-ls960` brings it \(378 MB, Apache-2.0\)"):
        hub.load("facebook/hubert-base-ls960")


def test_rows_name_rows_of_the_table_and_systems():
    for row in TABLE.values():
        assert row.system in SYSTEMS
        assert set(row.needs.values()) <= set(TABLE)
        assert row.num_bytes() > 0
        assert row.licence


def test_what_is_downloaded_by_hand_is_said_before_anything_else_happens(published, tmp_path, monkeypatch):
    monkeypatch.setattr("voder.fetch.hugging_face.download", lambda *_: pytest.fail("something was downloaded"))
    with pytest.raises(ResourceError, match=r"\(361 MB, MIT\): put BEATs_iter3_plus.*pt from .*unilm.* --from FOLDER"):
        fetch.fetch("beats-iter3-plus")
    with pytest.raises(ResourceError, match="beats-iter3-plus has to be downloaded by hand"):
        fetch.fetch("salmonn-7b")
    with pytest.raises(ConfigError, match="cannot be had via 'hub'; only by hand"):
        fetch.fetch("beats-iter3-plus", via="hub")
    (tmp_path / "empty").mkdir()
    with pytest.raises(ConfigError, match="must have BEATs_iter3_plus"):
        fetch.fetch("beats-iter3-plus", source_folder=tmp_path / "empty")


def test_a_model_that_is_not_here_is_said_with_size_and_licence_of_all_its_parts(published):
    with pytest.raises(CheckpointError, match=r"`voder fetch beats-iter3-plus` says what to .*\(361 MB, MIT\)"):
        hub.load("beats-iter3-plus")
    with pytest.raises(CheckpointError) as failed:
        hub.load("speechgpt-7b-com")
    for part in ("brings it (17 MB, ", "part mhubert-km1000: 381 MB, ", "part speechgpt-7b-cm: 27.0 GB, not stated"):
        assert part in str(failed.value)


def test_a_row_lies_on_the_network_or_is_downloaded_by_hand():
    values = {"name": "x", "system": "lm", "what": "", "licence": "", "origin": "", "convert": print}
    with pytest.raises(ValueError, match="or else a place"):
        Published(**values)
    by_hand = ByHand(place="there", files=("a",), num_bytes=1)
    with pytest.raises(ValueError, match="or else a place"):
        Published(**values, hub=TABLE["vall-e-x"].hub, by_hand=by_hand)
