"""Settings of SALMONN (2310.13289): a bridge from two encoders to a language model, and the published sizes."""

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.train.base_lm import SMOLLM2_135M, TINY
from voder.train.loop import LoopConfig, cosine_loop, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig

SAMPLE_RATE_HZ = 16_000
WINDOW_S = 30
"""What is heard of a recording, at most."""
StageName = Literal["pretraining", "instruction", "activation"]
VICUNA = "USER: {}\nASSISTANT:"
CHATML = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@dataclass(frozen=True, kw_only=True)
class BridgeConfig:
    """Layer norms, the window-level Q-Former and the projection to the language model."""

    speech_width: int = 1280
    """Channels of the speech encoder (Whisper large-v2); taken from it."""
    audio_width: int = 768
    """Channels of the audio encoder (BEATs), 0 without one; taken from it."""
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

    def __post_init__(self) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        for name in ("speech_width", "num_queries", "window_frames", "stride_frames"):
            if getattr(self, name) < 1:
                raise ValueError(f"{name} is {getattr(self, name)}; 1 or more is wanted")


@dataclass(frozen=True, kw_only=True)
class FittedParts:
    """What was trained on: fingerprints of parts, which are compared when a checkpoint is loaded or trained on."""

    speech: str = ""
    """The speech encoder."""
    audio: str = ""
    """The audio encoder."""
    lm: str = ""
    """The language model with its tokenizer."""


@dataclass(frozen=True, kw_only=True)
class SalmonnConfig:
    """Bridge and language model; the encoders are parts of their own."""

    bridge: BridgeConfig = field(default_factory=BridgeConfig)
    """From encoders to the language model."""
    lm: CausalLmConfig = field(default_factory=CausalLmConfig)
    """The language model, frozen but for its LoRA; taken from the part."""
    lora: LoraSizes = field(default_factory=LoraSizes)
    """Its trained changes."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """The linear layers that LoRA changes."""
    template: str = VICUNA
    """What is around a question; {} is its place."""
    begin: bool = True
    """Whether a sequence begins with the language model's begin id."""
    hears: Literal["window", "clip"] = "window"
    """The speech encoder's whole 30 s whatever the clip's length, as published, or the clip's own positions."""
    num_beams: int = 4
    """Beams of an answer, unless asked otherwise."""
    max_answer_ids: int = 200
    """Ids of an answer, at most, unless asked otherwise."""
    fitted: FittedParts = field(default_factory=FittedParts)
    """The parts it was trained on."""

    def __post_init__(self) -> None:
        if self.num_beams < 1 or self.max_answer_ids < 1:
            raise ConfigError(f"num_beams {self.num_beams} and max_answer_ids {self.max_answer_ids} must be at least 1")
        if self.template.count("{}") != 1:
            raise ConfigError(f"template {self.template!r} must have {{}} once, where the question goes")


@dataclass(frozen=True, kw_only=True)
class SalmonnTaskConfig:
    """Which parts, which stage, which batches."""

    stage: StageName = "instruction"
    """Which examples are learned: transcripts and captions; all; or stories and what needs thinking."""
    speech: str = "whisper-large-v2"
    """The speech encoder: a checkpoint with the role Encoder, or fresh:SYSTEM/PRESET for a random one (tests)."""
    audio: str = ""
    """The audio encoder, likewise; empty leaves it out."""
    lm: str = "vicuna-13b-v1.1"
    """The language model: a checkpoint of the system lm, or fresh:lm/PRESET."""
    batch_size: int = 8
    """Examples in one batch; halve it when memory runs out."""
    max_text_ids: int = 300
    """Longer answers are cut, their end with them."""
    cache_mb: int = 2048
    """What the frozen encoders gave (in 16 bits) kept in memory, at most; 0 encodes a batch at once, every time."""
    evaluate_items: int = 64
    """Validation examples scored at each evaluation, at most."""

    def __post_init__(self) -> None:
        if self.batch_size < 1 or self.max_text_ids < 1:
            raise ConfigError(f"batch_size {self.batch_size} and max_text_ids {self.max_text_ids} must be at least 1")


def published_model(size: Literal["7b", "13b"]) -> SalmonnConfig:
    """The two released models: Vicuna 7B v1.5 (recalled) and 13B v1.1, a LLaMA-2 and a LLaMA-1."""
    if size == "13b":
        return SalmonnConfig(lm=CausalLmConfig(width=5120, ffn_width=13_824, num_layers=40, num_heads=40, pad_id=0))
    return SalmonnConfig(lm=CausalLmConfig(max_positions=4096, norm_epsilon=1e-5, pad_id=0))


def tiny() -> Preset:
    """For tests: fresh parts, builds and trains a step in a moment."""
    bridge = BridgeConfig(speech_width=16, audio_width=0, width=16, num_heads=2, ffn_width=32, window_frames=10)
    model = SalmonnConfig(
        bridge=BridgeConfig(**{**vars(bridge), "stride_frames": 10}),
        lm=TINY,
        hears="clip",
        max_answer_ids=12,
    )
    task = SalmonnTaskConfig(
        speech="fresh:whisper/tiny", lm="fresh:lm/tiny", batch_size=2, max_text_ids=32, evaluate_items=2
    )
    return Preset(model=model, task=task, loop=few_steps(1e-2))


def small() -> Preset:
    """Whisper base, SmolLM2-135M-Instruct and a small Q-Former; no audio encoder. Trains on two cores."""
    model = SalmonnConfig(
        bridge=BridgeConfig(
            speech_width=512,
            audio_width=0,
            width=384,
            num_heads=6,
            ffn_width=1536,
            window_frames=8,
            stride_frames=8,
            dropout=0.0,
        ),
        lm=SMOLLM2_135M,
        lora=LoraSizes(rank=16, alpha=32, dropout=0.0),
        lora_targets=("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
        template=CHATML,
        begin=False,
        hears="clip",
    )
    task = SalmonnTaskConfig(
        stage="pretraining", speech="whisper-base", lm="smollm2-135m-instruct", batch_size=4, max_text_ids=128
    )
    loop = cosine_loop(2000, learning_rate=7e-4, every=250, warmup=50, betas=(0.9, 0.98), final_ratio=0.05)
    return Preset(model=model, task=task, loop=loop)


def published(size: Literal["7b", "13b"]) -> Preset:
    """A released size with the settings of the published code."""
    loop = LoopConfig(
        steps=90_000,
        optimizer=OptimizerConfig(learning_rate=3e-5, betas=(0.9, 0.999), weight_decay=0.05),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=3000, final_ratio=1 / 3),
        precision="bf16",
        evaluate_every=3000,
        save_every=3000,
    )
    lm = "vicuna-13b-v1.1" if size == "13b" else "vicuna-7b-v1.5"
    return Preset(model=published_model(size), task=SalmonnTaskConfig(audio="beats-cpt2", lm=lm), loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {
    "tiny": tiny,
    "small": small,
    "7b": partial(published, "7b"),
    "13b": partial(published, "13b"),
}
