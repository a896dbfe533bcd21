"""Sizes of Whisper, how it is asked to listen, and how it is trained; presets are the published sizes and `tiny`."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from itertools import pairwise
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.train.loop import LoopConfig
from voder.train.optim import OptimizerConfig, ScheduleConfig

SAMPLE_RATE_HZ = 16_000
HOP = 160
"""Samples per mel frame (10 ms)."""
FRAMES_PER_S = SAMPLE_RATE_HZ // HOP
FRAMES_PER_POSITION = 2
"""Mel frames under one position of the encoder, whose second convolution has stride 2; 20 ms."""
ENGLISH_ONLY_IDS = 51_864
"""Vocabularies of at least one more are multilingual."""


@dataclass(frozen=True, kw_only=True)
class WhisperConfig:
    """The network."""

    num_bands: int = 80
    """Mel bands: 80, or 128 from large-v3 on."""
    num_audio_positions: int = 1500
    """Positions of the encoder in one window; 1500 are 30 s."""
    width: int = 512
    """Channels of encoder and decoder."""
    num_heads: int = 8
    """Attention heads."""
    num_encoder_layers: int = 6
    """Blocks of the encoder."""
    num_decoder_layers: int = 6
    """Blocks of the decoder."""
    num_text_positions: int = 448
    """Learned positions of the decoder: prompt and answer together."""
    vocabulary_size: int = 51_865
    """51864: English only; 51865: 99 languages; 51866: 100 languages."""
    alignment_heads: tuple[tuple[int, int], ...] = ()
    """Decoder (layer, head) pairs whose cross-attention follows time; empty: all heads of the upper half."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.width % 2:
            raise ValueError(f"width {self.width} must be even and a multiple of num_heads {self.num_heads}")
        if not 51_864 <= self.vocabulary_size <= 51_866:
            raise ValueError(f"vocabulary_size {self.vocabulary_size} is none of Whisper's: 51864, 51865, 51866")
        if self.num_text_positions < 16:
            raise ValueError(f"num_text_positions {self.num_text_positions} must be at least 16")
        for layer, head in self.alignment_heads:
            if not (0 <= layer < self.num_decoder_layers and 0 <= head < self.num_heads):
                raise ValueError(f"alignment head ({layer}, {head}) is not among the decoder's layers and heads")

    @property
    def multilingual(self) -> bool:
        """Whether it knows more than English."""
        return self.vocabulary_size > ENGLISH_ONLY_IDS

    @property
    def num_languages(self) -> int:
        """Language ids of the vocabulary (English-only models have the ids and no use for them)."""
        return self.vocabulary_size - 51_765 - int(self.multilingual)

    @property
    def window_frames(self) -> int:
        """Mel frames of one window."""
        return self.num_audio_positions * FRAMES_PER_POSITION

    @property
    def window_samples(self) -> int:
        """Samples of one window."""
        return self.window_frames * HOP


