"""SALMONN (2310.13289), section 3: what a speech and an audio encoder hear becomes a few vectors for a language model.

Both streams (50 vectors a second) are normed and laid side by side, the shorter one filled up with zeros. Every third
of a second, a Q-Former (2301.12597; here with cross-attention in each layer, and queries only) turns the window into
one vector, which a linear layer brings to the language model's width. The language model is frozen but for LoRA on its
query and value projections; the strength of that LoRA can be set at run time.
"""

from collections.abc import Sequence

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.causal_lm import build_causal_lm
from voder.nn.lora import set_lora_factor, with_lora
from voder.nn.qformer import EPSILON, QueryLayer
from voder.shapes import Embeddings
from voder.systems.salmonn.config import BridgeConfig, SalmonnConfig


class Bridge(nn.Module):
    """Norms, windows, Q-Former, projection."""

    def __init__(self, config: BridgeConfig, output_width: int) -> None:
        super().__init__()
        self.config = config
        self.speech_norm = nn.LayerNorm(config.speech_width)
        self.audio_norm = nn.LayerNorm(config.audio_width) if config.audio_width else None
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, config.width).normal_(std=0.02))
        self.query_norm = nn.LayerNorm(config.width, eps=EPSILON)
        heard = config.speech_width + config.audio_width
        self.layers = nn.ModuleList(
            QueryLayer(config.width, config.num_heads, config.ffn_width, heard, dropout=config.dropout)
            for _ in range(config.num_layers)
        )
        self.projection = nn.Linear(config.width, output_width)

    def forward(
        self,
        speech: Float[Tensor, "batch frame speech_channel"],
        audio: Float[Tensor, "batch patch audio_channel"] | None = None,
        speech_lengths: Sequence[int] | None = None,
        audio_lengths: Sequence[int] | None = None,
    ) -> Embeddings:
        """Vectors for the language model, window after window; of each row the first `num_vectors` are its own.

        Frames that do not fill the last window are dropped, as in the original; fewer frames than one window, at which
        the original fails, are filled up with zeros.
        """
        frames = self._side_by_side(speech, audio, speech_lengths, audio_lengths)
        frames = F.pad(frames, (0, 0, 0, max(0, self.config.window_frames - frames.shape[1])))
        windows = frames.unfold(1, self.config.window_frames, self.config.stride_frames).transpose(2, 3)
        batch, count = windows.shape[:2]
        x = self.query_norm(self.queries).expand(batch * count, -1, -1)
        for layer in self.layers:
            x = layer(x, windows.flatten(0, 1))
        projected: Tensor = self.projection(x)
        return projected.reshape(batch, -1, projected.shape[-1])

    def num_vectors(self, num_frames: int) -> int:
        """How many vectors a recording of so many frames becomes."""
        windows = 1 + max(0, num_frames - self.config.window_frames) // self.config.stride_frames
        return windows * self.config.num_queries

    def _side_by_side(
        self,
        speech: Tensor,
        audio: Tensor | None,
        speech_lengths: Sequence[int] | None,
        audio_lengths: Sequence[int] | None,
    ) -> Tensor:
        if (audio is None) != (self.audio_norm is None):
            raise ValueError("audio features must be given exactly when audio_width is not 0")
        normed = [_silenced(self.speech_norm(speech), speech_lengths)]
        if audio is not None and self.audio_norm is not None:
            normed.append(_silenced(self.audio_norm(audio), audio_lengths))
        longest = max(x.shape[1] for x in normed)
        return torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in normed], dim=-1)


def _silenced(x: Tensor, lengths: Sequence[int] | None) -> Tensor:
    """Zeros behind the end of every row."""
    if lengths is None or min(lengths) == x.shape[1]:
        return x
    places = torch.arange(x.shape[1], device=x.device)[None]
    return x * (places < torch.tensor(list(lengths), device=x.device)[:, None])[..., None]


class Salmonn(nn.Module):
    """Bridge and language model."""

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__()
        self.config = config
        self.bridge = Bridge(config.bridge, config.lm.width)
        self.llama = with_lora(build_causal_lm(config.lm), config.lora, config.lora_targets)

    def set_lora_factor(self, factor: float) -> None:
        """Strength of the trained changes; the paper lowers it to find abilities that training drowned."""
        set_lora_factor(self.llama, factor)

    def embed(self, ids: Int[Tensor, "*batch position"]) -> Float[Tensor, "*batch position channel"]:
        """Vectors of text ids."""
        embedded: Tensor = self.llama.get_input_embeddings()(ids)
        return embedded


def is_trained(name: str) -> bool:
    """Whether a weight is one that SALMONN trains, and its checkpoints hold."""
    return name.startswith("bridge.") or ".lora_" in name
