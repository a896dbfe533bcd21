"""What the networks are pre-trained with: labels of a random projection, clusters, or contrast.

BEST-RQ: 2202.01855. HuBERT: 2106.07447, §II-C, masked prediction of clusters by cosine similarity. wav2vec 2.0:
2006.11477, §3, telling a frame's quantised features from those of other frames.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.shapes import Embeddings, Scalar, Tokens
from voder.systems.hubert.config import MEL_BANDS, MEL_HOP, HubertConfig
from voder.systems.hubert.targets import random_projection_labels

_TEMPERATURE = 0.1


class BestRqHead(nn.Module):
    """A frozen projection and codebook that label mel frames, and a classifier of the network's frames."""

    projection: Tensor
    codebook: Tensor

    def __init__(self, dim: int, *, stack: int, num_labels: int, label_dim: int) -> None:
        super().__init__()
        self.stack = stack
        self.register_buffer("projection", nn.init.xavier_uniform_(torch.empty(stack * MEL_BANDS, label_dim)))
        self.register_buffer("codebook", torch.randn(num_labels, label_dim))
        self.classify = nn.Linear(dim, num_labels)

    def labels(self, stacked: Embeddings) -> Tokens:
        """Labels of normalised, stacked mel frames."""
        return random_projection_labels(stacked, self.projection, self.codebook)

    def forward(self, frames: Float[Tensor, "frame channel"]) -> Float[Tensor, "frame label"]:
        return self.classify(frames)


class ClusterHead(nn.Module):
    """HuBERT's: similarity of projected frames to an embedding of each cluster."""

    def __init__(self, dim: int, *, num_labels: int, label_dim: int) -> None:
        super().__init__()
        self.final_proj = nn.Linear(dim, label_dim)
        self.label_embs = nn.Parameter(torch.rand(num_labels, label_dim))

    def forward(self, frames: Float[Tensor, "frame channel"]) -> Float[Tensor, "frame label"]:
        """Logits over the clusters."""
        projected = self.final_proj(frames).float()
        with torch.autocast(frames.device.type, enabled=False):
            return F.cosine_similarity(projected[:, None], self.label_embs.float()[None], dim=-1) / _TEMPERATURE

    def against_all(
        self, frames: Float[Tensor, "frame channel"], labels: Int[Tensor, " frame"]
    ) -> Float[Tensor, "frame label_and_one"]:
        """Logits as fairseq lays them out: the right cluster first, then all, the right one struck out."""
        logits = self(frames)
        right = logits.gather(1, labels[:, None])
        struck = logits.masked_fill(F.one_hot(labels, logits.shape[1]).bool(), float("-inf"))
        return torch.cat((right, struck), dim=1)


@dataclass(frozen=True)
class Quantised:
    """Frames of a product quantizer, and how widely its codebooks are used."""

    frames: Float[Tensor, "batch masked label_channel"]
    code_perplexity: Scalar
    """Of the entries chosen, summed over codebooks."""
    prob_perplexity: Scalar
    """Of the mean probabilities, summed over codebooks."""


class ContrastHead(nn.Module):
    """wav2vec 2.0's: a product quantizer of the convolutions' features, and a projection to compare in."""

    def __init__(self, dim: int, conv_dim: int, *, num_labels: int, label_dim: int, num_codebooks: int) -> None:
        super().__init__()
        self.num_codebooks, self.num_labels = num_codebooks, num_labels
        self.vars = nn.Parameter(torch.rand(1, num_codebooks * num_labels, label_dim // num_codebooks))
        self.weight_proj = nn.Linear(conv_dim, num_codebooks * num_labels)
        self.project_q = nn.Linear(label_dim, label_dim)
        self.final_proj = nn.Linear(dim, label_dim)

    def quantise(
        self, features: Float[Tensor, "batch masked conv_channel"], *, temperature: float | None = None
    ) -> Quantised:
        """The most probable entry of every codebook; with a temperature, under Gumbel noise, and gradients pass."""
        batch, masked = features.shape[:2]
        logits = self.weight_proj(features).float().view(batch * masked, self.num_codebooks, self.num_labels)
        if temperature is None:
            chosen = F.one_hot(logits.argmax(dim=-1), self.num_labels).float()
        else:
            chosen = F.gumbel_softmax(logits, tau=temperature, hard=True)
        entries = self.vars.view(self.num_codebooks, self.num_labels, -1)
        picked = torch.einsum("fkl,kld->fkd", chosen, entries).reshape(batch, masked, -1)
        return Quantised(
            frames=picked,
            code_perplexity=_perplexity(chosen.mean(dim=0)),
            prob_perplexity=_perplexity(logits.softmax(dim=-1).mean(dim=0)),
        )

    def forward(
        self,
        frames: Float[Tensor, "batch masked channel"],
        targets: Float[Tensor, "batch masked label_channel"],
        others: Int[Tensor, "batch masked negative"],
    ) -> Float[Tensor, "candidate batch masked"]:
        """Similarities to the frame's own target (first) and to those of the `others` of its row.

        A negative that equals the target is struck out.
        """
        projected, wanted = self.final_proj(frames).float(), self.project_q(targets).float()
        rows = torch.arange(len(others), device=others.device)[:, None, None]
        negatives = wanted[rows, others].permute(2, 0, 1, 3)
        candidates = torch.cat((wanted[None], negatives))
        logits = F.cosine_similarity(projected[None], candidates, dim=-1) / _TEMPERATURE
        same = (negatives == wanted[None]).all(dim=-1)
        struck = torch.cat((torch.zeros_like(same[:1]), same))
        return logits.masked_fill(struck, float("-inf"))


def _perplexity(probabilities: Float[Tensor, "codebook label"]) -> Scalar:
    entropy = -(probabilities * (probabilities + 1e-7).log()).sum(dim=-1)
    return entropy.exp().sum()


Head = BestRqHead | ClusterHead | ContrastHead


def build_head(config: HubertConfig) -> Head | None:
    """The head that a configuration asks for."""
    head, network = config.head, config.network
    if head is None:
        return None
    sizes = {"num_labels": head.num_labels, "label_dim": head.label_dim}
    if head.objective == "best_rq":
        hop = 2 * MEL_HOP
        if config.family != "w2v_bert":
            hop = 1
            for stride in network.conv_strides:
                hop *= stride
        return BestRqHead(network.dim, stack=max(1, hop // MEL_HOP), **sizes)
    if head.objective == "hubert":
        return ClusterHead(network.dim, **sizes)
    return ContrastHead(network.dim, network.conv_channels[-1], num_codebooks=head.num_codebooks, **sizes)
