"""SEED-2 (2310.01218), as AnyGPT uses it: an image is 32 codes, and those are the embedding of an image generator.

    image ── ViT ── norm ── Q-Former ── 768 → 32 ── nearest of 8192 vectors ── 32 codes
    codes ── vectors ── 32 → 768 ── + positions ── transformer blocks ── 768 → 32 each ── one vector for unCLIP

The ViT is EVA's (keys have no bias). It is trained nowhere here: published weights, frozen.
"""

from dataclasses import dataclass
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.errors import TokensError
from voder.nn.attention import attend
from voder.nn.qformer import EPSILON, QueryLayer
from voder.roles import ImageTokenizer
from voder.shapes import Embeddings, Tokens

_MEAN = (0.48145466, 0.4578275, 0.40821073)
_DEVIATION = (0.26862954, 0.26130258, 0.27577711)
_VIT_EPSILON, _OUTER_EPSILON = 1e-6, 1e-5
_DOWN = (256, 128, 32)  # widths of the layers that narrow a vector before all are laid side by side
Images = Float[Tensor, "batch 3 row column"]


@dataclass(frozen=True, kw_only=True)
class SeedConfig:
    """Sizes of the image tokenizer; the defaults are for tests, `config.published_seed` has the published ones."""

    image_size: int = 28
    """Rows and columns of an image."""
    patch_size: int = 14
    """Rows and columns of a patch."""
    vit_width: int = 24
    """Channels of the ViT."""
    vit_layers: int = 1
    """Its blocks."""
    vit_heads: int = 2
    """Its attention heads."""
    vit_ffn_width: int = 32
    """Channels inside its feed-forward parts."""
    num_queries: int = 4
    """Codes of an image."""
    width: int = 24
    """Channels of the Q-Former."""
    num_layers: int = 2
    """Its layers, every second of which looks at the image."""
    num_heads: int = 2
    """Its attention heads."""
    ffn_width: int = 32
    """Channels inside its feed-forward parts."""
    codebook_size: int = 16
    """Codes."""
    code_width: int = 8
    """Channels of a code's vector."""
    num_blocks: int = 1
    """Blocks behind the codes, of 12 heads each."""
    output_width: int = 16
    """Channels of the embedding for the image generator."""
    keeps_reconstruction: bool = True
    """Keep the published branch that image generation does not use, so that exports are whole."""

    def __post_init__(self) -> None:
        if self.image_size % self.patch_size:
            raise ValueError(f"image_size {self.image_size} must be a multiple of patch_size {self.patch_size}")
        heads = ((self.vit_width, self.vit_heads), (self.width, self.num_heads), (self.width, 12))
        for width, count in heads:
            if width % count:
                raise ValueError(f"width {width} must be a multiple of its {count} heads")


class VitAttention(nn.Module):
    """Self-attention with one projection; EVA's keys have no bias."""

    def __init__(self, width: int, num_heads: int, *, key_bias: bool) -> None:
        super().__init__()
        self.num_heads, self.key_bias = num_heads, key_bias
        self.in_projection = nn.Linear(width, 3 * width, bias=key_bias)
        if not key_bias:
            self.query_bias = nn.Parameter(torch.zeros(width))
            self.value_bias = nn.Parameter(torch.zeros(width))
        self.out_projection = nn.Linear(width, width)

    def forward(self, x: Embeddings) -> Embeddings:
        """Keep the shape."""
        projected = self.in_projection(x)
        if not self.key_bias:
            projected = projected + torch.cat((self.query_bias, torch.zeros_like(self.query_bias), self.value_bias))
        parts = projected.unflatten(-1, (3, self.num_heads, -1)).permute(2, 0, 3, 1, 4)
        y: Tensor = self.out_projection(attend(parts[0], parts[1], parts[2], None).transpose(1, 2).flatten(2))
        return y


class VitBlock(nn.Module):
    """Attention and feed-forward, each behind a norm."""

    def __init__(self, width: int, num_heads: int, ffn_width: int, *, key_bias: bool = True) -> None:
        super().__init__()
        self.attention_norm = nn.LayerNorm(width, eps=_VIT_EPSILON)
        self.attention = VitAttention(width, num_heads, key_bias=key_bias)
        self.ffn_norm = nn.LayerNorm(width, eps=_VIT_EPSILON)
        self.ffn_in = nn.Linear(width, ffn_width)
        self.ffn_out = nn.Linear(ffn_width, width)

    def forward(self, x: Embeddings) -> Embeddings:
        """Run one block."""
        x = x + self.attention(self.attention_norm(x))
        y: Tensor = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return y


