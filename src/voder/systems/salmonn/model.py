"""SALMONN (2310.13289), section 3: what a speech and an audio encoder hear becomes a few vectors for a language model.

Both streams (50 vectors a second) are normed and laid side by side, the shorter one filled up with zeros. Every third
of a second, a Q-Former (2301.12597; here with cross-attention in each layer, and queries only) turns the window into
one vector, which a linear layer brings to the language model's width. The language model is frozen but for LoRA on its
query and value projections; the strength of that LoRA can be set at run time.
"""

import warnings
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.attention import attend
from voder.nn.dropout import ByteDropout
from voder.shapes import Embeddings
from voder.systems.salmonn.config import BridgeConfig, LlamaSizes, LoraSizes, SalmonnConfig

_BERT_EPSILON = 1e-12
_LLAMA_EPSILON = 1e-6
_MAX_POSITIONS = 2048


class BertAttention(nn.Module):
    """Attention, a residual and a norm after it."""

    def __init__(self, config: BridgeConfig, memory_width: int) -> None:
        super().__init__()
        self.num_heads = config.num_heads
        self.query = nn.Linear(config.width, config.width)
        self.key = nn.Linear(memory_width, config.width)
        self.value = nn.Linear(memory_width, config.width)
        self.out = nn.Linear(config.width, config.width)
        self.norm = nn.LayerNorm(config.width, eps=_BERT_EPSILON)
        self.dropout = ByteDropout(config.dropout)

    def forward(self, x: Embeddings, memory: Float[Tensor, "batch key memory_channel"]) -> Embeddings:
        """Queries from `x`, keys and values from `memory`."""
        parts = (self.query(x), self.key(memory), self.value(memory))
        query, key, value = (part.unflatten(-1, (self.num_heads, -1)).transpose(1, 2) for part in parts)
        attended = attend(query, key, value, None).transpose(1, 2).flatten(2)
        y: Tensor = self.norm(x + self.dropout(self.out(attended)))
        return y


class QFormerLayer(nn.Module):
    """Queries look at each other, then at the window, then think."""

    def __init__(self, config: BridgeConfig) -> None:
        super().__init__()
        self.attention = BertAttention(config, config.width)
        self.cross = BertAttention(config, config.speech_width + config.audio_width)
        self.ffn_in = nn.Linear(config.width, config.ffn_width)
        self.ffn_out = nn.Linear(config.ffn_width, config.width)
        self.ffn_norm = nn.LayerNorm(config.width, eps=_BERT_EPSILON)
        self.dropout = ByteDropout(config.dropout)

    def forward(self, x: Embeddings, memory: Float[Tensor, "batch key memory_channel"]) -> Embeddings:
        """Run one layer."""
        x = self.cross(self.attention(x, x), memory)
        y: Tensor = self.ffn_norm(x + self.dropout(self.ffn_out(F.gelu(self.ffn_in(x)))))
        return y


class Bridge(nn.Module):
    """Norms, windows, Q-Former, projection."""

    def __init__(self, config: BridgeConfig, output_width: int) -> None:
        super().__init__()
        self.config = config
        self.speech_norm = nn.LayerNorm(config.speech_width)
        self.audio_norm = nn.LayerNorm(config.audio_width) if config.audio_width else None
        self.queries = nn.Parameter(torch.empty(1, config.num_queries, config.width).normal_(std=0.02))
        self.query_norm = nn.LayerNorm(config.width, eps=_BERT_EPSILON)
        self.layers = nn.ModuleList(QFormerLayer(config) for _ in range(config.num_layers))
        self.projection = nn.Linear(config.width, output_width)

    def forward(
        self,
        speech: Float[Tensor, "batch frame speech_channel"],
        audio: Float[Tensor, "batch patch audio_channel"] | None = None,
    ) -> Embeddings:
        """Vectors for the language model, window after window.

        Frames that do not fill the last window are dropped, as in the original; fewer frames than one window, at which
        the original fails, are filled up with zeros.
        """
        frames = self._side_by_side(speech, audio)
        frames = F.pad(frames, (0, 0, 0, max(0, self.config.window_frames - frames.shape[1])))
        windows = frames.unfold(1, self.config.window_frames, self.config.stride_frames).transpose(2, 3)
        batch, count = windows.shape[:2]
        x = self.query_norm(self.queries).expand(batch * count, -1, -1)
        for layer in self.layers:
            x = layer(x, windows.flatten(0, 1))
        projected: Tensor = self.projection(x)
        return projected.reshape(batch, -1, projected.shape[-1])

    def _side_by_side(self, speech: Tensor, audio: Tensor | None) -> Tensor:
        if (audio is None) != (self.audio_norm is None):
            raise ValueError("audio features must be given exactly when audio_width is not 0")
        normed = [self.speech_norm(speech)]
        if audio is not None and self.audio_norm is not None:
            normed.append(self.audio_norm(audio))
        longest = max(x.shape[1] for x in normed)
        return torch.cat([F.pad(x, (0, 0, 0, longest - x.shape[1])) for x in normed], dim=-1)


def build_llama(sizes: LlamaSizes, lora: LoraSizes) -> Any:
    """A fresh Llama with LoRA (`peft.PeftModel`); only the LoRA is trainable."""
    from peft import LoraConfig, get_peft_model
    from transformers import LlamaConfig, LlamaForCausalLM

    config = LlamaConfig(
        vocab_size=sizes.vocabulary_size,
        hidden_size=sizes.width,
        intermediate_size=sizes.ffn_width,
        num_hidden_layers=sizes.num_layers,
        num_attention_heads=sizes.num_heads,
        rms_norm_eps=_LLAMA_EPSILON,
        max_position_embeddings=_MAX_POSITIONS,
        bos_token_id=sizes.bos_id,
        eos_token_id=sizes.eos_id,
    )
    change = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=["q_proj", "v_proj"],
        task_type="CAUSAL_LM",
    )
    with warnings.catch_warnings():
        # peft 0.21 asks transformers 5 for a property under its old name
        warnings.simplefilter("ignore", FutureWarning)
        return get_peft_model(LlamaForCausalLM(config), change)


def set_lora_factor(llama: nn.Module, lora: LoraSizes, factor: float) -> None:
    """Scale the LoRA: 1 as trained, 0 gives the language model as it was, bit for bit."""
    changed = [module for module in llama.modules() if isinstance(getattr(module, "scaling", None), dict)]
    if not changed:
        raise ValueError("this language model has no LoRA whose factor could be set")
    for module in changed:
        scaling: dict[str, float] = module.scaling  # type: ignore[assignment]
        for name in scaling:
            scaling[name] = lora.alpha / lora.rank * factor


class Salmonn(nn.Module):
    """Bridge and language model."""

    def __init__(self, config: SalmonnConfig) -> None:
        super().__init__()
        self.config = config
        self.bridge = Bridge(config.bridge, config.llama.width)
        self.llama = build_llama(config.llama, config.lora)

    def set_lora_factor(self, factor: float) -> None:
        """Strength of the trained changes; the paper lowers it to find abilities that training drowned."""
        set_lora_factor(self.llama, self.config.lora, factor)

    def embed(self, ids: Tensor) -> Embeddings:
        """Vectors of text ids."""
        embedded: Tensor = self.llama.get_input_embeddings()(ids)
        return embedded
