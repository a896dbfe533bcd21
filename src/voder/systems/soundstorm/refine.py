"""Parallel decoding: levels one after another, the first of them in several passes (2305.09636, §3.3).

`refine` is the paper's: a level's passes keep the codes that the network is surest of and mask the rest again, fewer
each time; the levels behind are filled greedily in one pass each. `refine_as_published` is what the code behind the
published weights does instead: masks are ranked over all levels at once although only the first is being decoded,
there are `steps` + 1 passes whose temperature rises from zero, and later levels rewrite those of the prompt.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from voder.errors import ConfigError, TokensError
from voder.sequence.masks import length_mask
from voder.shapes import Lengths, Tokens
from voder.systems.soundstorm.model import KnownLevels, Levels, SoundStorm

_PUBLISHED_KEPT = 0.3  # share of the codes that top-k leaves


@dataclass(frozen=True, kw_only=True)
class RefineConfig:
    """How the first level is decoded."""

    steps: int = 8
    """Passes over the first level."""
    greedy: bool = False
    """Take the most probable codes; nothing is random."""
    temperature: float = 1.0
    """Below 1 sharpens, above 1 flattens."""
    keep_share: float = 0.3
    """Share of the codes, the most probable ones, that sampling may choose from."""

    def __post_init__(self) -> None:
        if self.steps < 1 or not self.temperature > 0 or not 0 < self.keep_share <= 1:
            raise ConfigError(
                f"steps {self.steps} must be at least 1, temperature {self.temperature} above 0 and keep_share "
                f"{self.keep_share} in (0, 1]"
            )


@torch.no_grad()
def refine(
    model: SoundStorm,
    semantic: Tokens,
    lengths: Lengths,
    how: RefineConfig,
    generators: Sequence[torch.Generator],
    prompt: KnownLevels | None = None,
) -> Levels:
    """All levels behind the semantic codes, each row as if it were alone.

    Args:
        semantic: codes of prompt and rest, padded; `lengths` counts both.
        generators: one per row; not drawn from when greedy.
        prompt: known levels of the first frames of every row.

    Raises:
        TokensError: a code is out of range, or the prompt is as long as the whole.
    """
    check(model, semantic, prompt)
    config = model.config
    valid = length_mask(lengths, semantic.shape[1])
    known = torch.full((*semantic.shape, config.num_levels), config.mask_id, device=semantic.device)
    open_ = valid.clone()
    if prompt is not None:
        known[:, : prompt.shape[1]] = prompt
        open_[:, : prompt.shape[1]] = False
    totals = open_.sum(dim=1)
    for step in range(how.steps):
        logits = model(known, semantic, valid)[:, :, 0].float()
        last = step == how.steps - 1
        codes = logits.argmax(dim=-1) if last or how.greedy else _sample(logits, how, lengths, generators)
        sure = logits.softmax(dim=-1).gather(-1, codes[..., None])[..., 0].masked_fill(~open_, torch.inf)
        known[:, :, 0] = torch.where(open_, codes, known[:, :, 0])
        left = (totals * math.cos(math.pi / 2 * (step + 1) / how.steps)).long()
        ranks = sure.argsort(dim=1, stable=True).argsort(dim=1)  # the least sure first
        open_ = open_ & (ranks < left[:, None])
        known[:, :, 0] = known[:, :, 0].masked_fill(open_, config.mask_id)
    first = 0 if prompt is None else prompt.shape[1]
    for level in range(1, config.num_levels):
        codes = model(known, semantic, valid)[:, first:, level].argmax(dim=-1)
        known[:, first:, level] = codes
    return known.masked_fill(~valid[..., None], 0)


def _sample(logits: Tensor, how: RefineConfig, lengths: Lengths, generators: Sequence[torch.Generator]) -> Tokens:
    """Draw a code per frame; a row draws as many numbers as it has frames, whoever shares the batch."""
    kept = top_share(logits, how.keep_share) / how.temperature
    noise = torch.zeros(kept.shape)
    for row, (length, generator) in enumerate(zip(lengths.tolist(), generators, strict=True)):
        uniform = torch.rand(length, kept.shape[-1], generator=generator)
        noise[row, :length] = gumbel(uniform)
    return (kept + noise.to(kept.device)).argmax(dim=-1)


def top_share(logits: Tensor, share: float) -> Tensor:
    """Keep the most probable share of the codes; the rest become impossible."""
    count = math.ceil(share * logits.shape[-1])
    values, ids = logits.topk(count, dim=-1)
    return torch.full_like(logits, -torch.inf).scatter(-1, ids, values)


def gumbel(uniform: Tensor) -> Tensor:
    """Noise whose argmax with logits draws from their distribution."""
    return -torch.log(-torch.log(uniform + 1e-10) + 1e-10)


@torch.no_grad()
def refine_as_published(
    model: SoundStorm,
    semantic: Tokens,
    *,
    steps: int,
    draw: Callable[[tuple[int, int, int]], Tensor],
    prompt: KnownLevels | None = None,
) -> Levels:
    """What the code behind the published weights makes of rows of one length.

    Args:
        semantic: codes of prompt and rest.
        draw: uniform numbers of a shape `[batch, frame * level, code]`.
    """
    check(model, semantic, prompt)
    config, (batch, frames) = model.config, semantic.shape
    levels = config.num_levels
    first = 0 if prompt is None else prompt.shape[1]
    known = torch.full((batch, frames, levels), config.mask_id, device=semantic.device)
    if prompt is not None:
        known[:, :first] = prompt
    free = torch.arange(frames, device=semantic.device)[None, :, None] >= first
    open_ = free.expand(batch, frames, levels)
    for step in range(steps + 1):
        logits = model(known, semantic).flatten(1, 2)
        left = int(math.cos(math.pi / 2 * step / steps) * frames) if step < steps else 0
        if left:
            logits = top_share(logits, _PUBLISHED_KEPT)
            uniform = draw((batch, frames * levels, config.codebook_size))
            codes = (logits / max(step / steps, 1e-10) + gumbel(uniform).to(logits.device)).argmax(dim=-1)
        else:
            codes = logits.argmax(dim=-1)
        known = torch.where(open_, codes.view(batch, frames, levels), known)
        if not left:
            continue
        doubt = 1 - logits.softmax(dim=-1).gather(2, codes[..., None])[..., 0]
        doubtful = doubt.argsort(dim=-1, descending=True)[:, :left]
        again = torch.zeros_like(doubt, dtype=torch.bool).scatter(1, doubtful, True).view(batch, frames, levels)
        again[:, :, 1:] = True
        open_ = again & free
        known = known.masked_fill(open_, config.mask_id)
    for level in range(1, levels):  # each pass fills all levels from its own on, those of the prompt too
        codes = model(known, semantic).argmax(dim=-1)
        known = torch.cat((known[:, :, :level], codes[:, :, level:]), dim=2)
    return known


def check(model: SoundStorm, semantic: Tokens, prompt: KnownLevels | None) -> None:
    """Raise TokensError for codes that this model does not have."""
    config = model.config
    given = [("semantic", semantic, config.num_semantic)]
    if prompt is not None:
        given.append(("prompt", prompt, config.codebook_size))
        if prompt.shape[-1] != config.num_levels or prompt.shape[1] >= semantic.shape[1]:
            raise TokensError(
                f"the prompt has {prompt.shape[1]} frames of {prompt.shape[-1]} levels; {config.num_levels} levels "
                f"and fewer than the {semantic.shape[1]} frames of the whole are wanted"
            )
    for name, codes, size in given:
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < size:
            raise TokensError(
                f"{name} codes run from {int(codes.min())} to {int(codes.max())}; this model has 0 to {size - 1}"
            )
