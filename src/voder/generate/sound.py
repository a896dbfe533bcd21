"""Codes that were generated become audio: a batch of different lengths through a codec, each as if it were alone."""

from collections.abc import Sequence

import numpy as np
import torch

from voder.audio.io import AudioClip
from voder.roles import Codec, Encoded, device_of


def decode_codes(codec: Codec, codes: Sequence[np.ndarray], skip: Sequence[int] | None = None) -> list[AudioClip]:
    """Audio of codes `[codebook, frame]`; of each, the first `skip` frames are decoded too but left out."""
    lengths = torch.tensor([each.shape[1] for each in codes])
    padded = torch.zeros(len(codes), codes[0].shape[0], int(lengths.max()), dtype=torch.int64)
    for row, each in zip(padded, codes, strict=True):
        row[:, : each.shape[1]] = torch.from_numpy(np.ascontiguousarray(each))
    device, samples = device_of(codec), lengths * codec.hop
    encoded = Encoded(codes=padded.to(device), lengths=lengths.to(device), num_samples=samples.to(device))
    audio = codec.decode_batch(encoded).float().cpu().numpy()
    starts = [0] * len(codes) if skip is None else [frames * codec.hop for frames in skip]
    return [
        AudioClip(row[:, start:stop], codec.sample_rate_hz)
        for row, start, stop in zip(audio, starts, samples.tolist(), strict=True)
    ]
