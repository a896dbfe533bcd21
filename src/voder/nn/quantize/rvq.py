"""Residual vector quantisation with codebooks kept by moving averages.

SoundStream (Zeghidour et al., 2107.03312, §III-C) and EnCodec (Défossez et al., 2210.13438, §3.2). Two
behaviours exist by name. `official` is EnCodec's published code: only the first codebook's commitment reaches
the encoder, the re-seeding of dead codes is undone in the same step, and k-means leaves sums that disagree
with counts. `repaired` (the default) sends every codebook's commitment to the encoder, and gives re-seeded
codes the weight of an average code, so that they live until they prove useless.
"""

from dataclasses import dataclass
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.nn.quantize.records import Quantized
from voder.nn.workers import from_first_worker, gather_rows, sum_over_workers
from voder.shapes import Codes, Latents, Mask

_BLOCK = 16_384  # rows per distance table: 16k x 1024 floats are 64 MB whatever the batch


@dataclass(frozen=True, kw_only=True)
class RVQConfig:
    """Sizes and habits of a residual vector quantizer."""

    num_codebooks: int = 8
    """Stages; each quantises what the ones before left over."""
    codebook_size: int = 1024
    """Vectors per codebook."""
    dim: int = 128
    """Channels of the latent."""
    decay: float = 0.99
    """Of the moving averages of counts and sums."""
    epsilon: float = 1e-5
    """Laplace smoothing of counts."""
    kmeans_init: bool = True
    """Start each codebook from k-means of the first quantised batch; otherwise from random vectors."""
    kmeans_iterations: int = 50
    """Rounds of k-means."""
    kmeans_frames: int = 8192
    """At most so many frames are clustered, drawn at random."""
    warmup_steps: int = 0
    """Training steps without quantisation before the codebooks are initialised."""
    dead_threshold: float = 0.1
    """Share of the mean count below which a code is replaced by a vector of the batch (repaired updates
    only)."""
    dropout: float = 0.0
    """Chance that a training step uses a random number of codebooks."""
    commitment_weight: float = 1.0
    """Factor of the commitment loss."""
    straight_through: Literal["repaired", "official"] = "repaired"
    """Whether every codebook's commitment reaches the encoder, or only the first one's."""
    updates: Literal["repaired", "official"] = "repaired"
    """Whether dead codes are replaced and k-means sums agree with counts, or neither."""


@dataclass(frozen=True)
class Clusters:
    """Result of k-means."""

    means: Float[Tensor, "code channel"]
    counts: Float[Tensor, " code"]


def nearest(points: Float[Tensor, "point channel"], vectors: Float[Tensor, "code channel"]) -> Int[Tensor, " point"]:
    """Find the closest vector of each point; the lowest id wins ties.

    argmin |x-e|² = argmax x·e - |e|²/2: one matrix product per block, and |x|² is never needed.
    """
    offset = vectors.square().sum(dim=1).mul(-0.5)
    blocks = [torch.addmm(offset, block, vectors.t()).argmax(dim=1) for block in torch.split(points, _BLOCK)]
    return torch.cat(blocks) if blocks else points.new_zeros(0, dtype=torch.int64)


def kmeans(points: Float[Tensor, "point channel"], first: Int[Tensor, " code"], iterations: int) -> Clusters:
    """Cluster points by Lloyd's rounds from the points numbered `first`; an empty cluster keeps its mean."""
    means = points[first]
    counts = means.new_zeros(len(means))
    for _ in range(iterations):
        owner = nearest(points, means)
        counts = torch.bincount(owner, minlength=len(means)).to(means.dtype)
        sums = torch.zeros_like(means).index_add_(0, owner, points)
        means = torch.where(counts[:, None] > 0, sums / counts.clamp(min=1)[:, None], means)
    return Clusters(means, counts)


def draw_rows(num_points: int, num_rows: int, device: torch.device) -> Int[Tensor, " row"]:
    """Draw row numbers from torch's global generator: distinct ones when there are enough."""
    if num_points >= num_rows:
        rows = torch.randperm(num_points)[:num_rows]
    else:
        rows = torch.randint(0, num_points, (num_rows,))
    return from_first_worker(rows.to(device))


