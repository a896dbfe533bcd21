"""Settings of Pengi; presets `tiny`, `small` (a real small language model) and the published `base`."""

from dataclasses import dataclass, field, replace
from typing import Literal

from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.text.subwords import NUM_BYTE_IDS
from voder.train.base_lm import BYTES, SMOLLM2_135M
from voder.train.loop import LoopConfig, cosine_loop, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig

Records = Literal["recordings", "dialogues", "triples"]


@dataclass(frozen=True, kw_only=True)
class HtsatConfig:
    """The audio encoder. The defaults are those of the published checkpoints."""

    sample_rate_hz: int = 44_100
    """Rate of the audio that comes in."""
    filter_rate_hz: int | None = 32_000
    """Rate that the mel bank is built for: 32000 in published weights, though they hear 44.1 kHz; null: the audio's."""
    n_fft: int = 1024
    """Window and transform size in samples (Hann)."""
    hop: int = 320
    """Samples from one frame to the next."""
    num_bands: int = 64
    """Mel bands."""
    f_min_hz: float = 50.0
    """Lower edge of the first band, in the rate of the bank."""
    f_max_hz: float = 14_000.0
    """Upper edge of the last band, in the rate of the bank."""
    image: int = 256
    """Rows and columns of the folded spectrogram."""
    patch: int = 4
    """Rows and columns of a patch."""
    width: int = 96
    """Channels of a patch; doubled at every step to a smaller grid."""
    depths: tuple[int, ...] = (2, 2, 6, 2)
    """Blocks at each size of the grid."""
    num_heads: tuple[int, ...] = (4, 8, 16, 32)
    """Attention heads at each size of the grid."""
    window: int = 8
    """Rows and columns that attend to one another."""
    num_classes: int = 527
    """Classes of the head that the encoder was first trained with."""

    def __post_init__(self) -> None:
        last = self.grid >> (len(self.depths) - 1)
        if self.image % self.num_bands or self.image % self.patch or not self.depths:
            raise ValueError(
                f"image {self.image} must be a multiple of num_bands {self.num_bands} and of patch {self.patch}"
            )
        if len(self.num_heads) != len(self.depths):
            raise ValueError(f"depths {self.depths} and num_heads {self.num_heads} must be of one length")
        if last << (len(self.depths) - 1) != self.grid or not last or last % self.num_strips:
            raise ValueError(
                f"a grid of {self.grid} patches a side does not halve {len(self.depths) - 1} times into strips of "
                f"{self.num_strips}: change image, patch or depths"
            )
        for number, heads in enumerate(self.num_heads):
            size = self.grid >> number
            if heads < 1 or (self.width << number) % heads:
                raise ValueError(f"{self.width << number} channels do not divide into {heads} heads")
            if self.window < 1 or (size > self.window and size % self.window):
                raise ValueError(f"a grid of {size} does not divide into windows of {self.window}")

    @property
    def grid(self) -> int:
        """Patches on a side of the image."""
        return self.image // self.patch

    @property
    def num_strips(self) -> int:
        """Strips of bands that lie under one another in the image."""
        return self.image // self.num_bands

    @property
    def max_frames(self) -> int:
        """Frames that fill the image."""
        return self.image * self.num_strips

    @property
    def last_rows(self) -> int:
        """Rows of a strip in the last grid."""
        return (self.grid >> (len(self.depths) - 1)) // self.num_strips

    @property
    def output_width(self) -> int:
        """Channels of the last grid."""
        return self.width << (len(self.depths) - 1)


@dataclass(frozen=True, kw_only=True)
class TextTowerConfig:
    """CLIP's text encoder (2103.00020). The defaults are those of ViT-B/16."""

    vocabulary_size: int = 49_408
    """Ids; the last one ends a text."""
    max_positions: int = 77
    """Longest text."""
    width: int = 512
    """Channels."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 8
    """Attention heads."""
    ffn_width: int = 2048
    """Channels inside the feed-forward part."""
    output_width: int = 512
    """Channels of the text's vector."""

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")


