"""SpeechGPT (Zhang et al., 2305.11000): a language model over text and units, nothing else."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.causal_lm import build_causal_lm, with_lora
from voder.shapes import Mask, Tokens
from voder.systems.speechgpt.config import SpeechGptConfig
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary


class SpeechGpt(nn.Module):
    """Ids to logits; the network is transformers' own, with peft's LoRA where there is one."""

    holds_trained: Tensor
    """Whether a trained language model's weights were put in."""

    def __init__(self, config: SpeechGptConfig) -> None:
        super().__init__()
        self.config = config
        self.vocabulary = SpeechGptVocabulary(config.lm.vocabulary_size, config.num_units, markers=config.markers)
        network = build_causal_lm(config.network)
        self.network = network if config.lora is None else with_lora(network, config.lora, config.lora_targets)
        self.register_buffer("holds_trained", torch.zeros((), dtype=torch.bool))

    def forward(self, ids: Tokens, valid: Mask) -> Float[Tensor, "batch position vocabulary"]:
        """Logits of the id behind every position; rows are padded on the right."""
        logits: Tensor = self.network(input_ids=ids, attention_mask=valid.long()).logits
        return logits
