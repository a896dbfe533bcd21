"""Settings of SALMONN (2310.13289): the bridge from two encoders to a language model, and the published sizes."""

from dataclasses import dataclass, field
from typing import Literal


@dataclass(frozen=True, kw_only=True)
class LlamaSizes:
    """The language model, frozen but for its LoRA."""

    width: int = 5120
    """Channels."""
    ffn_width: int = 13_824
    """Channels inside the feed-forward part."""
    num_layers: int = 40
    """Blocks."""
    num_heads: int = 40
    """Attention heads."""
    vocabulary_size: int = 32_001
    """Ids, the added [PAD] (the last) included."""
    bos_id: int = 1
    """Begins every sequence."""
    eos_id: int = 2
    """Ends an answer."""


@dataclass(frozen=True, kw_only=True)
class LoraSizes:
    """Low-rank changes to the query and value projections (2106.09685)."""

    rank: int = 8
    """Inner width."""
    alpha: int = 32
    """Scale times rank; a factor at run time multiplies it."""
    dropout: float = 0.1
    """On what enters the low-rank path, in training."""


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Layer norms, the window-level Q-Former and the projection to the language model."""

    speech_width: int = 1280
    """Channels of the speech encoder (Whisper large-v2)."""
    audio_width: int = 768
    """Channels of the audio encoder (BEATs); 0 leaves it out."""
    width: int = 768
    """Channels of the Q-Former."""
    num_layers: int = 2
    """Blocks of the Q-Former."""
    num_heads: int = 12
    """Its attention heads."""
    ffn_width: int = 3072
    """Channels inside its feed-forward part."""
    num_queries: int = 1
    """Vectors that leave every window."""
    window_frames: int = 17
    """Frames of a window: a third of a second at 50 a second."""
    stride_frames: int = 17
    """Frames from one window to the next."""
    dropout: float = 0.1
    """In the Q-Former, in training."""


@dataclass(frozen=True, kw_only=True)
class SalmonnConfig:
    """Bridge and language model; the encoders are parts of their own."""

    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    """From encoders to the language model."""
    llama: LlamaSizes = field(default_factory=LlamaSizes)
    """The language model."""
    lora: LoraSizes = field(default_factory=LoraSizes)
    """Its trained changes."""


def published(size: Literal["7b", "13b"]) -> SalmonnConfig:
    """The two released models: Vicuna 7B (v1.5) and 13B (v1.1)."""
    if size == "13b":
        return SalmonnConfig()
    return SalmonnConfig(llama=LlamaSizes(width=4096, ffn_width=11_008, num_layers=32, num_heads=32))