@dataclass(frozen=True, kw_only=True)
class ListenConfig:
    """How a recording is listened to: the names and defaults are the original's, units in the names."""

    task: Literal["transcribe", "translate"] = "transcribe"
    """Write what is said, or say it in English."""
    language: str | None = None
    """Two-letter code or English name; identified from the first window if not given."""
    temperatures: tuple[float, ...] = (0.0, 0.2, 0.4, 0.6, 0.8, 1.0)
    """Tried in order until the answer looks sound; 0 is greedy or beam search."""
    beam_size: int = 1
    """Beams at temperature 0; 1 is greedy."""
    patience: float = 1.0
    """A beam search ends with beam_size * patience finished answers (2204.05424)."""
    best_of: int = 5
    """Answers drawn above temperature 0, of which the likeliest is kept."""
    length_penalty: float | None = None
    """Answers are ranked by log probability / length, or by the penalty of 1609.08144 with this exponent."""
    sample_len: int | None = None
    """Most ids of one window; half the decoder's positions if not given."""
    suppress_tokens: tuple[int, ...] = (-1,)
    """Ids never said; -1 stands for symbols that nobody pronounces, empty allows everything."""
    suppress_blank: bool = True
    """No window begins with a space or ends at once."""
    timestamps: bool = True
    """Let the model say when; without, a window is one segment."""
    max_initial_timestamp_s: float | None = 1.0
    """Latest first timestamp of a window."""
    compression_ratio_threshold: float | None = 2.4
    """A text that compresses better than this is a loop: try the next temperature."""
    logprob_threshold: float | None = -1.0
    """A mean log probability below this is a failure: try the next temperature."""
    no_speech_threshold: float | None = 0.6
    """A failure with more than this chance of no speech is silence."""
    condition_on_previous_text: bool = True
    """Show the model what it wrote for the windows before."""
    initial_prompt: str | None = None
    """Text to pretend came before: names, a glossary, a style."""
    carry_initial_prompt: bool = False
    """Show the initial prompt to every window."""
    clip_timestamps_s: tuple[float, ...] = ()
    """Start, end, start, end … of the stretches to listen to; all if empty."""
    word_timestamps: bool = False
    """Also say when each word begins and ends."""
    seed: int = 0
    """Of the draws above temperature 0."""

    def __post_init__(self) -> None:
        if not self.temperatures or min(self.temperatures) < 0:
            raise ConfigError(f"temperatures {self.temperatures} must be one or more numbers from 0")
        if min(self.beam_size, self.best_of) < 1 or not self.patience > 0:
            raise ConfigError(
                f"beam_size {self.beam_size} and best_of {self.best_of} must be at least 1, "
                f"patience {self.patience} above 0"
            )
        if self.sample_len is not None and self.sample_len < 1:
            raise ConfigError(f"sample_len {self.sample_len} must be at least 1")
        if self.length_penalty is not None and not 0 <= self.length_penalty <= 1:
            raise ConfigError(f"length_penalty {self.length_penalty} must lie in [0, 1]")
        if any(b < a for a, b in pairwise(self.clip_timestamps_s)):
            raise ConfigError(f"clip_timestamps_s {self.clip_timestamps_s} must not decrease")


@dataclass(frozen=True, kw_only=True)
class WhisperTaskConfig:
    """How it is fine-tuned: pairs of a recording of one window at most and its text."""

    batch_size: int = 16
    """Recordings in one batch; halve it when memory runs out."""
    task: Literal["transcribe", "translate"] = "transcribe"
    """Whether the texts are what is said, or its English translation."""
    language: str = "en"
    """Language of recordings whose manifest does not say it."""
    freeze_encoder: bool = False
    """Train the decoder alone."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 100
    """Validation recordings scored at each evaluation, at most."""


def tiny() -> Preset:
    """For tests: windows of 2 s, builds and trains a step in a moment."""
    model = WhisperConfig(
        num_bands=80,
        num_audio_positions=100,
        width=16,
        num_heads=2,
        num_encoder_layers=1,
        num_decoder_layers=1,
        num_text_positions=48,
    )
    task = WhisperTaskConfig(batch_size=2, evaluate_items=2)
    return Preset(model=model, task=task, loop=LoopConfig(steps=4, evaluate_every=2, save_every=2, log_every=1))


def _published(
    width: int, heads: int, layers: int, decoder_layers: int, vocabulary_size: int, num_bands: int = 80
) -> Preset:
    model = WhisperConfig(
        num_bands=num_bands,
        width=width,
        num_heads=heads,
        num_encoder_layers=layers,
        num_decoder_layers=decoder_layers,
        vocabulary_size=vocabulary_size,
    )
    # the usual fine-tuning: 1e-5, linear decay (the pre-training of the paper is 2^20 steps of 256 windows)
    loop = LoopConfig(
        steps=4000,
        optimizer=OptimizerConfig(learning_rate=1e-5, betas=(0.9, 0.98), weight_decay=0.1),
        schedule=ScheduleConfig(shape="linear", warmup_steps=500, final_ratio=0.0),
        evaluate_every=500,
        save_every=500,
    )
    return Preset(model=model, task=WhisperTaskConfig(), loop=loop)


PRESETS: dict[str, Callable[[], Preset]] = {
    "tiny": tiny,
    "tiny_en": partial(_published, 384, 6, 4, 4, 51_864),
    "base": partial(_published, 512, 8, 6, 6, 51_865),
    "small": partial(_published, 768, 12, 12, 12, 51_865),
    "medium": partial(_published, 1024, 16, 24, 24, 51_865),
    "large-v3": partial(_published, 1280, 20, 32, 32, 51_866, 128),
    "turbo": partial(_published, 1280, 20, 32, 4, 51_866, 128),
}
