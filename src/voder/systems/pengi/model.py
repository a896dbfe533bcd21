"""Pengi (2305.11834): a recording and a prompt become two prefixes that a frozen language model goes on from.

HTSAT hears, CLIP's text tower reads; both vectors are projected, brought to length one, and mapped to 40 vectors each
in the language model's space. Every task is text after that prefix.
"""

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.causal_lm import build_causal_lm
from voder.shapes import Embeddings, Mask, Tokens
from voder.systems.pengi.config import PengiConfig
from voder.systems.pengi.htsat import Htsat
from voder.systems.pengi.mappers import PrefixMapper, Projection
from voder.systems.pengi.text_tower import TextTower


class Pengi(nn.Module):
    """The networks; `infer.PengiListener` has the verb."""

    def __init__(self, config: PengiConfig) -> None:
        super().__init__()
        self.config = config
        width = config.mapper.width
        self.audio_encoder = Htsat(config.audio)
        self.audio_projection = Projection(config.audio.output_width, width)
        self.text_encoder = None if config.text is None else TextTower(config.text)
        self.text_projection = None if config.text is None else Projection(config.text.output_width, width)
        self.lm = build_causal_lm(config.lm)
        self.audio_mapper = PrefixMapper(config.mapper, config.lm.width, spreads=True)
        self.text_mapper = PrefixMapper(config.mapper, config.lm.width, spreads=config.text is not None)

    @property
    def num_samples(self) -> int:
        """Samples of the clip that is heard."""
        return round(self.config.clip_s * self.config.audio.sample_rate_hz)

    def embed(self, ids: Tokens) -> Embeddings:
        """What the language model reads of ids."""
        return self.lm.get_input_embeddings()(ids)

    def hear(self, audio: Float[Tensor, "batch sample"]) -> Float[Tensor, "batch channel"]:
        """The vector of each recording, before it is brought to length one."""
        return self.audio_projection(self.audio_encoder(audio))

    def read(self, ids: Tokens, valid: Mask | None = None) -> Float[Tensor, "batch ..."]:
        """The vector of each prompt, before it is brought to length one; without a text tower its embeddings."""
        if self.text_encoder is None or self.text_projection is None:
            return self.embed(ids)
        return self.text_projection(self.text_encoder(ids, valid))

    def prefix(
        self, heard: Float[Tensor, "batch heard"], read: Float[Tensor, "batch ..."], *, normalise_text: bool = True
    ) -> Embeddings:
        """What the language model goes on from: the recording's vectors, then the prompt's.

        The published inference leaves `normalise_text` out, though the published training does it; token embeddings are
        never normalised.
        """
        if normalise_text and self.text_encoder is not None:
            read = F.normalize(read, dim=-1)
        return torch.cat((self.audio_mapper(F.normalize(heard, dim=-1)), self.text_mapper(read)), dim=1)

    def logits(self, prefix: Embeddings, answer: Int[Tensor, "batch id"]) -> Float[Tensor, "batch place vocabulary"]:
        """Logits behind every vector of the prefix and every id of the answer."""
        found: Tensor = self.lm(inputs_embeds=torch.cat((prefix, self.embed(answer)), dim=1)).logits
        return found


def answer_loss(
    logits: Float[Tensor, "batch place vocabulary"], answer: Tokens, valid: Mask
) -> tuple[Float[Tensor, ""], int]:
    """Mean cross-entropy of the answers' ids, and how many they are; the prefix carries none."""
    length = answer.shape[1]
    predicted = logits[:, -length - 1 : -1].float()
    losses = F.cross_entropy(predicted.flatten(0, 1), answer.flatten(), reduction="none").view(answer.shape)
    count = int(valid.sum())
    return (losses * valid).sum() / count, count
