"""Shapes are checked while tests run: every annotated function of voder, by jaxtyping and beartype."""

import os

os.environ.setdefault("OMP_NUM_THREADS", "1")  # before anything loads a library that reads it

import pytest
from jaxtyping import install_import_hook

install_import_hook("voder", "typecheck.check")


@pytest.fixture(scope="session")
def bench(tmp_path_factory: pytest.TempPathFactory):
    """A synthetic corpus and tiny systems trained on it, each made when first asked for."""
    from voder.evaluate.bench import Bench

    return Bench(tmp_path_factory.mktemp("bench"))


@pytest.fixture(autouse=True)
def no_fetched_weights(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was fetched to this machine changes no test but those of real weights."""
    if request.node.get_closest_marker("real") is None:
        monkeypatch.setenv("VODER_HOME", str(tmp_path_factory.getbasetemp() / "no-weights"))
