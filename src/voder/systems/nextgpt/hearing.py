"""From a recording to the mel images that ImageBind hears: 16 kHz, stretches of 2 s spread over it."""

from collections.abc import Sequence

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor
from torch.nn import functional as F

from voder.audio.fbank import FbankConfig, kaldi_fbank
from voder.audio.io import AudioClip
from voder.errors import AudioError
from voder.systems.nextgpt.config import AudioTrunkConfig

SAMPLE_RATE_HZ = 16_000
_MEAN, _SCALE = -4.268, 9.138
"""Of AudioSet's bands; the scale is not doubled as it is for other networks of that family."""


def mel_image(audio: Float[Tensor, "batch sample"], config: AudioTrunkConfig) -> Float[Tensor, "batch 1 band frame"]:
    """Kaldi's filterbank, with a Hann window and samples as they are, of clips whose mean is taken out first.

    Frames that are missing are 0 (not the floor of the logarithm), those too many are cut.
    """
    centred = audio - audio.mean(dim=1, keepdim=True)
    bands = kaldi_fbank(
        centred, FbankConfig(num_bands=config.num_bands), window_power=1.0, full_scale=1.0, dtype=torch.float32
    )
    fitted = F.pad(bands, (0, 0, 0, max(0, config.num_frames - bands.shape[1])))[:, : config.num_frames]
    return fitted.transpose(1, 2)[:, None]


def normalised(mel: Tensor) -> Tensor:
    """What the network gets of a mel image."""
    return (mel - _MEAN) / _SCALE


def stretches(
    samples: Float32[np.ndarray, " recorded"], config: AudioTrunkConfig
) -> Float32[np.ndarray, "clip sample"]:
    """Stretches of `clip_s`, the first at the beginning and the last at the end; what is shorter is heard whole.

    Raises:
        AudioError: no sample.
    """
    if not len(samples):
        raise AudioError("a recording without samples cannot be heard")
    length = round(config.clip_s * SAMPLE_RATE_HZ)
    slack = max(0, len(samples) - length)
    starts = np.linspace(0, slack, config.num_clips).round().astype(int)
    return np.stack([samples[start : start + length] for start in starts])


def images(clips: Sequence[AudioClip], config: AudioTrunkConfig) -> Float[Tensor, "batch clip 1 band frame"]:
    """Mel images of clips of any rate and channel count."""
    rows = []
    for clip in clips:
        mono = clip.with_channels(1).at_rate(SAMPLE_RATE_HZ).samples[0]
        rows.append(normalised(mel_image(torch.from_numpy(stretches(mono, config)), config)))
    return torch.stack(rows)
