"""Finite scalar quantisation: round every channel to a few levels; the codebook is the grid (2309.15505).

Three conventions exist by name, because codes of one mean nothing to another (two of them disagree on about 1
%):

    notebook    the authors' notebook: range shrunk by eps, shift by tan
    vqp         vector-quantize-pytorch: range grown by eps, shift by atanh
    symmetric   vector-quantize-pytorch with preserve_symmetry: floor based, levels evenly spaced in [-1, 1]

Ids are folded in int64 and everything else is computed in float32, since bfloat16 loses about half of the
codes.
"""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.nn.quantize.records import Quantized
from voder.shapes import Codes, Latents, Mask

Convention = Literal["notebook", "vqp", "symmetric"]


@dataclass(frozen=True, kw_only=True)
class FSQConfig:
    """Levels and arrangement of a finite scalar quantizer."""

    levels: tuple[int, ...] = (8, 5, 5, 5)
    """Levels per channel; their product is the codebook size. The paper advises at least 5 each."""
    dim: int = 4
    """Channels of the latent; a linear map leads in and out when it is not the number the levels need."""
    convention: Convention = "notebook"
    """Which rounding: notebook, vqp or symmetric. Residual quantizers are always symmetric."""
    epsilon: float = 1e-3
    """By how much the range is shrunk (notebook) or grown (vqp) so that the outer levels can be reached."""
    num_codebooks: int = 1
    """Ids per frame."""
    arrangement: Literal["parallel", "residual"] = "parallel"
    """Codebooks side by side on channels of their own, or each on what the ones before left over."""


