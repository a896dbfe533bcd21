"""Change of sample rate by a windowed sinc in torch: differentiable, on any device.

J. O. Smith, "Digital Audio Resampling". With its defaults it is the resampling that EnCodec applies to its
input (torchaudio's: 6 zero crossings, roll-off 0.99, squared-cosine window). Files are resampled by
`resample`.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from voder.audio.resample import resampled_length


def sinc_resample(
    samples: Float[Tensor, "*rows sample"],
    from_hz: int,
    to_hz: int,
    *,
    zero_crossings: int = 6,
    rolloff: float = 0.99,
) -> Float[Tensor, "*rows resampled"]:
    """Resample the last axis to ceil(samples * to_hz / from_hz)."""
    if from_hz == to_hz:
        return samples
    common = math.gcd(from_hz, to_hz)
    old, new = from_hz // common, to_hz // common
    kernels, reach = _kernels(old, new, zero_crossings, rolloff)
    rows = F.pad(samples.reshape(-1, 1, samples.shape[-1]), (reach, reach + old))
    phases = F.conv1d(rows, kernels.to(samples), stride=old)
    length = resampled_length(samples.shape[-1], from_hz, to_hz)
    return phases.transpose(1, 2).reshape(*samples.shape[:-1], -1)[..., :length]


def _kernels(old: int, new: int, zero_crossings: int, rolloff: float) -> tuple[Tensor, int]:
    """One filter per output phase, `[new, 1, 2 * reach + old]`, and how far it reaches to the left."""
    cutoff = min(old, new) * rolloff
    reach = math.ceil(zero_crossings * old / cutoff)
    tap = torch.arange(-reach, reach + old, dtype=torch.float64) / old
    # the published coefficients have their phases rounded to float32 before they join the taps
    phase = torch.arange(0, -new, -1)[:, None, None] / new
    t = ((phase + tap) * cutoff).clamp(-zero_crossings, zero_crossings)
    window = torch.cos(t * math.pi / zero_crossings / 2).square()
    return (torch.sinc(t) * window * (cutoff / old)).float(), reach
