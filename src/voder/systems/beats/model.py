"""BEATs (2212.09058): a transformer over 16 x 16 patches of a log-mel spectrogram.

Positions enter twice: a weight-normed convolution over the patches, and a relative bias that one table shares
between all layers and that every layer gates by what its queries hold (as WavLM, 2110.13900, section 3.3). Residuals
are deep norm (2203.00555): the stream is scaled up before every branch is added, then normed.
"""

import math

import torch
from jaxtyping import Bool, Float
from torch import Tensor, nn
from torch.nn import functional as F
from torch.nn.utils.parametrizations import weight_norm

from voder.audio.fbank import kaldi_fbank
from voder.nn.dropout import ByteDropout
from voder.roles import Encoder, Features
from voder.shapes import Audio, Embeddings, Lengths, Mask
from voder.systems.beats.config import BeatsConfig

Spectrogram = Float[Tensor, "batch frame band"]
Bias = Float[Tensor, "head query key"]
_GATES = 8
"""Outputs of the gate's linear layer: two gates, each a sum of four."""


class RelativeBias(nn.Module):
    """A learned number per head and distance; far distances share logarithmic buckets (T5, 1910.10683, 2.1)."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.max_distance = config.max_distance
        self.table = nn.Embedding(config.num_buckets, config.num_heads)
        nn.init.normal_(self.table.weight, std=0.02)

    def forward(self, length: int) -> Bias:
        """The bias of every query and key of a sequence."""
        place = torch.arange(length, device=self.table.weight.device)
        buckets = self._bucket(place[None, :] - place[:, None])
        return self.table(buckets).permute(2, 0, 1)

    def _bucket(self, distance: Tensor) -> Tensor:
        half = self.table.num_embeddings // 2
        exact = half // 2
        size = distance.abs()
        far = torch.log(size.clamp(min=1).float() / exact) / math.log(self.max_distance / exact) * (half - exact)
        bucket = torch.where(size < exact, size, (exact + far.long()).clamp(max=half - 1))
        return bucket + (distance > 0) * half


class GatedAttention(nn.Module):
    """Self-attention whose relative bias is turned up or down by the query."""

    def __init__(self, width: int, num_heads: int) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.query = nn.Linear(width, width)
        self.key = nn.Linear(width, width)
        self.value = nn.Linear(width, width)
        self.out = nn.Linear(width, width)
        self.gate = nn.Linear(width // num_heads, _GATES)
        self.gate_scale = nn.Parameter(torch.ones(1, num_heads, 1, 1))

    def forward(self, x: Embeddings, bias: Bias, valid: Mask) -> Embeddings:
        """Attend to valid positions; the others get outputs too, which mean nothing."""
        batch, length, width = x.shape
        query, key, value = (
            part(x).view(batch, length, self.num_heads, -1).transpose(1, 2)
            for part in (self.query, self.key, self.value)
        )
        added = self._gates(query) * bias
        added = added.masked_fill(~valid[:, None, None, :], -torch.inf)
        heads = F.scaled_dot_product_attention(query, key, value, attn_mask=added.to(query.dtype))
        return self.out(heads.transpose(1, 2).reshape(batch, length, width))

    def _gates(self, query: Float[Tensor, "batch head query channel"]) -> Float[Tensor, "batch head query 1"]:
        first, second = torch.sigmoid(self.gate(query).unflatten(-1, (2, _GATES // 2)).sum(-1)).chunk(2, dim=-1)
        return first * (second * self.gate_scale - 1.0) + 2.0


class Block(nn.Module):
    """Attention and feed-forward, each added to the scaled-up stream, then normed."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.scale = (2 * config.num_layers) ** 0.25
        self.attention = GatedAttention(config.width, config.num_heads)
        self.attention_norm = nn.LayerNorm(config.width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)
        self.final_norm = nn.LayerNorm(config.width)
        self.dropout = ByteDropout(config.dropout)
        self._initialise((8 * config.num_layers) ** -0.25)

    def _initialise(self, gain: float) -> None:
        """As deep norm asks: what enters the stream starts small, queries and keys do not."""
        for linear in (self.attention.value, self.attention.out, self.ffn_in, self.ffn_out):
            nn.init.xavier_normal_(linear.weight, gain=gain)
            nn.init.zeros_(linear.bias)
        for linear in (self.attention.query, self.attention.key):
            nn.init.xavier_normal_(linear.weight)
            nn.init.zeros_(linear.bias)

    def forward(self, x: Embeddings, bias: Bias, valid: Mask) -> Embeddings:
        """Run one block."""
        x = self.attention_norm(x * self.scale + self.dropout(self.attention(x, bias, valid)))
        hidden = self.ffn_out(F.gelu(self.ffn_in(x)))
        return self.final_norm(x * self.scale + self.dropout(hidden))


