"""Tiny encoders of every family, with random weights that do something."""

from dataclasses import replace

import numpy as np
import torch

from voder.audio.io import AudioClip
from voder.systems.hubert import SpeechEncoder
from voder.systems.hubert.config import HubertConfig, NetworkConfig, tiny

_SMALL = tiny().model.network
LAYERED = replace(_SMALL, conv_norm="layer", conv_bias=True, pre_norm=True)
CONFIGS = {
    "hubert": HubertConfig(network=_SMALL),
    "hubert-large": HubertConfig(network=LAYERED, normalize=True),
    "wav2vec2": HubertConfig(family="wav2vec2", network=_SMALL),
    "wavlm": HubertConfig(family="wavlm", network=replace(_SMALL, num_buckets=32)),
    "data2vec": HubertConfig(
        family="data2vec",
        network=replace(_SMALL, conv_norm="layer", position_kernel=5, position_depth=3),
        normalize=True,
    ),
    "w2v_bert": HubertConfig(
        family="w2v_bert",
        network=NetworkConfig(
            dim=32,
            num_layers=3,
            num_heads=4,
            ffn_dim=64,
            left_positions=8,
            right_positions=3,
            depthwise_kernel=7,
            dropout=0.0,
            layer_drop=0.0,
        ),
        normalize=True,
    ),
}


def build(name, **changes):
    torch.manual_seed(0)
    return SpeechEncoder(replace(CONFIGS[name], **changes)).eval().requires_grad_(False)


def clips(*counts, seed=0):
    rng = np.random.default_rng(seed)
    made = []
    for count in counts:
        swell = np.sin(np.arange(count) / 900) * np.sin(np.arange(count) * 0.3)
        samples = 0.2 * swell + 0.02 * rng.standard_normal(count) + 0.05
        made.append(AudioClip(samples[None].astype(np.float32), 16_000))
    return made
