"""Signal tokens beside a frozen vocabulary: rows of their own in the embedding table and in the output layer.

The old rows stay exactly as they are. (The authors' first two stages train whole tables unawares.)
"""

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.sequence.vocab import Vocabulary
from voder.shapes import Embeddings, Tokens
from voder.systems.nextgpt.config import KINDS, NextGptConfig
from voder.train.base_lm import borrowed_names

_NOISE = 0.02
"""Of a new row, as a share of the old rows' spread around their mean."""


def layout(config: NextGptConfig) -> Vocabulary:
    """Text, the two marks around a medium that is read (legacy line), and the signals of each kind."""
    marks = 2 if config.line == "legacy" else 0
    outputs = {kind: config.output(kind) for kind in KINDS}
    signals = {kind: output.num_signals if output is not None else 0 for kind, output in outputs.items()}
    return Vocabulary.stacked(text=config.lm.vocabulary_size, marks=marks, **signals)


def signal_names(config: NextGptConfig) -> list[str]:
    """What the added ids are called in the authors' files, in order."""
    counts = [(kind, output.num_signals) for kind in KINDS if (output := config.output(kind)) is not None]
    if config.line == "legacy":
        short = {"image": "IMG", "video": "VID", "audio": "AUD"}
        return ["<Img>", "</Img>", *(f"[{short[kind]}{i}]" for kind, count in counts for i in range(count))]
    return [f"<{kind}_{i:02d}>" for kind, count in counts for i in range(count)]


class GrownEmbedding(nn.Module):
    """A table and rows behind it."""

    def __init__(self, base: Any, num_rows: int) -> None:
        super().__init__()
        self.base = base
        self.rows = nn.Parameter(torch.zeros(num_rows, base.weight.shape[1]))

    @property
    def weight(self) -> Float[Tensor, "id channel"]:
        """Both, as one table."""
        return torch.cat((self.base.weight, self.rows))

    def forward(self, ids: Tokens) -> Embeddings:
        """Rows of ids."""
        size = self.base.weight.shape[0]
        old: Tensor = self.base(ids.clamp(max=size - 1))
        if not len(self.rows):
            return old
        new = F.embedding((ids - size).clamp(min=0), self.rows)
        return torch.where((ids < size)[..., None], old, new)


class GrownHead(nn.Module):
    """An output layer and rows behind it."""

    def __init__(self, base: Any, rows: nn.Parameter) -> None:
        super().__init__()
        self.base = base
        self.rows = rows

    @property
    def weight(self) -> Float[Tensor, "id channel"]:
        """Both, as one matrix."""
        return torch.cat((self.base.weight, self.rows))

    def forward(self, states: Float[Tensor, "*place channel"]) -> Float[Tensor, "*place id"]:
        """Logits of all ids."""
        return torch.cat((self.base(states), F.linear(states, self.rows)), dim=-1)


def grow(network: Any, num_rows: int) -> None:
    """Give a transformers model ids behind its own; a tied head shares the new rows too."""
    embedding = GrownEmbedding(network.get_input_embeddings(), num_rows)
    head = network.get_output_embeddings()
    tied = head.weight is embedding.base.weight
    rows = embedding.rows if tied else nn.Parameter(torch.zeros_like(embedding.rows))
    network.set_input_embeddings(embedding)
    network.set_output_embeddings(GrownHead(head, rows))


@torch.no_grad()
def fill_rows(network: nn.Module, generator: torch.Generator) -> None:
    """Begin rows that are still zero at the mean of the old ones, a little apart from one another."""
    for module in network.modules():
        if isinstance(module, GrownEmbedding | GrownHead) and len(module.rows) and not bool(module.rows.any()):
            table = module.base.weight.float()
            noise = torch.randn(module.rows.shape, generator=generator).to(table.device) * table.std(dim=0) * _NOISE
            module.rows.copy_(table.mean(dim=0) + noise)


def base_names(network: Any, prefix: str) -> dict[str, str]:
    """For each frozen weight of a grown network with LoRA, its name in the plain one (see `borrowed_names`)."""
    names = {
        ours: theirs.replace(".base.weight", ".weight")
        for ours, theirs in borrowed_names(network, prefix).items()
        if not ours.endswith(".rows")
    }
    modules = {id(module): name for name, module in network.named_modules()}
    table, head = (
        f"{prefix}{modules[id(part)]}.base.weight"
        for part in (network.get_input_embeddings(), network.get_output_embeddings())
    )
    if network.get_output_embeddings().base.weight is network.get_input_embeddings().base.weight:
        names[head] = names[table]  # a tied head is saved once
    return names
