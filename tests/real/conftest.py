"""Published weights for the tests marked `real`: fetched when they are not here yet.

Where no source answers, the test is skipped under the name of the weights; a wrong sum or a failed conversion fails.
"""

from collections.abc import Callable

import pytest

from voder import fetch, hub
from voder.demo.recordings import Recordings, unpack
from voder.errors import ResourceError


@pytest.fixture(scope="session")
def weights() -> Callable[[str], object]:
    """Load by name, each once."""
    loaded: dict[str, object] = {}
    absent: dict[str, str] = {}

    def get(name: str) -> object:
        if name in absent:
            pytest.skip(absent[name])
        if name not in loaded:
            try:
                fetch.fetch(name)
            except ResourceError as error:
                absent[name] = f"{name} was not tested: {error}"
                pytest.skip(absent[name])
            loaded[name] = hub.load(name)
        return loaded[name]

    return get


@pytest.fixture(scope="session")
def recordings(tmp_path_factory) -> Recordings:
    """The digits that come with the package."""
    return unpack(tmp_path_factory.mktemp("digits") / "recordings")
