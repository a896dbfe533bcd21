"""Labels for HuBERT's masked prediction (2106.07447, section II-C): clusters of frames, written as fairseq has them.

The first iteration clusters 39 MFCCs (13 with two deltas, 100 frames a second), the next ones a layer of the encoder
trained before. `label_corpus` (`voder cluster DATA --labels`) fits k-means on the training split and writes `train.km`,
`valid.km` and `test.km` beside the manifests: one line per recording, in their order.
"""

import math
from pathlib import Path

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from voder.audio.fbank import FbankConfig, kaldi_fbank
from voder.audio.io import AudioClip
from voder.data.manifest import Manifest
from voder.errors import ConfigError, ManifestError
from voder.nn.quantize.rvq import nearest
from voder.systems.hubert.formats import read_km, write_dict, write_km
from voder.systems.hubert.kmeans import FrameReader, Frames, LayerFrames, fit_kmeans, load_encoder, sample_frames

MFCC_RATE_HZ = 100.0
_CEPSTRA, _MEL_BANDS, _LIFTER = 13, 23, 22.0
_SLACK_S = 0.1
"""Labels and recordings may differ by so much, as in fairseq."""


def mfcc(audio: Float[Tensor, " sample"]) -> Frames:
    """39 features of 16 kHz audio in [-1, 1]: Kaldi's 13 cepstra, their deltas, and the deltas of those."""
    bands = kaldi_fbank(audio[None], FbankConfig(num_bands=_MEL_BANDS))[0].double()
    centre = (torch.arange(_MEL_BANDS, dtype=torch.float64) + 0.5) * math.pi / _MEL_BANDS
    order = torch.arange(_CEPSTRA, dtype=torch.float64)
    cosines = torch.cos(centre[:, None] * order) * math.sqrt(2.0 / _MEL_BANDS)
    cosines[:, 0] = math.sqrt(1.0 / _MEL_BANDS)
    cepstra = bands @ cosines * (1.0 + 0.5 * _LIFTER * torch.sin(math.pi * order / _LIFTER))
    first = deltas(cepstra)
    return torch.cat((cepstra, first, deltas(first)), dim=1).float()


class MfccFrames:
    """Reads MFCCs."""

    sample_rate_hz = 16_000

    def __call__(self, clip: AudioClip) -> Frames:
        """Frames of a recording."""
        return mfcc(torch.from_numpy(np.ascontiguousarray(clip.samples[0])))


def deltas(frames: Float[Tensor, "frame channel"]) -> Float[Tensor, "frame channel"]:
    """Slope over five frames by least squares; the first and last frame are repeated outside."""
    slope = torch.arange(-2.0, 3.0, dtype=frames.dtype) / 10.0
    padded = F.pad(frames.T[:, None], (2, 2), mode="replicate")
    return F.conv1d(padded, slope[None, None])[:, 0].T


def label_corpus(
    data: Path,
    *,
    num_labels: int,
    model: str | Path | None = None,
    layer: int | None = None,
    num_frames: int = 500_000,
    seed: int = 0,
    suffix: str = "km",
    device: str | torch.device = "cpu",
) -> float:
    """Cluster frames of a prepared corpus and write every recording's labels; returns the mean squared distance.

    Args:
        data: a folder of `voder prepare`.
        num_labels: clusters.
        model: an encoder whose layer is clustered; MFCCs if not given.
        layer: counted from 1; the encoder's output if not given.
        num_frames: frames that k-means sees, at most.
        seed: of the choice of recordings and of k-means.
        suffix: of the files, `km` for `train.km`.
        device: where the encoder runs.

    Raises:
        CheckpointError: the model is of another system.
        ConfigError: no such layer, or too little audio.
        ManifestError: the training split is empty.
    """
    if model is None and layer is not None:
        raise ConfigError(f"layer {layer} is of an encoder, and none is given: MFCCs have no layers")
    read: FrameReader = MfccFrames()
    if model is not None:
        read = LayerFrames(load_encoder(model)[0].to(device).eval(), layer)
    frames = sample_frames(read, Manifest.open(data / "train.jsonl"), num_frames=num_frames, seed=seed)
    clusters = fit_kmeans(frames, num_labels, seed=seed)
    write_dict(data / f"dict.{suffix}.txt", num_labels)
    for split in ("train", "valid", "test"):
        if not (data / f"{split}.jsonl").is_file():
            continue
        heard = (
            read(each.read(sample_rate_hz=read.sample_rate_hz, channels=1))
            for each in Manifest.open(data / f"{split}.jsonl")
        )
        write_km(data / f"{split}.{suffix}", [nearest(x, clusters.centers).cpu().numpy() for x in heard])
    return clusters.inertia


def read_labels(manifest: Manifest, suffix: str, *, rate_hz: float, num_labels: int) -> list[np.ndarray]:
    """The labels of every recording of a manifest, from the file beside it.

    Raises:
        ManifestError: no such file, another number of lines, labels of another length than the recordings, or beyond
            `num_labels`.
    """
    file = manifest.path.with_suffix(f".{suffix}")
    if not file.is_file():
        raise ManifestError(
            f"{file} does not exist: masked prediction of clusters needs labels: make them with `voder cluster`"
        )
    labels = read_km(file)
    if len(labels) != len(manifest):
        raise ManifestError(f"{file} has {len(labels)} lines, but {manifest.path.name} has {len(manifest)} recordings")
    highest = max((int(each.max()) for each in labels if each.size), default=0)
    if highest >= num_labels:
        raise ManifestError(f"{file} has label {highest}, but model.head.num_labels is {num_labels}: set it higher")
    for number, (each, duration_s) in enumerate(zip(labels, manifest.durations_s, strict=True), 1):
        if abs(len(each) / rate_hz - duration_s) > _SLACK_S:
            raise ManifestError(
                f"{file} line {number}: {len(each)} labels at {rate_hz:g}/s are {len(each) / rate_hz:.2f} s, but the "
                f"recording lasts {duration_s:.2f} s; is task.label_rate_hz right?"
            )
    return labels
