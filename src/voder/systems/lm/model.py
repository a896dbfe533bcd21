"""The network as transformers has it, with LoRA beside its weights where that is asked for."""

from jaxtyping import Float
from torch import Tensor, nn

from voder.nn.causal_lm import build_causal_lm
from voder.nn.lora import with_lora
from voder.shapes import Mask, Tokens
from voder.systems.lm.config import LmConfig

BASE, ADAPTED = "network.", "network.base_model.model."
"""What the names of a network's own weights begin with, without and with LoRA."""


class LmModel(nn.Module):
    """Ids to logits."""

    def __init__(self, config: LmConfig) -> None:
        super().__init__()
        self.config = config
        network = build_causal_lm(config.network)
        self.network = network if config.lora is None else with_lora(network, config.lora, config.lora_targets)

    def forward(self, ids: Tokens, valid: Mask) -> Float[Tensor, "batch position vocabulary"]:
        """Logits of the id behind every position; rows are padded on the right."""
        logits: Tensor = self.network(input_ids=ids, attention_mask=valid.long()).logits
        return logits


def with_lora_names(name: str, targets: tuple[str, ...]) -> str:
    """What a weight of a plain network is called once LoRA is beside it."""
    module, _, leaf = name.rpartition(".")
    inner = f"{module}.base_layer.{leaf}" if module.rpartition(".")[2] in targets else name
    return ADAPTED + inner.removeprefix(BASE)
