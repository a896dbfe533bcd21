"""What frames are taught: mel frames normalised, stacked and labelled by a frozen random projection.

BEST-RQ: Chiu et al., 2202.01855, section 3. The input must be normalised, or the codes collapse to a few.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from voder.sequence.masks import length_mask
from voder.shapes import Embeddings, Lengths, Tokens


def normalize_bands(mel: Embeddings, frames: Lengths, *, epsilon: float, correction: int = 0) -> Embeddings:
    """Bring every band of every item to zero mean and unit variance over its own frames; zeros beyond them.

    `correction` is 1 for the sample variance, 0 for the population's; `epsilon` is added to it.
    """
    valid = length_mask(frames, mel.shape[1])[..., None]
    count = frames.clamp(min=1)[:, None, None]
    mean = (mel * valid).sum(dim=1, keepdim=True) / count
    centred = (mel - mean) * valid
    variance = centred.square().sum(dim=1, keepdim=True) / (count - correction).clamp(min=1)
    return centred / (variance + epsilon).sqrt()


def stack_frames(mel: Embeddings, stack: int) -> Float[Tensor, "batch stacked stacked_channel"]:
    """Join every `stack` frames into one; frames beyond a multiple are dropped."""
    batch, frames, bands = mel.shape
    return mel[:, : frames // stack * stack].reshape(batch, frames // stack, stack * bands)


def random_projection_labels(
    stacked: Embeddings, projection: Float[Tensor, "channel code_channel"], codebook: Float[Tensor, "code code_channel"]
) -> Tokens:
    """The nearest code of each projected frame, both sides of unit length, in fp32."""
    with torch.autocast(stacked.device.type, enabled=False):
        projected = F.normalize(stacked.float() @ projection.float(), dim=-1)
        return (projected @ F.normalize(codebook.float(), dim=-1).t()).argmax(dim=-1)


def expand_spans(
    starts: Bool[Tensor, "batch frame"] | Int[Tensor, "batch frame"], span: int
) -> Bool[Tensor, "batch frame"]:
    """Mask `span` frames from every start on; spans may overlap and are cut at the end."""
    marked = F.pad(starts.float()[:, None], (span - 1, 0))
    return F.max_pool1d(marked, span, stride=1)[:, 0] > 0


def draw_spans(
    batch: int, frames: int, *, start: float, span: int, device: torch.device
) -> Bool[Tensor, "batch frame"]:
    """Random spans, at least one per item; draws from torch's global generator, which the training loop seeds."""
    starts = torch.rand(batch, frames, device=device) < start
    one = (torch.rand(batch, device=device) * frames).long().clamp(max=frames - 1)
    starts[torch.arange(batch, device=device), one] = True
    return expand_spans(starts, span)
