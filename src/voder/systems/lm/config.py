"""Settings of a language model of text and of its training; presets `tiny`, `smollm2-135m` and `small`."""

from collections.abc import Callable
from dataclasses import dataclass, field

from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.text.subwords import BYTES, NUM_BYTE_IDS
from voder.train.base_lm import SMOLLM2_135M, TINY
from voder.train.loop import LoopConfig, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig


@dataclass(frozen=True, kw_only=True)
class LmConfig:
    """The network and the tokenizer it was fitted on."""

    network: CausalLmConfig = field(default_factory=CausalLmConfig)
    """Whose network it is, and how large."""
    lora: LoraSizes | None = None
    """Low-rank changes beside the network's own weights, which are frozen then."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers that LoRA changes."""
    tokenizer: str = BYTES
    """`bytes`, or the fingerprint of the tokenizer in parts/tokenizer."""

    def __post_init__(self) -> None:
        if self.tokenizer == BYTES and self.network.vocabulary_size < NUM_BYTE_IDS:
            raise ConfigError(
                f"network.vocabulary_size is {self.network.vocabulary_size}; bytes need {NUM_BYTE_IDS} ids"
            )


@dataclass(frozen=True, kw_only=True)
class LmTaskConfig:
    """How it is trained on the texts of a folder of `voder prepare`."""

    tokenizer: str = BYTES
    """`bytes`, or a folder with a tokenizer's files or with a language model that has one; with --from its own."""
    lora: LoraSizes | None = None
    """Train low-rank changes alone; everything if not given."""
    batch_ids: int = 4096
    """Ids in one batch, at most, padding included; halve it when memory runs out."""
    batch_items: int = 64
    """Texts in one batch, at most."""
    max_ids: int = 512
    """Longer texts are cut into pieces of so many ids, begin and end included."""
    evaluate_items: int = 200
    """Validation texts scored at each evaluation, at most."""

    def __post_init__(self) -> None:
        if not 3 <= self.max_ids <= self.batch_ids:
            raise ConfigError(f"max_ids {self.max_ids} must be at least 3 and at most batch_ids {self.batch_ids}")


def tiny() -> Preset:
    """For tests: reads bytes, builds and trains a step in a moment."""
    task = LmTaskConfig(batch_ids=256, batch_items=2, max_ids=64, evaluate_items=4)
    return Preset(model=LmConfig(network=TINY), task=task, loop=few_steps(1e-2))


def small() -> Preset:
    """5 M parameters on bytes: a first language model on two cores."""
    network = CausalLmConfig(
        vocabulary_size=NUM_BYTE_IDS,
        width=256,
        ffn_width=768,
        num_layers=6,
        num_heads=4,
        num_kv_heads=2,
        max_positions=1024,
        tie_embeddings=True,
        pad_id=0,
    )
    loop = LoopConfig(
        steps=2000,
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.1),
        schedule=ScheduleConfig(warmup_steps=100),
        evaluate_every=500,
        save_every=500,
    )
    return Preset(model=LmConfig(network=network), task=LmTaskConfig(), loop=loop)


def smollm2_135m() -> Preset:
    """SmolLM2-135M's size: LoRA on its published weights (`--from smollm2-135m-instruct`)."""
    loop = LoopConfig(
        steps=1000,
        optimizer=OptimizerConfig(learning_rate=2e-4, betas=(0.9, 0.98)),
        schedule=ScheduleConfig(warmup_steps=50),
        evaluate_every=200,
        save_every=200,
    )
    task = LmTaskConfig(tokenizer="smollm2-135m-instruct", lora=LoraSizes(rank=16, alpha=32, dropout=0.0))
    return Preset(model=LmConfig(network=SMOLLM2_135M), task=task, loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "smollm2-135m": smollm2_135m}
