"""Settings of a language model that speaks; presets `tiny` (and one per method), `small` and `paper`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from voder.data.joins import JoinConfig
from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.nn.transformer import TransformerConfig
from voder.sequence.voices import VoiceConfig
from voder.text.subwords import NUM_BYTE_IDS
from voder.train import LoopConfig, OptimizerConfig, ScheduleConfig
from voder.train.base_lm import BYTES, SMOLLM2_135M
from voder.train.voices import VoiceTaskConfig

Method = Literal["vocabulary", "superposed", "coupled"]


@dataclass(frozen=True, kw_only=True)
class LlmTtsConfig(VoiceConfig):
    """The language model, the two halves of VALL-E, and what all were fitted on."""

    method: Method = "coupled"
    """vocabulary: the language model says the codes; superposed: it reads text and codes, and VALL-E reads its hidden
    states; coupled: it reads the text alone."""
    lm: CausalLmConfig = field(default_factory=CausalLmConfig)
    """The language model; taken from `task.lm` where one is named."""
    lora: LoraSizes | None = None
    """Low-rank changes of the language model, whose own weights stay as they are; coupled can do without."""
    lora_targets: tuple[str, ...] = ("q_proj", "v_proj")
    """Names of the linear layers that LoRA changes (gpt2 calls its own c_attn)."""
    tokenizer: str = BYTES
    """`bytes`, or the fingerprint of the language model's tokenizer; taken from it."""
    lm_identity: str = ""
    """Which trained language model this was fitted on (`voder.checkpoint.identity`); empty for a random one."""
    ar: TransformerConfig = field(default_factory=TransformerConfig)
    """Predicts the first codebook, frame by frame (superposed and coupled)."""
    nar: TransformerConfig = field(default_factory=lambda: TransformerConfig(num_layers=3))
    """Predicts each other codebook for all frames at once."""
    frames_per_token: float = 6.0
    """Mean frames of one token of text: the step between text positions on the audio's time line; from the data."""
    max_frames_per_token: float = 40.0
    """Speech is cut when it gets longer than this times its text (and half a second); from the data."""

    def __post_init__(self) -> None:
        if self.method != "coupled" and self.lora is None:
            raise ConfigError(
                f"model.lora is null, but method {self.method} teaches the language model to read codes: give it a rank"
            )
        if self.tokenizer == BYTES and self.lm.vocabulary_size < NUM_BYTE_IDS:
            raise ConfigError(f"lm.vocabulary_size is {self.lm.vocabulary_size}; bytes need {NUM_BYTE_IDS} ids")
        longest = self.longest_sequence
        if longest > self.lm.max_positions:
            raise ConfigError(
                f"max_text, max_frames and max_prompt_frames make up to {longest} positions, but the language model "
                f"has {self.lm.max_positions}: lower one of them"
            )

    @property
    def longest_sequence(self) -> int:
        """Positions that the language model may have to read: begin, tag and two marks; prompt and text; codes."""
        text = 2 * self.max_text + 4
        return self.max_text + 1 if self.method == "coupled" else text + self.max_frames + self.max_prompt_frames + 2