class Vit(nn.Module):
    """An image as a sequence of patches behind a class token."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        count = (config.image_size // config.patch_size) ** 2
        self.patches = nn.Conv2d(3, config.vit_width, config.patch_size, config.patch_size)
        self.class_token = nn.Parameter(torch.zeros(1, 1, config.vit_width))
        self.positions = nn.Parameter(torch.zeros(1, count + 1, config.vit_width))
        self.blocks = nn.ModuleList(
            VitBlock(config.vit_width, config.vit_heads, config.vit_ffn_width, key_bias=False)
            for _ in range(config.vit_layers)
        )

    def forward(self, images: Images) -> Embeddings:
        """Vectors `[batch, 1 + patch, channel]`."""
        x = self.patches(images).flatten(2).transpose(1, 2)
        x = torch.cat((self.class_token.expand(len(x), -1, -1), x), dim=1) + self.positions
        for block in self.blocks:
            x = block(x)
        return x


class VectorQuantizer(nn.Module):
    """The nearest of a set of vectors, with the losses that would train it (the published order of its two terms)."""

    def __init__(self, size: int, width: int, commitment: float = 0.25) -> None:
        super().__init__()
        self.commitment = commitment
        self.vectors = nn.Embedding(size, width)

    def nearest(self, x: Float[Tensor, "batch position code_channel"]) -> Tokens:
        """Codes of vectors."""
        table = self.vectors.weight
        distances = x.square().sum(-1, keepdim=True) + table.square().sum(1) - 2 * x @ table.T
        return distances.argmin(dim=-1)

    def forward(
        self, x: Float[Tensor, "batch position code_channel"]
    ) -> tuple[Float[Tensor, "batch position code_channel"], Tokens, Float[Tensor, ""]]:
        """Quantised vectors with straight-through gradients, codes, loss."""
        codes = self.nearest(x)
        found = self.vectors(codes)
        loss = (found.detach() - x).square().mean() + self.commitment * (found - x.detach()).square().mean()
        return x + (found - x).detach(), codes, loss


class SeedTokenizer(ImageTokenizer):
    """Images to codes, and codes to what an image generator is conditioned on."""

    def __init__(self, config: SeedConfig) -> None:
        super().__init__()
        self.config = config
        self.num_tokens, self.codebook_size = config.num_queries, config.codebook_size
        self.vit = Vit(config)
        self.vit_norm = nn.LayerNorm(config.vit_width, eps=_OUTER_EPSILON)
        self.queries = nn.Parameter(torch.zeros(1, config.num_queries, config.width).normal_(std=0.02))
        self.query_norm = nn.LayerNorm(config.width, eps=EPSILON)
        self.layers = nn.ModuleList(
            QueryLayer(config.width, config.num_heads, config.ffn_width, None if number % 2 else config.vit_width)
            for number in range(config.num_layers)
        )
        width, code_width = config.width, config.code_width
        self.encode_layer = nn.Sequential(nn.Linear(width, width), nn.Tanh(), nn.Linear(width, code_width))
        self.quantizer = VectorQuantizer(config.codebook_size, code_width)
        self.decode_layer = nn.Sequential(nn.Linear(code_width, code_width), nn.Tanh(), nn.Linear(code_width, width))
        self.image_positions = nn.Parameter(torch.zeros(1, config.num_queries, width))
        self.image_blocks = self._blocks()
        widths = (width, *_DOWN)
        self.down = nn.ModuleList(nn.Linear(first, second, bias=False) for first, second in pairwise(widths))
        self.project = nn.Linear(config.num_queries * _DOWN[-1], config.output_width)
        self.unused_positions = nn.Parameter(torch.zeros(1, config.num_queries, width)) if self._keeps else None
        self.unused_blocks = self._blocks() if self._keeps else None

    @property
    def _keeps(self) -> bool:
        return self.config.keeps_reconstruction

    def _blocks(self) -> nn.ModuleList:
        width = self.config.width
        return nn.ModuleList(VitBlock(width, 12, 4 * width) for _ in range(self.config.num_blocks))

    def normalise(self, images: Images) -> Float[Tensor, "batch 3 size size"]:
        """Bring images with values from 0 to 1 to the tokenizer's size and scale."""
        size = (self.config.image_size, self.config.image_size)
        if images.shape[2:] != size:
            images = F.interpolate(images, size=size, mode="bicubic", antialias=True).clamp(0.0, 1.0)
        mean, deviation = (images.new_tensor(values)[:, None, None] for values in (_MEAN, _DEVIATION))
        return (images - mean) / deviation

    def look(self, images: Images) -> Embeddings:
        """Vectors of patches of normalised images."""
        seen: Tensor = self.vit_norm(self.vit(images))
        return seen

    def ask(self, seen: Float[Tensor, "batch patch vit_channel"]) -> Float[Tensor, "batch query channel"]:
        """What the queries make of the patches.

        The paper calls them causal; the published code, as recorded, lets every query see all others.
        """
        x = self.query_norm(self.queries).expand(len(seen), -1, -1)
        for layer in self.layers:
            x = layer(x, seen)
        return x

    @torch.no_grad()
    def encode_images(self, images: Images) -> Int[Tensor, "batch code"]:
        """Codes of images with values from 0 to 1."""
        return self.quantizer.nearest(self.encode_layer(self.ask(self.look(self.normalise(images)))))

    def decode_images(self, codes: Tokens) -> Float[Tensor, "batch output_channel"]:
        """The embedding that unCLIP generates an image from.

        Raises:
            TokensError: another number of codes, or one out of range.
        """
        if codes.shape[1] != self.num_tokens:
            raise TokensError(f"an image has {self.num_tokens} codes; {codes.shape[1]} were given")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise TokensError(f"image codes lie from 0 to {self.codebook_size - 1}; {int(codes.max())} was given")
        x = self.decode_layer(self.quantizer.vectors(codes)) + self.image_positions
        for block in self.image_blocks:
            x = block(x)
        for number, layer in enumerate(self.down):
            x = layer(x) if number == 0 else layer(F.relu(x))
        embedding: Tensor = self.project(x.flatten(1))
        return embedding