class BeatsEncoder(nn.Module):
    """The transformer over embedded patches."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        width, kernel = config.width, config.conv_kernel
        conv = nn.Conv1d(width, width, kernel, padding=kernel // 2, groups=config.conv_groups)
        nn.init.normal_(conv.weight, std=math.sqrt(4 / (kernel * width)))
        assert conv.bias is not None
        nn.init.zeros_(conv.bias)
        self.positions = weight_norm(conv, dim=2)
        self.norm = nn.LayerNorm(width)
        self.bias = RelativeBias(config)
        self.layers = nn.ModuleList(Block(config) for _ in range(config.num_layers))

    def forward(self, x: Embeddings, valid: Mask, num_layers: int | None = None) -> Embeddings:
        """Encode patches; invalid ones are silenced before the convolution and never attended to.

        Stops after `num_layers` blocks.
        """
        length = x.shape[1]
        x = x.masked_fill(~valid[..., None], 0.0)
        # an even kernel makes one output too many: the last is cut
        placed = F.gelu(self.positions(x.transpose(1, 2))[..., :length]).transpose(1, 2)
        x = self.norm(x + placed)
        bias = self.bias(length)
        for layer in self.layers[:num_layers]:
            x = layer(x, bias, valid)
        return x


class Beats(Encoder):
    """Audio to features, 8 patches (low bands first) for every 16 frames; and, with a predictor, to classes."""

    def __init__(self, config: BeatsConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz = config.fbank.sample_rate_hz
        self.width = config.width
        self.patches = nn.Conv2d(1, config.patch_width, config.patch, stride=config.patch, bias=False)
        self.patch_norm = nn.LayerNorm(config.patch_width)
        same = config.patch_width == config.width
        self.projection = nn.Identity() if same else nn.Linear(config.patch_width, config.width)
        self.encoder = BeatsEncoder(config)
        self.predictor = nn.Linear(config.width, config.num_classes) if config.num_classes else None

    def spectrogram(self, audio: Float[Tensor, "batch sample"]) -> Spectrogram:
        """The normalised filterbank, computed in fp32 as the published checkpoints saw it."""
        bands = kaldi_fbank(audio, self.config.fbank, dtype=torch.float32)
        return (bands - self.config.fbank_mean) / self.config.fbank_scale

    def valid_patches(self, lengths: Lengths, num_samples: int) -> Mask:
        """Which patches of a batch padded to `num_samples` belong to each clip.

        `published` counts as the original does: samples are grouped into as many equal stretches as there are
        frames, frames into as many as there are patches, and a stretch is padding when all of it is.
        """
        frames = self.config.fbank.num_frames(num_samples)
        count = frames // self.config.patch * self.config.bands
        if self.config.padding == "published":
            padding = torch.arange(num_samples, device=lengths.device) >= lengths[:, None]
            return ~_grouped(_grouped(padding, frames), count)
        whole = (lengths.clamp(min=self.config.min_samples) - self.config.fbank.window) // self.config.fbank.hop + 1
        own = whole // self.config.patch * self.config.bands
        return torch.arange(count, device=lengths.device) < own[:, None]

    def encode_spectrogram(self, spectrogram: Spectrogram, valid: Mask, layer: int | None = None) -> Embeddings:
        """Encode normalised frames; those beyond the last whole patch are dropped."""
        patches = self.patches(spectrogram[:, None]).flatten(2).transpose(1, 2)  # time-major, low bands first
        return self.encoder(self.projection(self.patch_norm(patches)), valid, layer)

    def encode_batch(self, audio: Audio, lengths: Lengths | None = None, *, layer: int | None = None) -> Features:
        """Encode a zero-padded batch; clips shorter than a patch are filled up with zeros."""
        mono = audio.mean(dim=1)
        if lengths is None:
            lengths = torch.full((len(mono),), mono.shape[1], device=mono.device)
        mono = F.pad(mono, (0, max(0, self.config.min_samples - mono.shape[1])))
        valid = self.valid_patches(lengths, mono.shape[1])
        return Features(values=self.encode_spectrogram(self.spectrogram(mono), valid, layer), valid=valid)

    def classify(self, features: Features) -> Float[Tensor, "batch class"]:
        """Logits of each class: the mean over valid patches of what the predictor says of every patch.

        Raises:
            ValueError: the model has no predictor.
        """
        if self.predictor is None:
            raise ValueError("this BEATs has no predictor: num_classes in its config is 0")
        said = self.predictor(features.values).masked_fill(~features.valid[..., None], 0.0)
        return said.sum(dim=1) / features.valid.sum(dim=1, keepdim=True)


def _grouped(padding: Mask, count: int) -> Bool[Tensor, "batch group"]:
    """Merge a mask into `count` equal stretches, each True when all of it is; what does not divide is dropped."""
    size = padding.shape[1] // count
    return padding[:, : size * count].reshape(len(padding), count, size).all(-1)
