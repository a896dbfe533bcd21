"""From a picture to what ImageBind sees: 224 x 224, the middle of it, CLIP's mean and spread taken out."""

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional as F

from voder.errors import InputError

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_SPREAD = (0.26862954, 0.26130258, 0.27577711)


def picture(image: np.ndarray, size: int) -> Float[Tensor, "3 row column"]:
    """Fit bytes `[row, column, colour]`.

    Raises:
        InputError: another shape, or no bytes.
    """
    if image.ndim != 3 or image.shape[2] != 3 or image.dtype != np.uint8 or not image.size:
        raise InputError(f"an image must be bytes [row, column, 3], not {image.dtype} {list(image.shape)}")
    values = torch.from_numpy(image.copy()).permute(2, 0, 1)[None].float() / 255
    height, width = image.shape[:2]
    scale = size / min(height, width)
    fitted = (max(size, round(height * scale)), max(size, round(width * scale)))
    shrunk = F.interpolate(values, fitted, mode="bicubic", antialias=True, align_corners=False).clamp(0, 1)[0]
    top, left = (fitted[0] - size) // 2, (fitted[1] - size) // 2
    cut = shrunk[:, top : top + size, left : left + size]
    return (cut - torch.tensor(_MEAN)[:, None, None]) / torch.tensor(_SPREAD)[:, None, None]
