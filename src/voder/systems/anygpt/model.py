"""AnyGPT (Zhan et al., 2402.12226): a language model over text and the codes of everything else."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.causal_lm import build_causal_lm
from voder.shapes import Mask, Tokens
from voder.systems.anygpt.config import AnyGptConfig
from voder.systems.anygpt.seed import SeedTokenizer


class AnyGpt(nn.Module):
    """Ids to logits, and the image tokenizer where there is one, which never learns."""

    holds_trained: Tensor
    """Whether a trained language model's weights were put in."""

    def __init__(self, config: AnyGptConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = config.vocabulary
        self.network = build_causal_lm(config.network)
        self.seed = None if config.seed is None else SeedTokenizer(config.seed).requires_grad_(False)
        self.register_buffer("holds_trained", torch.zeros((), dtype=torch.bool))

    def forward(self, ids: Tokens, valid: Mask) -> Float[Tensor, "batch position vocabulary"]:
        """Logits of the id behind every position; rows are padded on the right."""
        logits: Tensor = self.network(input_ids=ids, attention_mask=valid.long()).logits
        return logits
