"""ImageBind (2305.05665): sounds and pictures to vectors of one space, one transformer per modality.

A two-second stretch of sound is a mel image cut into overlapping patches; a picture is repeated to two frames and cut
into patches of both. A learned token in front of the patches becomes the vector, which has length one; the vectors of a
recording's stretches, or of a video's, are averaged. The original multiplies the vectors of sounds by 20; NExT-GPT's
copy of it does not (`logit_scale`).
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import attend
from voder.shapes import Embeddings
from voder.systems.nextgpt.config import AudioTrunkConfig, ImageBindConfig, VisionTrunkConfig

Vectors = Float[Tensor, "batch vector"]
Patches = Float[Tensor, "batch patch channel"]
_EPSILON = 1e-6
_MLP_RATIO = 4
_MOST_LOGIT_SCALE = 100.0


def split_heads(x: Tensor, num_heads: int) -> Tensor:
    """`[batch, position, channel]` to `[batch, head, position, channel]`."""
    return x.view(*x.shape[:2], num_heads, -1).transpose(1, 2)


class TrunkBlock(nn.Module):
    """Attention and feed-forward, pre-norm; the attention may look at one learned key and value besides."""

    def __init__(self, width: int, num_heads: int, *, extra: bool) -> None:
        super().__init__()
        self.num_heads = num_heads
        self.attention_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.in_projection = nn.Linear(width, 3 * width)
        self.out_projection = nn.Linear(width, width)
        self.extra_key = nn.Parameter(torch.randn(1, 1, width) * 0.02) if extra else None
        self.extra_value = nn.Parameter(torch.randn(1, 1, width) * 0.02) if extra else None
        self.ffn_norm = nn.LayerNorm(width, eps=_EPSILON)
        self.ffn_in = nn.Linear(width, _MLP_RATIO * width)
        self.ffn_out = nn.Linear(_MLP_RATIO * width, width)

    def forward(self, x: Embeddings) -> Embeddings:
        """Run one block."""
        query, key, value = self.in_projection(self.attention_norm(x)).chunk(3, dim=-1)
        if self.extra_key is not None and self.extra_value is not None:
            key = torch.cat((key, self.extra_key.expand(len(x), -1, -1)), dim=1)
            value = torch.cat((value, self.extra_value.expand(len(x), -1, -1)), dim=1)
        query, key, value = (split_heads(part, self.num_heads) for part in (query, key, value))
        x = x + self.out_projection(attend(query, key, value, None).transpose(1, 2).flatten(2))
        y: Tensor = x + self.ffn_out(F.gelu(self.ffn_in(self.ffn_norm(x))))
        return y


class Trunk(nn.Module):
    """A learned token and patches with positions, through blocks, to one vector that the token became."""

    def __init__(
        self, config: AudioTrunkConfig | VisionTrunkConfig, output_width: int, *, extra: bool, norm_first: bool
    ) -> None:
        super().__init__()
        width = config.width
        self.token = nn.Parameter(torch.zeros(1, 1, width))
        self.positions = nn.Parameter(torch.randn(1, 1 + config.num_patches, width) * 0.02)
        self.first_norm = nn.LayerNorm(width, eps=_EPSILON) if norm_first else None
        self.blocks = nn.ModuleList(TrunkBlock(width, config.num_heads, extra=extra) for _ in range(config.num_layers))
        self.norm = nn.LayerNorm(width, eps=_EPSILON)
        self.head = nn.Linear(width, output_width, bias=False)

    def run(self, patches: Patches) -> Embeddings:
        """What the blocks make of the token and the patches."""
        x = torch.cat((self.token.expand(len(patches), -1, -1), patches), dim=1) + self.positions
        if self.first_norm is not None:
            x = self.first_norm(x)
        for block in self.blocks:
            x = block(x)
        return x

    def vector(self, x: Embeddings) -> Vectors:
        """The head's vector, of any length."""
        projected: Tensor = self.head(self.norm(x[:, 0]))
        return projected


