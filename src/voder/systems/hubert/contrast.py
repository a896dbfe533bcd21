"""wav2vec 2.0's objective (2006.11477, section 3): a masked frame's quantised features, told from those of others.

The quantizer chooses one entry of each codebook with Gumbel noise whose temperature falls over the steps. Every crop
gets equally many masked frames, and a frame's negatives are other masked frames of its own crop.
"""

import torch
from jaxtyping import Int
from torch import Tensor

from voder.errors import ConfigError
from voder.shapes import Audio, Mask
from voder.systems.hubert.heads import ContrastHead
from voder.systems.hubert.model import SpeechEncoder
from voder.systems.hubert.objective import Prediction, mean_square
from voder.systems.hubert.targets import draw_spans

NEGATIVES = 100
DIVERSITY = 0.1
"""Weight of the share of codes that go unused."""
_WARMEST, _COLDEST, _COOLING = 2.0, 0.5, 0.999995


def temperature(step: int) -> float:
    """Of the Gumbel noise at a training step."""
    return max(_COLDEST, _WARMEST * _COOLING**step)


def even_rows(masked: Mask) -> Int[Tensor, "batch masked"]:
    """Places of masked frames, as many in every row as the row that has fewest; the rest are left out at random."""
    count = int(masked.sum(dim=1).min())
    chances = torch.rand(masked.shape, device=masked.device).masked_fill(~masked, -1.0)
    return chances.topk(count, dim=1).indices.sort(dim=1).values


def draw_negatives(rows: int, masked: int, count: int, device: torch.device) -> Int[Tensor, "batch masked negative"]:
    """For every masked frame, others of its row."""
    return others_than_own(torch.randint(masked - 1, (rows, masked, count), device=device))


def others_than_own(drawn: Int[Tensor, "batch masked negative"]) -> Int[Tensor, "batch masked negative"]:
    """Numbers drawn from all masked frames but one become frames other than the row's own."""
    own = torch.arange(drawn.shape[1], device=drawn.device)[None, :, None]
    return drawn + (drawn >= own).long()


def predict(model: SpeechEncoder, audio: Audio, *, start: float, span: int, step: int | None) -> Prediction:
    """Mask spans of frames and find each one's own features among those of others.

    Args:
        step: decides the temperature of the noise; without, the most probable entries are chosen.

    Raises:
        ConfigError: crops are too short for two masked frames.
    """
    head = model.head
    assert isinstance(head, ContrastHead)
    front = model.front(audio[:, 0], None)
    items, frames = front.features.shape[:2]
    places = even_rows(draw_spans(items, frames, start=start, span=span, device=audio.device))
    count = places.shape[1]
    if count < 2:
        raise ConfigError(f"crops of {frames} frames have {count} masked; raise task.crop_s, or task.mask_span")
    masked = torch.zeros(items, frames, dtype=torch.bool, device=audio.device).scatter_(1, places, True)
    last = model.last_state(front, masked=masked)
    gathered = [x.gather(1, places[..., None].expand(-1, -1, x.shape[2])) for x in (model.output(last), front.normed)]
    quantised = head.quantise(gathered[1], temperature=None if step is None else temperature(step))
    logits = head(gathered[0], quantised.frames, draw_negatives(items, count, NEGATIVES, audio.device))
    every = head.num_codebooks * head.num_labels
    return Prediction(
        logits.permute(1, 2, 0).flatten(0, 1),
        torch.zeros(items * count, dtype=torch.int64, device=audio.device),
        mean_square(front.features, front.valid),
        added=DIVERSITY * (every - quantised.prob_perplexity) / every,
        used=quantised.code_perplexity,
    )