def canonical_rows(points: Float[Tensor, "point channel"]) -> Float[Tensor, "row channel"]:
    """Gather all workers' points in an order that does not depend on how many workers they came from."""
    points = gather_rows(points)
    return points[points[:, 0].argsort(stable=True)]


class Codebook(nn.Module):
    """One set of vectors with the moving averages that move them. All state is in buffers."""

    vectors: Tensor
    counts: Tensor
    sums: Tensor
    initialised: Tensor

    def __init__(self, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        size = (config.codebook_size, config.dim)
        start = torch.empty(size).uniform_(-1.0, 1.0) / config.dim**0.5
        self.register_buffer("vectors", start)
        self.register_buffer("counts", torch.ones(config.codebook_size))
        self.register_buffer("sums", start.clone())
        self.register_buffer("initialised", torch.tensor([0.0 if config.kmeans_init else 1.0]))

    @torch.no_grad()
    def initialise(self, points: Float[Tensor, "point channel"], first: Int[Tensor, " code"] | None = None) -> None:
        """Set the vectors to the k-means of points; `first` fixes the starting rows."""
        if first is None:
            points = points[draw_rows(len(points), min(len(points), self.config.kmeans_frames), points.device)]
            first = draw_rows(len(points), self.config.codebook_size, points.device)
        clusters = kmeans(points, first, self.config.kmeans_iterations)
        self.vectors.copy_(clusters.means)
        self.counts.copy_(clusters.counts)
        repaired = self.config.updates == "repaired"
        self.sums.copy_(clusters.means * clusters.counts[:, None] if repaired else clusters.means)
        self.initialised.fill_(1.0)

    @torch.no_grad()
    def update(self, points: Float[Tensor, "point channel"], codes: Int[Tensor, " point"]) -> None:
        """Move counts, sums and vectors by one batch."""
        config = self.config
        counts = sum_over_workers(torch.bincount(codes, minlength=config.codebook_size).to(points.dtype))
        sums = sum_over_workers(torch.zeros_like(self.sums).index_add_(0, codes, points))
        if config.updates == "repaired":
            # A past of thousands of k-means points must not outweigh batches of a hundred frames.
            weight = counts.sum() / self.counts.sum()
            self.counts *= weight
            self.sums *= weight
        self.counts.lerp_(counts, 1 - config.decay)
        self.sums.lerp_(sums, 1 - config.decay)
        if config.updates == "repaired":
            self._replace_dead(points)
        total = self.counts.sum()
        smoothed = (self.counts + config.epsilon) / (total + config.codebook_size * config.epsilon) * total
        self.vectors.copy_(self.sums / smoothed[:, None])

    def _replace_dead(self, points: Tensor) -> None:
        points = canonical_rows(points)
        mean = self.counts.mean()
        dead = self.counts < self.config.dead_threshold * mean
        picked = points[draw_rows(len(points), self.config.codebook_size, points.device)]
        self.sums.copy_(torch.where(dead[:, None], picked * mean, self.sums))
        self.counts.copy_(torch.where(dead, mean, self.counts))

    def perplexity(self) -> Tensor:
        """exp(entropy) of the moving counts; 1 before anything was counted."""
        share = self.counts / self.counts.sum().clamp(min=1e-9)
        return torch.special.entr(share).sum().exp()


class ResidualVectorQuantizer(nn.Module):
    """A chain of codebooks, each quantising the residual of those before it. Always computes in float32."""

    steps: Tensor

    def __init__(self, config: RVQConfig) -> None:
        super().__init__()
        self.config = config
        self.codebooks = nn.ModuleList([Codebook(config) for _ in range(config.num_codebooks)])
        self.register_buffer("steps", torch.zeros((), dtype=torch.int64))

    @property
    def needs_initialising(self) -> bool:
        """True when the next training step quantises but the codebooks hold nothing yet."""
        return int(self.steps) >= self.config.warmup_steps and not bool(self._books[0].initialised)

    @property
    def is_warming_up(self) -> bool:
        """True while training steps pass latents unquantised."""
        return int(self.steps) < self.config.warmup_steps

    @property
    def _books(self) -> list[Codebook]:
        return [book for book in self.codebooks if isinstance(book, Codebook)]

    def forward(self, latent: Latents, mask: Mask | None = None, num_codebooks: int | None = None) -> Quantized:
        """Quantise a latent; in training also initialise, update and count codebooks.

        Frames where `mask` is False never reach codebooks or losses.
        """
        used = self._use(num_codebooks)
        if self.training:
            warming = self.is_warming_up
            self.steps += 1
            if warming:
                return self._unquantised(latent)
        with torch.autocast(latent.device.type, enabled=False):
            return self._quantise(latent.float(), mask, used)

    def _unquantised(self, latent: Latents) -> Quantized:
        shape = (latent.shape[0], self.config.num_codebooks, latent.shape[2])
        codes = torch.zeros(shape, dtype=torch.int64, device=latent.device)
        zero = torch.zeros((), device=latent.device)
        return Quantized(values=latent, codes=codes, commitment=zero, perplexity=self.perplexity())

    def _use(self, num_codebooks: int | None) -> int:
        most = self.config.num_codebooks
        if num_codebooks is not None and not 1 <= num_codebooks <= most:
            raise ValueError(f"num_codebooks is {num_codebooks}; this quantizer has 1 to {most}")
        if num_codebooks is None and self.training and self.config.dropout > 0:
            drawn = from_first_worker(torch.rand(2).to(self.steps.device))
            if drawn[0] < self.config.dropout:
                return 1 + min(int(drawn[1] * most), most - 1)
        return num_codebooks or most

    def _quantise(self, latent: Latents, mask: Mask | None, used: int) -> Quantized:
        rows = latent.transpose(1, 2).reshape(-1, latent.shape[1])
        valid = None if mask is None else mask.reshape(-1)
        residual, total = rows, torch.zeros_like(rows)
        codes, losses = [], []
        for book in self._books[:used]:
            inside = (residual if valid is None else residual[valid]).detach()
            if self.training and not bool(book.initialised):
                book.initialise(canonical_rows(inside))
            ids = nearest(residual.detach(), book.vectors)
            found = F.embedding(ids, book.vectors)
            gap = (found - residual) if valid is None else (found - residual)[valid]
            losses.append(gap.square().mean())
            total = total + found
            residual = residual - found
            if self.config.straight_through == "official":
                residual = residual.detach()
            codes.append(ids)
            if self.training:
                book.update(inside, ids if valid is None else ids[valid])
        values = rows + (total - rows).detach()
        batch, _, frames = latent.shape
        return Quantized(
            values=values.view(batch, frames, -1).transpose(1, 2),
            codes=torch.stack(codes, dim=0).view(used, batch, frames).transpose(0, 1),
            commitment=torch.stack(losses).mean() * self.config.commitment_weight,
            perplexity=self.perplexity(),
        )

    @torch.no_grad()
    def initialise(self, points: Float[Tensor, "point channel"]) -> None:
        """Set every codebook from one pool of latent frames, stage after stage (k-means of residuals).

        All workers must give the same pool.
        """
        residual = points.float()
        for book in self._books:
            book.initialise(residual)
            residual = residual - F.embedding(nearest(residual, book.vectors), book.vectors)

    @torch.no_grad()
    def encode(self, latent: Latents, num_codebooks: int | None = None) -> Codes:
        """Give the codes of a latent; nothing is updated and nothing dropped."""
        used = self.config.num_codebooks if num_codebooks is None else self._use(num_codebooks)
        with torch.autocast(latent.device.type, enabled=False):
            residual = latent.float().transpose(1, 2).reshape(-1, latent.shape[1])
            codes = []
            for book in self._books[:used]:
                ids = nearest(residual, book.vectors)
                residual = residual - F.embedding(ids, book.vectors)
                codes.append(ids)
            return torch.stack(codes).view(used, latent.shape[0], latent.shape[2]).transpose(0, 1).contiguous()

    def decode(self, codes: Codes) -> Latents:
        """Sum the vectors of the given codes; fewer codebooks than the quantizer has are allowed."""
        if not 1 <= codes.shape[1] <= self.config.num_codebooks:
            raise ValueError(f"codes have {codes.shape[1]} codebooks; allowed are 1 to {self.config.num_codebooks}")
        found = [F.embedding(codes[:, stage], book.vectors) for stage, book in enumerate(self._books[: codes.shape[1]])]
        return torch.stack(found).sum(dim=0).transpose(1, 2)

    def perplexity(self) -> Float[Tensor, " codebook"]:
        """exp(entropy) of each codebook's moving counts."""
        return torch.stack([book.perplexity() for book in self._books])