class AudioTrunk(nn.Module):
    """Mel images of two seconds to vectors."""

    def __init__(self, config: AudioTrunkConfig, output_width: int) -> None:
        super().__init__()
        self.patches = nn.Conv2d(1, config.width, config.patch, config.stride, bias=False)
        self.patch_norm = nn.LayerNorm(config.width)
        self.trunk = Trunk(config, output_width, extra=True, norm_first=False)

    def tokens(self, mel: Float[Tensor, "batch 1 band frame"]) -> Embeddings:
        """What the trunk makes of a mel image."""
        return self.trunk.run(self.patch_norm(self.patches(mel).flatten(2).transpose(1, 2)))


class VisionTrunk(nn.Module):
    """Pictures, or two frames of a video, to vectors."""

    def __init__(self, config: VisionTrunkConfig, output_width: int) -> None:
        super().__init__()
        side = (config.patch, config.patch)
        self.patches = nn.Conv3d(3, config.width, (2, *side), (2, *side), bias=False)
        self.trunk = Trunk(config, output_width, extra=False, norm_first=True)

    def tokens(self, pictures: Float[Tensor, "batch 3 *time row column"]) -> Embeddings:
        """What the trunk makes of `[batch, 3, row, column]`, or of `[batch, 3, 2, row, column]`."""
        frames = pictures[:, :, None].expand(-1, -1, 2, -1, -1) if pictures.ndim == 4 else pictures
        return self.trunk.run(self.patches(frames).flatten(2).transpose(1, 2))


class ImageBind(nn.Module):
    """The encoders of both modalities."""

    log_scale: Tensor

    def __init__(self, config: ImageBindConfig) -> None:
        super().__init__()
        self.config = config
        self.audio = AudioTrunk(config.audio, config.output_width)
        self.vision = None if config.vision is None else VisionTrunk(config.vision, config.output_width)
        # learned by the original, and never again
        self.register_buffer("log_scale", torch.full((), 20.0).log())

    def hear(self, clips: Float[Tensor, "batch clip 1 band frame"], *, logit_scale: bool | None = None) -> Vectors:
        """The mean vector of each recording's stretches; `logit_scale` says otherwise than the configuration."""
        vectors = self.scaled(self.audio.trunk.vector(self.audio.tokens(clips.flatten(0, 1))), logit_scale)
        return average(vectors, clips.shape[:2])

    def scaled(self, vectors: Vectors, logit_scale: bool | None = None) -> Vectors:
        """Vectors of sounds brought to length one, or to 20 as in the original."""
        unit = F.normalize(vectors, dim=-1)
        wanted = self.config.logit_scale if logit_scale is None else logit_scale
        return unit * self.log_scale.exp().clamp(max=_MOST_LOGIT_SCALE) if wanted else unit

    def see(self, pictures: Float[Tensor, "batch 3 row column"]) -> Vectors:
        """The vector of each picture, of length one.

        Raises:
            ValueError: built without a vision trunk.
        """
        trunk = self._vision()
        return F.normalize(trunk.trunk.vector(trunk.tokens(pictures)), dim=-1)

    def watch(self, clips: Float[Tensor, "batch clip 3 2 row column"]) -> Vectors:
        """The mean vector of each video's stretches of two frames."""
        trunk = self._vision()
        vectors = F.normalize(trunk.trunk.vector(trunk.tokens(clips.flatten(0, 1))), dim=-1)
        return average(vectors, clips.shape[:2])

    def _vision(self) -> VisionTrunk:
        if self.vision is None:
            raise ValueError("this ImageBind has no vision trunk: encoder.vision in its config is null")
        return self.vision


def average(vectors: Vectors, shape: Sequence[int]) -> Float[Tensor, "mean channel"]:
    """The mean over each item's stretches of vectors that lie item by item."""
    return vectors.reshape(*shape, -1).mean(dim=1)