@dataclass(frozen=True, kw_only=True)
class MapperConfig:
    """The networks between the encoders and the language model."""

    width: int = 1024
    """Channels of the vector that an encoder's output is projected to."""
    prefix: int = 40
    """Vectors that a mapper gives to the language model."""
    clip: int = 40
    """Vectors that a mapper spreads its input over; without a text tower, also the tokens of a prompt."""
    num_layers: int = 4
    """Blocks (the published settings say 8, of which their code builds half)."""
    num_heads: int = 8
    """Attention heads."""

    def __post_init__(self) -> None:
        if min(self.width, self.prefix, self.clip) < 1:
            raise ValueError("width, prefix and clip of the mappers must be at least 1")


@dataclass(frozen=True, kw_only=True)
class PengiConfig:
    """The whole network. The defaults are those of the published `base` checkpoint."""

    audio: HtsatConfig = field(default_factory=HtsatConfig)
    """What hears."""
    clip_s: float = 7.0
    """Seconds that are heard: shorter recordings are repeated, longer ones cut."""
    text: TextTowerConfig | None = field(default_factory=TextTowerConfig)
    """What reads the prompt; null: its token embeddings in the language model go to the mapper instead."""
    max_prompt: int = 40
    """Ids of a prompt, at most, its marks included."""
    mapper: MapperConfig = field(default_factory=MapperConfig)
    """What turns both into vectors for the language model."""
    lm: CausalLmConfig = field(
        default_factory=lambda: CausalLmConfig(
            family="gpt2",
            vocabulary_size=50_257,
            width=768,
            ffn_width=3072,
            num_layers=12,
            num_heads=12,
            max_positions=1024,
            norm_epsilon=1e-5,
            tie_embeddings=True,
            bos_id=None,
            eos_id=50_256,
        )
    )
    """What answers (GPT-2 base), frozen."""
    tokenizer: str = BYTES
    """What makes ids of answers: `bytes`, or a fingerprint; taken from `task.lm`."""
    prompt_tokenizer: str = BYTES
    """What makes ids of prompts for the text tower: `bytes`, or a fingerprint."""

    def __post_init__(self) -> None:
        if (
            not self.clip_s > 0
            or round(self.clip_s * self.audio.sample_rate_hz) // self.audio.hop >= self.audio.max_frames
        ):
            raise ValueError(
                f"clip_s {self.clip_s} must be above 0 and give fewer frames than the image's {self.audio.max_frames}"
            )
        if round(self.clip_s * self.audio.sample_rate_hz) <= self.audio.n_fft // 2:
            raise ValueError(f"clip_s {self.clip_s} is shorter than half a window of {self.audio.n_fft} samples")
        if self.text is not None and not 3 <= self.max_prompt <= self.text.max_positions:
            raise ValueError(
                f"max_prompt {self.max_prompt} must lie in 3 to {self.text.max_positions}, the tower's positions"
            )
        if self.text is None and self.max_prompt != self.mapper.clip:
            raise ValueError(
                f"without a text tower max_prompt {self.max_prompt} must be mapper.clip {self.mapper.clip}"
            )
        if self.lm.bos_id is not None or self.lm.pad_id is not None:
            raise ValueError(
                "lm.bos_id and lm.pad_id must be null: an answer follows the prefix, and padding is masked"
            )
        if 2 * self.mapper.prefix >= self.lm.max_positions:
            raise ValueError(f"two prefixes of {self.mapper.prefix} leave no room in {self.lm.max_positions} positions")


