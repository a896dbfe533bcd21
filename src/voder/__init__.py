"""voder: large speech models, side by side, built from the same few parts.

    import voder

    voder.load("runs/voice").say("three one four", voice="prompt.wav")
    voder.load("runs/codec").encode(samples, sample_rate_hz=16000)
    voder.build("valle/tiny")

Importing costs nothing: what is named here is imported when it is first used.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from voder.errors import VoderError as VoderError
    from voder.hub import build as build
    from voder.hub import load as load

    __version__: str

_HOMES = {"load": "voder.hub", "build": "voder.hub", "VoderError": "voder.errors"}

__all__ = ["VoderError", "__version__", "build", "load"]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        from importlib.metadata import version

        return version("voder")
    if name in _HOMES:
        from importlib import import_module

        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'voder' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