class ScalarGrid(nn.Module):
    """The grid of one codebook: bounds, rounds and numbers vectors whose last axis holds the levels'
    channels."""

    levels: Tensor
    basis: Tensor
    half_range: Tensor
    shift: Tensor
    offset: Tensor

    def __init__(
        self,
        levels: tuple[int, ...],
        convention: Convention = "notebook",
        epsilon: float = 1e-3,
        hard_clamp: bool = False,
    ) -> None:
        super().__init__()
        if not levels or min(levels) < 2:
            raise ValueError(f"levels are {levels}; every channel needs at least 2")
        if hard_clamp and convention != "symmetric":
            raise ValueError(f"hard_clamp needs the symmetric convention, not {convention}")
        self.convention, self.hard_clamp = convention, hard_clamp
        self.size = math.prod(levels)
        sign = -1.0 if convention == "notebook" else 1.0
        half = [(n - 1) * (1 + sign * epsilon) / 2 for n in levels]
        offset = [0.5 if n % 2 == 0 else 0.0 for n in levels]
        shift = [_bend(convention, o / h) for o, h in zip(offset, half, strict=True)]
        for name, value in (("half_range", half), ("offset", offset), ("shift", shift)):
            self.register_buffer(name, torch.tensor(value, dtype=torch.float32), persistent=False)
        self.register_buffer("levels", torch.tensor(levels), persistent=False)
        basis = [math.prod(levels[:i]) for i in range(len(levels))]
        self.register_buffer("basis", torch.tensor(basis), persistent=False)

    def bound(self, z: Float[Tensor, "*rows channel"]) -> Float[Tensor, "*rows channel"]:
        """Squash into the range in which neighbouring levels are 1 apart."""
        if self.convention == "symmetric":
            inside = z.clamp(-1.0, 1.0) if self.hard_clamp else z.tanh()
            return (self.levels - 1) * (inside + 1) / 2.0
        return torch.tanh(z + self.shift) * self.half_range - self.offset

    def digits(self, z: Float[Tensor, "*rows channel"]) -> Int[Tensor, "*rows channel"]:
        """Give the level number of every channel, 0 to L-1."""
        return self._round(self.bound(z))

    def _round(self, bounded: Tensor) -> Tensor:
        if self.convention == "symmetric":
            return torch.floor(bounded + 0.5).long()
        return bounded.round().long() + self.levels // 2

    def values(self, digits: Int[Tensor, "*rows channel"]) -> Float[Tensor, "*rows channel"]:
        """Give the coordinates of level numbers, in about [-1, 1]."""
        if self.convention == "symmetric":
            return digits.float() * (2.0 / (self.levels - 1)) - 1.0
        half_width = self.levels // 2
        return (digits - half_width).float() / half_width

    def quantise(self, z: Float[Tensor, "*rows channel"]) -> Float[Tensor, "*rows channel"]:
        """Round to the grid; gradients pass straight through the rounding."""
        bounded = self.bound(z)
        scale = 2.0 / (self.levels - 1) if self.convention == "symmetric" else 1.0 / (self.levels // 2)
        soft = bounded * scale
        return self.values(self._round(bounded.detach())) + (soft - soft.detach())

    def number(self, digits: Int[Tensor, "*rows channel"]) -> Int[Tensor, "*rows"]:
        """Fold level numbers into one id; the first channel varies fastest."""
        return (digits * self.basis).sum(dim=-1)

    def unnumber(self, ids: Int[Tensor, "*rows"]) -> Int[Tensor, "*rows channel"]:
        """Unfold ids into level numbers."""
        return (ids[..., None] // self.basis) % self.levels


def _bend(convention: Convention, share: float) -> float:
    if convention == "notebook":
        return math.tan(share)
    return math.atanh(share) if convention == "vqp" else 0.0


class FiniteScalarQuantizer(nn.Module):
    """Codebooks side by side: each takes channels of its own."""

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        if config.arrangement != "parallel":
            raise ValueError("arrangement is residual: use ResidualFSQ")
        self.config = config
        self.grid = ScalarGrid(config.levels, config.convention, config.epsilon)
        inner = len(config.levels) * config.num_codebooks
        same = inner == config.dim
        self.project_in = nn.Identity() if same else nn.Linear(config.dim, inner)
        self.project_out = nn.Identity() if same else nn.Linear(inner, config.dim)

    def forward(self, latent: Latents, mask: Mask | None = None, num_codebooks: int | None = None) -> Quantized:
        """Quantise a latent. There is no commitment loss and no state; `mask` only affects perplexity."""
        self._check(num_codebooks)
        with torch.autocast(latent.device.type, enabled=False):
            grouped = self._grouped(latent.float())
            values = self.project_out(self.grid.quantise(grouped).flatten(2)).transpose(1, 2)
            codes = self.grid.number(self.grid.digits(grouped.detach())).transpose(1, 2)
        return _quantized(values, codes, mask, self.grid.size)

    def _grouped(self, latent: Latents) -> Tensor:
        inner = self.project_in(latent.transpose(1, 2))
        return inner.unflatten(2, (self.config.num_codebooks, len(self.config.levels)))

    def _check(self, num_codebooks: int | None) -> None:
        have = self.config.num_codebooks
        if num_codebooks is not None and num_codebooks != have:
            raise ValueError(f"num_codebooks is {num_codebooks}; side-by-side codebooks only work together, all {have}")

    @torch.no_grad()
    def encode(self, latent: Latents, num_codebooks: int | None = None) -> Codes:
        """Give the codes of a latent."""
        self._check(num_codebooks)
        with torch.autocast(latent.device.type, enabled=False):
            return self.grid.number(self.grid.digits(self._grouped(latent.float()))).transpose(1, 2).contiguous()

    def decode(self, codes: Codes) -> Latents:
        """Give the vectors of codes."""
        self._check(codes.shape[1])
        _check_range(codes, self.grid.size)
        with torch.autocast(codes.device.type, enabled=False):
            values = self.grid.values(self.grid.unnumber(codes.transpose(1, 2)))
            return self.project_out(values.flatten(2)).transpose(1, 2)


class ResidualFSQ(nn.Module):
    """Codebooks one after the other on ever finer grids: stage i works on the residual times levels^i."""

    scales: Tensor
    limit: Tensor

    def __init__(self, config: FSQConfig) -> None:
        super().__init__()
        if config.arrangement != "residual":
            raise ValueError("arrangement is parallel: use FiniteScalarQuantizer")
        self.config = config
        self.grid = ScalarGrid(config.levels, "symmetric", config.epsilon, hard_clamp=True)
        inner = len(config.levels)
        self.project_in = nn.Identity() if inner == config.dim else nn.Linear(config.dim, inner)
        self.project_out = nn.Identity() if inner == config.dim else nn.Linear(inner, config.dim)
        levels = torch.tensor(config.levels, dtype=torch.float32)
        scales = torch.stack([levels ** -float(stage) for stage in range(config.num_codebooks)])
        self.register_buffer("scales", scales, persistent=False)
        # The outermost cells reach half a step beyond [-1, 1]; the input is softly kept inside them.
        self.register_buffer("limit", 1.0 + 1.0 / (levels - 1.0), persistent=False)

    def forward(self, latent: Latents, mask: Mask | None = None, num_codebooks: int | None = None) -> Quantized:
        """Quantise a latent with the first `num_codebooks` stages."""
        used = self._use(num_codebooks)
        with torch.autocast(latent.device.type, enabled=False):
            inner = self.project_in(latent.float().transpose(1, 2))
            residual = torch.tanh(inner / self.limit) * self.limit
            total, codes = torch.zeros_like(residual), []
            for scale in self.scales[:used]:
                scaled = residual / scale
                value = self.grid.quantise(scaled) * scale
                codes.append(self.grid.number(self.grid.digits(scaled.detach())))
                residual = residual - value.detach()
                total = total + value
            values = self.project_out(total).transpose(1, 2)
        return _quantized(values, torch.stack(codes, dim=1), mask, self.grid.size)

    def _use(self, num_codebooks: int | None) -> int:
        most = self.config.num_codebooks
        if num_codebooks is not None and not 1 <= num_codebooks <= most:
            raise ValueError(f"num_codebooks is {num_codebooks}; this quantizer has 1 to {most}")
        return num_codebooks or most

    @torch.no_grad()
    def encode(self, latent: Latents, num_codebooks: int | None = None) -> Codes:
        """Give the codes of a latent."""
        return self(latent, num_codebooks=num_codebooks).codes

    def decode(self, codes: Codes) -> Latents:
        """Sum the grid points of the given codes; fewer codebooks than the quantizer has are allowed."""
        used = self._use(codes.shape[1])
        _check_range(codes, self.grid.size)
        with torch.autocast(codes.device.type, enabled=False):
            points = self.grid.values(self.grid.unnumber(codes))
            total = (points * self.scales[:used, None, :]).sum(dim=1)
            return self.project_out(total).transpose(1, 2)


def build_fsq(config: FSQConfig) -> FiniteScalarQuantizer | ResidualFSQ:
    """Make the quantizer that a config describes."""
    return ResidualFSQ(config) if config.arrangement == "residual" else FiniteScalarQuantizer(config)


def _check_range(codes: Codes, size: int) -> None:
    if codes.numel() and (int(codes.min()) < 0 or int(codes.max()) >= size):
        raise ValueError(f"codes reach from {int(codes.min())} to {int(codes.max())}; allowed are 0 to {size - 1}")


def _quantized(values: Latents, codes: Codes, mask: Mask | None, size: int) -> Quantized:
    return Quantized(
        values=values,
        codes=codes,
        commitment=torch.zeros((), device=values.device),
        perplexity=batch_perplexity(codes, mask, size),
    )


@torch.no_grad()
def batch_perplexity(codes: Codes, mask: Mask | None, size: int) -> Float[Tensor, " codebook"]:
    """exp(entropy) of the codes of one batch, per codebook; frames outside `mask` do not count."""
    rows = codes.transpose(0, 1).flatten(1)
    if mask is not None:
        rows = rows[:, mask.reshape(-1)]
    share = torch.stack([torch.bincount(row, minlength=size) for row in rows]).float() / max(rows.shape[1], 1)
    return torch.special.entr(share).sum(dim=1).exp()