@dataclass(frozen=True, kw_only=True)
class PengiTaskConfig:
    """How it is trained: text after the prefix of a recording and a prompt (section 3.2)."""

    records: Records = "recordings"
    """What train.jsonl and valid.jsonl hold: recordings and their texts, dialogues, or the authors' triples."""
    prompt: str = "generate audio caption"
    """Asked of every one of `recordings`."""
    lm: str = ""
    """The language model that is prefixed: a checkpoint of `lm`, or its name; empty: a random one that reads bytes."""
    batch_items: int = 32
    """Recordings in one batch."""
    max_answer: int = 40
    """Ids of an answer, its end included; records with longer answers are left out and counted."""
    random_crop: bool = True
    """Of a long recording take a stretch drawn anew each time; else its beginning."""
    cache_mb: int = 1024
    """Decoded audio kept in memory, at most."""
    evaluate_items: int = 100
    """Validation records judged at each evaluation, at most."""

    def __post_init__(self) -> None:
        if self.batch_items < 1 or self.max_answer < 2:
            raise ValueError("batch_items must be at least 1 and max_answer at least 2")
        if not self.prompt.strip():
            raise ValueError("the prompt must not be empty")


def prefixed(lm: CausalLmConfig) -> CausalLmConfig:
    """A language model that answers behind a prefix: nothing begins a text, and padding is masked."""
    return replace(lm, bos_id=None, pad_id=None)


def byte_lm(*, width: int, num_layers: int, num_heads: int, max_positions: int) -> CausalLmConfig:
    """A GPT-2 that reads bytes."""
    return CausalLmConfig(
        family="gpt2",
        vocabulary_size=NUM_BYTE_IDS,
        width=width,
        ffn_width=2 * width,
        num_layers=num_layers,
        num_heads=num_heads,
        max_positions=max_positions,
        norm_epsilon=1e-5,
        tie_embeddings=True,
        bos_id=None,
        eos_id=2,
    )


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = PengiConfig(
        audio=HtsatConfig(
            sample_rate_hz=8000,
            filter_rate_hz=6000,
            n_fft=128,
            hop=160,
            num_bands=8,
            f_max_hz=2800.0,
            image=32,
            patch=4,
            width=8,
            depths=(2, 1),
            num_heads=(2, 2),
            window=4,
            num_classes=3,
        ),
        clip_s=1.0,
        text=TextTowerConfig(
            vocabulary_size=NUM_BYTE_IDS + 2,
            max_positions=32,
            width=8,
            num_layers=1,
            num_heads=2,
            ffn_width=16,
            output_width=8,
        ),
        max_prompt=24,
        mapper=MapperConfig(width=16, prefix=3, clip=3, num_layers=1, num_heads=2),
        lm=byte_lm(width=16, num_layers=1, num_heads=2, max_positions=64),
    )
    task = PengiTaskConfig(batch_items=2, max_answer=12, evaluate_items=3)
    return Preset(model=model, task=task, loop=few_steps(3e-3))


def small() -> Preset:
    """SmolLM2-135M behind an encoder of 1.9 M parameters that is trained with it, on two cores."""
    model = PengiConfig(
        audio=HtsatConfig(width=24, depths=(2, 2, 2, 2), num_heads=(2, 4, 6, 8), num_classes=10),
        text=None,
        max_prompt=16,
        mapper=MapperConfig(width=192, prefix=8, clip=16, num_layers=2, num_heads=6),
        lm=prefixed(SMOLLM2_135M),
    )
    loop = cosine_loop(2000, learning_rate=1e-3, every=250, warmup=50, betas=(0.9, 0.98), final_ratio=0.05)
    return Preset(model=model, task=PengiTaskConfig(lm="smollm2-135m-instruct", batch_items=8), loop=loop)


def base() -> Preset:
    """The published sizes and, where they are known, settings: Adam, 60 epochs of 3.4 M pairs, batches of 384."""
    loop = LoopConfig(
        steps=531_250,
        optimizer=OptimizerConfig(name="adam", learning_rate=1e-4),
        schedule=ScheduleConfig(warmup_steps=2000),
        evaluate_every=5000,
        save_every=5000,
    )
    return Preset(model=PengiConfig(), task=PengiTaskConfig(batch_items=384, records="triples"), loop=loop)


def base_no_text_enc() -> Preset:
    """The published variant without a text tower."""
    preset = base()
    return replace(preset, model=replace(preset.model, text=None))


PRESETS = {"tiny": tiny, "small": small, "base": base, "base_no_text_enc": base_no_text_enc}
