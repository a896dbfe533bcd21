"""NExT-GPT (2309.05519): media in and out of a language model that is frozen but for LoRA.

A recording or picture becomes one ImageBind vector, which a linear layer brings among the word embeddings. Where the
model wants to show something it says signal tokens, whose states an output projector turns into what a generator's own
text encoder would have made of a caption.
"""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.causal_lm import Family, build_causal_lm
from voder.nn.lora import with_lora
from voder.shapes import Embeddings, Mask, Tokens
from voder.systems.nextgpt.config import KINDS, NextGptConfig
from voder.systems.nextgpt.imagebind import ImageBind
from voder.systems.nextgpt.pieces import IGNORED, Piece
from voder.systems.nextgpt.projectors import OutputProjector
from voder.systems.nextgpt.vocabulary import grow, layout

_TARGETS: dict[Family, tuple[str, ...]] = {
    "llama": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "qwen2": ("q_proj", "k_proj", "v_proj", "o_proj"),
    "opt": ("q_proj", "k_proj", "v_proj", "out_proj"),
    "gpt2": ("c_attn", "attn.c_proj"),
}
"""The matrices of attention, as each network calls them."""


@dataclass(frozen=True, kw_only=True)
class Read:
    """A batch laid out for the language model, padded on the right."""

    ids: Tokens
    """0 where a medium's vector stands, and on padding."""
    valid: Mask
    labels: Tokens
    """Ids that are learned, and -100 elsewhere."""
    media: Int[Tensor, "batch position"]
    """Which vector stands here; -1 for none."""


def lay_out(rows: list[list[Piece]], device: torch.device | None = None) -> Read:
    """Put pieces behind one another and rows below one another."""
    length = max(sum(len(piece) for piece in row) for row in rows)
    ids = torch.zeros(len(rows), length, dtype=torch.long)
    labels, media = torch.full_like(ids, IGNORED), torch.full_like(ids, -1)
    valid = torch.zeros_like(ids, dtype=torch.bool)
    for row, pieces in enumerate(rows):
        place = 0
        for piece in pieces:
            here = slice(place, place + len(piece))
            if piece.medium is None:
                ids[row, here] = torch.tensor(piece.ids, dtype=torch.long)
            else:
                media[row, here] = piece.medium
            if piece.learned:
                labels[row, here] = ids[row, here]
            place += len(piece)
        valid[row, :place] = True
    return Read(ids=ids.to(device), valid=valid.to(device), labels=labels.to(device), media=media.to(device))


class NextGpt(nn.Module):
    """The networks; `infer.NextGptChatter` has the verb."""

    def __init__(self, config: NextGptConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = layout(config)
        self.encoder = ImageBind(config.encoder)
        network = build_causal_lm(config.lm)
        grow(network, self.vocabulary.size - config.lm.vocabulary_size)
        self.lm = with_lora(network, config.lora, _TARGETS[config.lm.family])
        self.input_projector = nn.Linear(config.encoder.output_width, config.lm.width)
        self.output_projectors = nn.ModuleDict(
            {
                kind: OutputProjector(
                    config.lm.width,
                    config.projector_width,
                    output.num_vectors,
                    output.width,
                    zero_queries=config.line == "new",
                )
                for kind in KINDS
                if (output := config.output(kind)) is not None
            }
        )

    def embed(self, ids: Tokens) -> Embeddings:
        """What the language model reads of ids."""
        return self.lm.get_input_embeddings()(ids)

    def embeddings(self, read: Read, vectors: Float[Tensor, "medium vector"]) -> Embeddings:
        """Word embeddings, with the projected vectors where media stand."""
        words = self.embed(read.ids)
        if not len(vectors):
            return words
        projected = self.input_projector(vectors.to(words.dtype))
        return torch.where((read.media >= 0)[..., None], projected[read.media.clamp(min=0)], words)

    def states(self, embeddings: Embeddings, valid: Mask) -> tuple[Float[Tensor, "batch position id"], Embeddings]:
        """Logits, and the last states after the final norm."""
        output = self.lm(inputs_embeds=embeddings, attention_mask=valid.long(), output_hidden_states=True)
        return output.logits, output.hidden_states[-1]

    def signal_places(self, ids: Tokens, kind: str) -> Bool[Tensor, "batch position"]:
        """Where signals of a kind stand."""
        span = self.vocabulary[kind]
        return (ids >= span.start) & (ids < span.end)

    def project(
        self, states: Embeddings, ids: Tokens, kind: str
    ) -> tuple[Float[Tensor, "span vector condition"], Int[Tensor, " span"]]:
        """What a generator reads for each span of a kind, row by row, and the rows of the spans.

        Raises:
            ValueError: signals of this kind that are not whole spans.
        """
        span = self.vocabulary[kind]
        places = self.signal_places(ids, kind)
        signals = ids[places]
        whole = torch.arange(span.start, span.end, device=ids.device)
        if len(signals) % span.size or not torch.equal(
            signals.view(-1, span.size), whole.expand(len(signals) // span.size, -1)
        ):
            raise ValueError(f"{kind} must be shown by whole spans of {span.size} signals, one behind the other")
        rows = places.nonzero()[:, 0].view(-1, span.size)[:, 0]
        shape = (len(rows), span.size, states.shape[-1])
        projected: Tensor = self.output_projectors[kind](
            states[places].view(shape), self.embed(ids)[places].view(shape)
        )
        return projected, rows


def row_losses(logits: Float[Tensor, "batch position id"], labels: Tokens) -> tuple[Tensor, Tensor]:
    """Summed cross-entropy of each row's learned ids, and how many they are."""
    wanted = labels[:, 1:]
    losses = F.cross_entropy(logits[:, :-1].float().transpose(1, 2), wanted, ignore_index=IGNORED, reduction="none")
    return losses.sum(dim=1), (wanted != IGNORED).sum(dim=1)
