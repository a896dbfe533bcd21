"""Settings of AudioLM; presets `tiny`, `small` and `paper`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.transformer import TransformerConfig
from voder.train import LoopConfig, OptimizerConfig, ScheduleConfig

StageName = Literal["semantic", "coarse", "fine"]
STAGES: tuple[StageName, ...] = ("semantic", "coarse", "fine")


@dataclass(frozen=True, kw_only=True)
class AudioLmConfig:
    """Three decoders, the tokens that they read, and what they were fitted on."""

    semantic: TransformerConfig = field(default_factory=TransformerConfig)
    """Stage 1: units after units."""
    coarse: TransformerConfig = field(default_factory=TransformerConfig)
    """Stage 2: the first codebooks, given units."""
    fine: TransformerConfig = field(default_factory=TransformerConfig)
    """Stage 3: the other codebooks, given the first."""
    num_buckets: int = 32
    """Distances that the relative positions tell apart."""
    max_distance: int = 128
    """Distances beyond this are all one."""
    num_units: int = 500
    """Units; taken from the training data."""
    unit_rate_hz: float = 50.0
    """Units per second before repeats are merged; taken from the training data."""
    units_per_s: float = 30.0
    """Units per second after, on average; taken from the training data."""
    units_identity: str = ""
    """Which tokenizer made the units (`voder.checkpoint.identity`); taken from the training data."""
    num_codebooks: int = 4
    """Codes per frame; taken from the training data."""
    codebook_size: int = 256
    """Ids per codebook; taken from the training data."""
    frame_rate_hz: float = 25.0
    """Frames per second; taken from the training data."""
    codec_identity: str = ""
    """Which codec made the codes; taken from the training data."""
    coarse_codebooks: int = 2
    """Codebooks of stage 2; a codec with no more than these needs no stage 3."""
    max_semantic_s: float = 30.0
    """Longest stretch that stage 1 learns and continues."""
    max_coarse_s: float = 10.0
    """Longest stretch that stage 2 learns and continues: prompt and continuation together."""
    fine_chunk_s: float = 3.0
    """Stage 3 works on stretches of this length, one beside the other."""
    trained: tuple[str, ...] = ()
    """Stages that were trained; written by training."""

    def __post_init__(self) -> None:
        if self.coarse_codebooks < 1:
            raise ConfigError(f"model.coarse_codebooks is {self.coarse_codebooks}; at least 1 is wanted")
        for name in ("max_semantic_s", "max_coarse_s", "fine_chunk_s"):
            if not getattr(self, name) > 0:
                raise ConfigError(f"model.{name} is {getattr(self, name)}; more than 0 is wanted")
        if self.max_semantic_s < self.max_coarse_s:
            raise ConfigError(
                f"model.max_semantic_s is {self.max_semantic_s} but max_coarse_s is {self.max_coarse_s}: "
                "stage 1 must reach as far as stage 2"
            )
        if self.fine_frames < 1:
            raise ConfigError(f"model.fine_chunk_s is {self.fine_chunk_s}, less than one frame of the codec; raise it")

    @property
    def num_coarse(self) -> int:
        """Codebooks that stage 2 predicts."""
        return min(self.coarse_codebooks, self.num_codebooks)

    @property
    def num_fine(self) -> int:
        """Codebooks that stage 3 predicts."""
        return self.num_codebooks - self.num_coarse

    @property
    def stages(self) -> tuple[StageName, ...]:
        """Stages that this codec needs."""
        return STAGES if self.num_fine else STAGES[:2]

    @property
    def semantic_positions(self) -> int:
        """Most units of stage 1, before repeats are merged."""
        return max(1, int(self.max_semantic_s * self.unit_rate_hz))

    @property
    def coarse_frames(self) -> int:
        """Most frames of stage 2."""
        return max(1, int(self.max_coarse_s * self.frame_rate_hz))

    @property
    def fine_frames(self) -> int:
        """Frames of a chunk of stage 3."""
        return int(self.fine_chunk_s * self.frame_rate_hz)


@dataclass(frozen=True, kw_only=True)
class AudioLmTaskConfig:
    """How the stages are trained."""

    stage: Literal["all", "semantic", "coarse", "fine"] = "all"
    """Which stage learns; the stages share no weights, so `all` trains them side by side."""
    batch_size: int = 8
    """Stretches in one batch of each stage; halve it when memory runs out."""
    evaluate_items: int = 32
    """Validation stretches of each stage, at most."""

    def __post_init__(self) -> None:
        for name in ("batch_size", "evaluate_items"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; at least 1 is wanted")


def tiny() -> Preset:
    """Builds and trains a step in a moment; for tests."""
    sizes = TransformerConfig(width=32, num_layers=2, num_heads=2, ffn_width=64, dropout=0.0)
    return Preset(
        model=AudioLmConfig(
            semantic=sizes,
            coarse=sizes,
            fine=sizes,
            num_buckets=8,
            max_distance=32,
            num_units=4,
            num_codebooks=2,
            codebook_size=16,
            coarse_codebooks=1,
            max_semantic_s=1.0,
            max_coarse_s=0.8,
            fine_chunk_s=0.2,
        ),
        task=AudioLmTaskConfig(batch_size=2, evaluate_items=2),
        loop=LoopConfig(steps=20, evaluate_every=20, save_every=20, optimizer=OptimizerConfig(learning_rate=3e-3)),
    )


def _loop(steps: int, rate: float, *, warmup: int, every: int) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        precision="bf16",
        optimizer=OptimizerConfig(learning_rate=rate, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="cosine", warmup_steps=warmup),
        evaluate_every=every,
        save_every=every,
    )


def small() -> Preset:
    """Units and codes of one's own recordings, on two cores: 4 codebooks at 25 frames a second."""
    sizes = TransformerConfig(width=256, num_layers=6, num_heads=4, ffn_width=1024)
    return Preset(
        model=AudioLmConfig(semantic=sizes, coarse=sizes, fine=replace(sizes, num_layers=4)),
        task=AudioLmTaskConfig(),
        loop=_loop(20_000, 1e-3, warmup=200, every=1000),
    )


def paper() -> Preset:
    """The sizes of the paper (section 4.2): 0.3 B parameters a stage, batch 256 over 16 machines, a million steps."""
    sizes = TransformerConfig(width=1024, num_layers=12, num_heads=16, ffn_width=4096, dropout=0.1)
    return Preset(
        model=AudioLmConfig(
            semantic=sizes,
            coarse=sizes,
            fine=sizes,
            num_units=1024,
            unit_rate_hz=25.0,
            units_per_s=20.0,
            num_codebooks=12,
            codebook_size=1024,
            frame_rate_hz=50.0,
            coarse_codebooks=4,
        ),
        task=AudioLmTaskConfig(batch_size=256),
        loop=_loop(1_000_000, 3e-4, warmup=10_000, every=10_000),
    )


PRESETS = {"tiny": tiny, "small": small, "paper": paper}