@dataclass(frozen=True, kw_only=True)
class LlmTtsTaskConfig(VoiceTaskConfig):
    """How it is trained. The language model's LoRA and new ids learn with the first codebook's part."""

    lm: str = ""
    """A trained language model (a checkpoint's folder or name); a random one that reads bytes if empty."""
    batch_size: int = 8
    """Strings in one batch; halve it when memory runs out."""
    text_loss: bool = True
    """Whether the vocabulary method learns to predict the text too, as any language model does."""
    cache_mb: int = 512
    """Hidden states of texts kept in memory, at most, where the language model stays as it is."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if self.batch_size < 1:
            raise ConfigError(f"task.batch_size is {self.batch_size}; at least 1 is wanted")


_TINY = TransformerConfig(width=32, num_layers=1, num_heads=2, ffn_width=64, dropout=0.0)
_TINY_LM = CausalLmConfig(
    family="opt",
    vocabulary_size=NUM_BYTE_IDS,
    width=32,
    ffn_width=48,
    num_layers=2,
    num_heads=2,
    max_positions=384,
    tie_embeddings=True,
    pad_id=0,
)


def _tiny(method: Method, lora: LoraSizes | None) -> Preset:
    return Preset(
        model=LlmTtsConfig(
            method=method,
            lm=_TINY_LM,
            lora=lora,
            ar=_TINY,
            nar=_TINY,
            speakers=("a", "b"),
            num_codebooks=2,
            codebook_size=16,
            max_frames_per_token=8.0,
            max_text=24,
            max_frames=48,
            max_prompt_frames=40,
        ),
        task=LlmTtsTaskConfig(joins=JoinConfig(join_max=2), batch_size=2, evaluate_batches=1),
        loop=LoopConfig(steps=20, evaluate_every=20, save_every=20),
    )


def tiny() -> Preset:
    """Method C over a random language model; builds and trains a step in a moment; for tests."""
    return _tiny("coupled", LoraSizes(rank=2, alpha=4, dropout=0.0))


def vocabulary_tiny() -> Preset:
    """Method A; for tests."""
    return _tiny("vocabulary", LoraSizes(rank=2, alpha=4, dropout=0.0))


def superposed_tiny() -> Preset:
    """Method B; for tests."""
    return _tiny("superposed", LoraSizes(rank=2, alpha=4, dropout=0.0))


def _loop(steps: int) -> LoopConfig:
    return LoopConfig(
        steps=steps,
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.98), weight_decay=0.01),
        schedule=ScheduleConfig(shape="linear", warmup_steps=100),
        evaluate_every=500,
        save_every=500,
    )


def small() -> Preset:
    """Method C over SmolLM2-135M-Instruct, frozen: its hidden states are computed once per text."""
    return Preset(
        model=LlmTtsConfig(lm=SMOLLM2_135M, tokenizer="smollm2-135m-instruct"),
        task=LlmTtsTaskConfig(lm="smollm2-135m-instruct"),
        loop=_loop(8000),
    )


def superposed_small() -> Preset:
    """Method B over SmolLM2-135M-Instruct."""
    return _read_through("superposed")


def vocabulary_small() -> Preset:
    """Method A over SmolLM2-135M-Instruct."""
    return _read_through("vocabulary")


def _read_through(method: Method) -> Preset:
    """The language model reads every code, forwards and backwards: few strings make a step of 2 s on one thread."""
    preset = small()
    model = replace(preset.model, method=method, lora=LoraSizes(dropout=0.0))
    return replace(preset, model=model, task=replace(preset.task, batch_size=2))


def paper() -> Preset:
    """Method C with LLaMA-7B and VALL-E's published sizes, on EnCodec's codes at 6 kbit/s."""
    sizes = TransformerConfig(width=1024, num_layers=12, num_heads=16, ffn_width=4096)
    return Preset(
        model=LlmTtsConfig(
            lm=CausalLmConfig(),
            tokenizer="llama-7b",
            ar=sizes,
            nar=sizes,
            num_codebooks=8,
            codebook_size=1024,
            frame_rate_hz=75.0,
            max_text=250,
            max_frames=1500,
            max_prompt_frames=450,
        ),
        task=LlmTtsTaskConfig(lm="llama-7b", joins=JoinConfig(join_max=1), prompt_clips=1, nar_every=1),
        loop=replace(
            _loop(800_000),
            precision="bf16",
            optimizer=OptimizerConfig(learning_rate=5e-4, weight_decay=0.01),
            schedule=ScheduleConfig(shape="linear", warmup_steps=32_000),
            evaluate_every=10_000,
            save_every=10_000,
        ),
    )


PRESETS = {
    "tiny": tiny,
    "vocabulary_tiny": vocabulary_tiny,
    "superposed_tiny": superposed_tiny,
    "small": small,
    "superposed_small": superposed_small,
    "vocabulary_small": vocabulary_small,
    "paper": paper,
}
