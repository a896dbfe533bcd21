"""How codes of several codebooks become one or several streams, and back.

- flatten (AudioLM, 2209.03143): frame after frame, all its codebooks one behind the other; ids of codebook k are
  moved by k * codebook_size so that each codebook has its own.
- delay (MusicGen, 2306.05284): codebook k starts k steps late, so one step predicts a code per codebook and each
  codebook sees the coarser ones of its own frame.
- coarse and fine (VALL-E, AudioLM): the first codebooks apart from the others.
"""

import torch
from jaxtyping import Int
from torch import Tensor

FrameCodes = Int[Tensor, "codebook frame"]
CoarseCodes = Int[Tensor, "coarse frame"]
FineCodes = Int[Tensor, "fine frame"]


def flatten(codes: FrameCodes, codebook_size: int) -> Int[Tensor, " position"]:
    """Lay codes out frame by frame, each codebook in its own id range."""
    offsets = torch.arange(codes.shape[0], device=codes.device) * codebook_size
    return (codes + offsets[:, None]).t().reshape(-1)


def unflatten(ids: Int[Tensor, " position"], num_codebooks: int, codebook_size: int) -> FrameCodes:
    """Undo `flatten`; an unfinished last frame is dropped.

    Raises:
        ValueError: an id does not belong to the codebook whose turn it is.
    """
    num_frames = ids.shape[0] // num_codebooks
    offsets = torch.arange(num_codebooks, device=ids.device) * codebook_size
    codes = ids[: num_frames * num_codebooks].view(num_frames, num_codebooks).t() - offsets[:, None]
    if bool(((codes < 0) | (codes >= codebook_size)).any()):
        raise ValueError("an id lies outside the range of the codebook whose turn it is")
    return codes


def delay(codes: FrameCodes, fill: int) -> Int[Tensor, "codebook step"]:
    """Shift codebook k right by k steps; empty places hold `fill`."""
    num_codebooks, num_frames = codes.shape
    delayed = codes.new_full((num_codebooks, num_frames + num_codebooks - 1), fill)
    for k in range(num_codebooks):
        delayed[k, k : k + num_frames] = codes[k]
    return delayed


def undelay(delayed: Int[Tensor, "codebook step"]) -> FrameCodes:
    """Undo `delay`."""
    num_codebooks, num_steps = delayed.shape
    num_frames = num_steps - num_codebooks + 1
    if num_frames < 0:
        raise ValueError(f"{num_steps} steps cannot hold {num_codebooks} delayed codebooks")
    return torch.stack([delayed[k, k : k + num_frames] for k in range(num_codebooks)])


def split_coarse(codes: FrameCodes, num_coarse: int) -> tuple[CoarseCodes, FineCodes]:
    """The first `num_coarse` codebooks, and the others."""
    if not 0 < num_coarse <= codes.shape[0]:
        raise ValueError(f"num_coarse {num_coarse} must lie in 1 to {codes.shape[0]}")
    return codes[:num_coarse], codes[num_coarse:]


def join_fine(coarse: CoarseCodes, fine: FineCodes) -> FrameCodes:
    """Undo `split_coarse`."""
    return torch.cat((coarse, fine), dim=0)
