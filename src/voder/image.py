"""Images in and out: the one entrance for pictures, as `voder.audio.io` is for sound."""

import warnings
from pathlib import Path
from typing import Any

import numpy as np

from voder.errors import ConfigError, InputError
from voder.files import atomic_path

_MAX_PIXELS = 64_000_000


def read_image(path: Path) -> np.ndarray:
    """Read an image as bytes `[row, column, colour]`, red, green and blue.

    Raises:
        InputError: missing, damaged, no image, or of more than 64 million pixels.
        ConfigError: the package that reads images is missing.
    """
    image_module = _pillow()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of a file's oddities; what cannot be read raises
            with image_module.open(path) as image:
                width, height = image.size
                if width * height > _MAX_PIXELS:
                    raise InputError(f"{path} has {width} x {height} pixels; at most {_MAX_PIXELS} are read")
                return np.asarray(image.convert("RGB"))
    except FileNotFoundError as error:
        raise InputError(f"there is no file {path}") from error
    except InputError:
        raise
    except Exception as error:  # the readers of damaged files fail in any way
        raise InputError(f"{path} is not a readable image ({error})") from error


def write_image(path: Path, image: np.ndarray) -> None:
    """Write bytes `[row, column, colour]` as a PNG whose metadata says that it is synthetic."""
    module = _pillow()
    from PIL.PngImagePlugin import PngInfo

    marks = PngInfo()
    marks.add_text("Comment", "synthetic image made by voder")
    with atomic_path(path) as temporary:
        module.fromarray(np.ascontiguousarray(image, dtype=np.uint8)).save(temporary, format="PNG", pnginfo=marks)


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ConfigError("images need the pillow package: pip install pillow") from error
    return Image
