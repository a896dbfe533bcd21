"""Settings of SpeechGPT; presets `tiny` (tests), `small` (SmolLM2 135M), the published `7b`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.text.subwords import NUM_BYTE_IDS
from voder.train.base_lm import BYTES, SMOLLM2_135M
from voder.train.loop import cosine_loop

StageName = Literal["adapt", "instruct", "chain"]


@dataclass(frozen=True, kw_only=True)
class SpeechGptConfig:
    """A language model whose vocabulary has grown by units, and what it was fitted on."""

    lm: CausalLmConfig = field(default_factory=CausalLmConfig)
    """The language model before it grew: `vocabulary_size` counts its own ids; task.lm decides where it is given."""
    tokenizer: str = BYTES
    """`bytes`, or the fingerprint of the text tokenizer in parts/tokenizer; task.lm decides."""
    num_units: int = 1000
    """Units of the unit tokenizer; the data says."""
    units_identity: str = ""
    """The unit tokenizer (or codec, of which the first codebook counts); the data says."""
    dedup: bool = True
    """Merge units that repeat, which speech from units then needs durations for."""
    markers: bool = True
    """Have the four markers of a conversation, which the first stage lacks; task.stage decides."""
    lora: LoraSizes | None = None
    """Low-rank changes beside the language model's weights; task.stage and task.lora decide."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Linear layers that LoRA changes (gpt2 calls its own c_attn)."""
    prefix: bool = True
    """Begin every conversation with the sentences that the published checkpoints expect."""

    def __post_init__(self) -> None:
        if self.tokenizer == BYTES and self.lm.vocabulary_size < NUM_BYTE_IDS:
            raise ConfigError(f"lm.vocabulary_size is {self.lm.vocabulary_size}; bytes need {NUM_BYTE_IDS} ids")
        if self.num_units < 1:
            raise ConfigError(f"num_units is {self.num_units}; 1 or more is wanted")

    @property
    def vocabulary(self) -> SpeechGptVocabulary:
        """Which id is what."""
        return SpeechGptVocabulary(self.lm.vocabulary_size, self.num_units, markers=self.markers)

    @property
    def network(self) -> CausalLmConfig:
        """The language model as it is built: with all ids."""
        return replace(self.lm, vocabulary_size=self.vocabulary.size)


@dataclass(frozen=True, kw_only=True)
class SpeechGptTaskConfig:
    """What one stage trains on."""

    stage: StageName = "instruct"
    """adapt: speech alone, as units; instruct: transcripts and speech of texts; chain: spoken conversations."""
    lm: str = ""
    """The language model to begin with: a checkpoint of `lm` or a name that `voder fetch` knows; random if empty."""
    vocoder: str = ""
    """A unit vocoder that is kept with the checkpoint, so that it speaks; a codec's units need none."""
    dialogues: str = ""
    """A file of dialogues whose recordings become units (stage chain; without it the answer repeats the question)."""
    lora: LoraSizes | None = field(default_factory=lambda: LoraSizes(rank=8, alpha=16, dropout=0.05))
    """What stage chain trains; everything if null."""
    embeddings_only: bool = False
    """Stage adapt: train the embedding table and the output layer alone."""
    batch_items: int = 8
    """Rows in a batch; halve it when memory runs out."""
    max_ids: int = 512
    """Longest row; longer ones are cut (adapt: the length of every block)."""
    evaluate_items: int = 64
    """Validation rows scored at each evaluation, at most."""

    def __post_init__(self) -> None:
        if self.batch_items < 1 or self.max_ids < 8:
            raise ConfigError(f"batch_items {self.batch_items} must be at least 1 and max_ids {self.max_ids} 8")


def anatomy(config: SpeechGptConfig) -> Mapping[str, str]:
    """The parts, in numbers."""
    lm, lora = config.network, f", LoRA rank {config.lora.rank}" if config.lora else ""
    return {
        "encoder": f"unit tokenizer, {config.num_units} units{', repeats merged' if config.dedup else ''}",
        "input projector": f"vocabulary + {lm.vocabulary_size - config.lm.vocabulary_size} ids",
        "language model": f"{lm.family} {lm.width} x {lm.num_layers}, {lm.vocabulary_size} ids{lora}",
        "output projector": "vocabulary",
        "generator": "unit vocoder, or the codec whose units these are",
    }


_loop = partial(cosine_loop, betas=(0.9, 0.999))


def tiny() -> Preset:
    """For tests: reads bytes, builds and trains a step in a moment."""
    lm = CausalLmConfig(
        vocabulary_size=NUM_BYTE_IDS,
        width=16,
        ffn_width=32,
        num_layers=2,
        num_heads=2,
        max_positions=192,
        pad_id=0,
    )
    model = SpeechGptConfig(lm=lm, num_units=16, dedup=False, prefix=False)
    task = SpeechGptTaskConfig(
        batch_items=2, max_ids=96, evaluate_items=2, lora=LoraSizes(rank=2, alpha=4, dropout=0.0)
    )
    return Preset(model=model, task=task, loop=replace(_loop(4, learning_rate=1e-2, every=2, warmup=1), log_every=1))


def small() -> Preset:
    """SmolLM2 135M and the units of one's own codec or hubert, on two cores."""
    task = SpeechGptTaskConfig(lm="smollm2-135m-instruct", batch_items=2, max_ids=128, evaluate_items=16)
    model = SpeechGptConfig(lm=SMOLLM2_135M, dedup=False, prefix=False)
    loop = replace(_loop(500, learning_rate=2e-4, every=100, warmup=20), precision="bf16")
    return Preset(model=model, task=task, loop=loop)


def published() -> Preset:
    """LLaMA 7B with 1000 units of mHuBERT; the stages bring their own settings."""
    task = SpeechGptTaskConfig(batch_items=6, max_ids=512)
    loop = replace(_loop(2100, learning_rate=2e-5, every=500, warmup=63), accumulate=12)
    model = SpeechGptConfig(lm=CausalLmConfig(max_positions=2048))
    return Preset(model=model, task=task, loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "7b": published}
