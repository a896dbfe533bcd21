"""Cluster centres of our own: k-means of a layer's frames over a corpus, in torch.

Started by k-means++ (Arthur and Vassilvitskii, SODA 2007), several times; the tightest clustering wins. The recipe of
published units (GSLM, 2102.01192) is that of scikit-learn's mini-batches; whole batches need no more memory here.
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

from voder import checkpoint
from voder.audio.io import AudioClip
from voder.config import from_dict
from voder.data.manifest import Manifest
from voder.data.randomness import generator, torch_generator
from voder.data.summary import summarize
from voder.errors import CheckpointError, ConfigError, ManifestError
from voder.hub import load_model, locate
from voder.nn.quantize.rvq import kmeans, nearest
from voder.roles import collate_clips, device_of
from voder.systems.hubert.config import HubertConfig
from voder.systems.hubert.model import SpeechEncoder

_SEEDING_POINTS = 20_000
Frames = Float[Tensor, "frame channel"]


@dataclass(frozen=True, kw_only=True)
class Clustering:
    """Centres and how close the points are to them."""

    centers: Float[Tensor, "unit channel"]
    inertia: float
    """Mean squared distance of a point to its centre."""


def spread_rows(points: Float[Tensor, "point channel"], num_rows: int, draw: torch.Generator) -> Int[Tensor, " row"]:
    """k-means++: every next row is drawn in proportion to its squared distance from those drawn."""
    first = torch.randint(len(points), (1,), generator=draw)
    rows = [int(first)]
    distance = (points - points[rows[0]]).square().sum(dim=1)
    for _ in range(num_rows - 1):
        weights = distance.cpu().double()
        if float(weights.sum()) <= 0:  # fewer different points than rows
            weights = torch.ones_like(weights)
        rows.append(int(torch.multinomial(weights, 1, generator=draw)))
        distance = torch.minimum(distance, (points - points[rows[-1]]).square().sum(dim=1))
    return torch.tensor(rows, device=points.device)


def fit_kmeans(
    points: Float[Tensor, "point channel"], num_units: int, *, seed: int = 0, iterations: int = 100, starts: int = 5
) -> Clustering:
    """Cluster points; the same seed gives the same centres.

    Raises:
        ConfigError: fewer points than centres.
    """
    if len(points) < num_units:
        raise ConfigError(f"{len(points)} frames cannot make {num_units} units; give more audio or fewer units")
    best: Clustering | None = None
    for start in range(starts):
        draw = torch_generator(seed, "kmeans", start)
        order = torch.randperm(len(points), generator=draw)[: max(_SEEDING_POINTS, num_units)].to(points.device)
        rows = order[spread_rows(points[order], num_units, draw)]
        centers = kmeans(points, rows, iterations).means
        inertia = float((points - centers[nearest(points, centers)]).square().sum(dim=1).mean())
        if best is None or inertia < best.inertia:
            best = Clustering(centers=centers, inertia=inertia)
    assert best is not None
    return best


@runtime_checkable
class FrameReader(Protocol):
    """What makes frames of a recording."""

    sample_rate_hz: int
    """Rate of the audio that it wants."""

    def __call__(self, clip: AudioClip) -> Frames:
        """Frames of a recording of one channel at that rate; none if it is shorter than one."""


class LayerFrames:
    """Reads frames off a layer of an encoder, counted from 1; off its output if there is no number."""

    def __init__(self, encoder: SpeechEncoder, layer: int | None) -> None:
        self.encoder, self.layer = encoder, layer
        self.sample_rate_hz = encoder.sample_rate_hz

    @torch.no_grad()
    def __call__(self, clip: AudioClip) -> Frames:
        """Frames of a recording."""
        if clip.num_samples < self.encoder.receptive_field:
            return torch.zeros(0, self.encoder.width)
        found = self.encoder.encode_batch(*collate_clips([clip], device_of(self.encoder)), layer=self.layer)
        return found.values[found.valid].float()


def sample_frames(read: FrameReader, manifest: Manifest, *, num_frames: int, seed: int = 0) -> Frames:
    """Frames of recordings in random order, until there are enough.

    Raises:
        ManifestError: the manifest is empty, or has no recording as long as a frame.
    """
    if not len(manifest):
        raise ManifestError(f"{manifest.path} lists no recordings; there is nothing to cluster")
    kept: list[Frames] = []
    count = 0
    for index in generator(seed, "frames").permutation(len(manifest)):
        kept.append(read(manifest[int(index)].read(sample_rate_hz=read.sample_rate_hz, channels=1)))
        count += len(kept[-1])
        if count >= num_frames:
            break
    if not count:
        raise ManifestError(f"every recording of {manifest.path} is shorter than one frame")
    return torch.cat([each for each in kept if len(each)])[:num_frames]


def learn_units(
    data: Path,
    model: str | Path,
    output: Path,
    *,
    num_units: int,
    layer: int | None = None,
    num_frames: int = 500_000,
    seed: int = 0,
    iterations: int = 100,
    starts: int = 5,
    device: str | torch.device = "cpu",
) -> Clustering:
    """Fit units on the training split of a prepared corpus and write encoder and centres as one checkpoint.

    Raises:
        CheckpointError: the model is of another system.
        ConfigError: no such layer, or too little audio.
    """
    encoder, found, config = load_encoder(model)
    encoder.to(device).eval()
    manifest = Manifest.open(data / "train.jsonl")
    frames = sample_frames(LayerFrames(encoder, layer), manifest, num_frames=num_frames, seed=seed)
    clusters = fit_kmeans(frames, num_units, seed=seed, iterations=iterations, starts=starts)
    provenance = {**found.provenance, "units": {"data": summarize(manifest), "frames": len(frames), "seed": seed}}
    save_with_centers(encoder, config, clusters.centers.cpu().numpy(), output, layer=layer, provenance=provenance)
    return clusters


def load_encoder(model: str | Path) -> tuple[SpeechEncoder, checkpoint.Checkpoint, HubertConfig]:
    """Load a checkpoint of this system for a change to it.

    Raises:
        CheckpointError: it is of another system.
    """
    found = checkpoint.read(locate(model))
    if found.system != "hubert":
        raise CheckpointError(f"{model} is a {found.system}; an encoder of the system hubert is wanted here")
    loaded, found, _ = load_model(found.folder)
    assert isinstance(loaded, SpeechEncoder)
    return loaded, found, from_dict(HubertConfig, found.config, where=str(found.folder))


def save_with_centers(
    encoder: SpeechEncoder,
    config: HubertConfig,
    centers: np.ndarray,
    output: Path,
    *,
    layer: int | None,
    provenance: dict[str, object],
) -> None:
    """Write an encoder with these centres, and the layer that they belong to.

    Raises:
        ConfigError: the centres are of another width than the encoder, or there is no such layer.
    """
    if centers.shape[1] != encoder.width:
        raise ConfigError(
            f"the centres have {centers.shape[1]} channels but the encoder's layers have {encoder.width}: "
            "they were fitted on another encoder"
        )
    state = dict(encoder.state_dict()) | {"centers": torch.from_numpy(np.ascontiguousarray(centers)).float()}
    fitted = replace(config, layer=layer, num_units=len(centers))
    checkpoint.save(output, system="hubert", config=fitted, state=state, provenance=provenance)
