"""Settings of NExT-GPT; presets `tiny`, `small` (a real small language model), `7b`, `7b_new` (published sizes)."""

from dataclasses import dataclass, field, replace
from typing import Literal, get_args

from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes
from voder.text.subwords import NUM_BYTE_IDS
from voder.train.base_lm import BYTES, SMOLLM2_135M
from voder.train.loop import LoopConfig, few_steps
from voder.train.optim import OptimizerConfig, ScheduleConfig

Kind = Literal["image", "video", "audio"]
KINDS: tuple[Kind, ...] = get_args(Kind)
"""Media that signals stand for, in the order of their ids."""
Line = Literal["legacy", "new"]
StageName = Literal["encoder_alignment", "decoder_alignment", "instruction"]
Records = Literal["recordings", "dialogues", "legacy", "new"]


@dataclass(frozen=True, kw_only=True)
class AudioTrunkConfig:
    """ImageBind's ears. The defaults are those of `imagebind_huge`."""

    width: int = 768
    """Channels."""
    num_layers: int = 12
    """Blocks."""
    num_heads: int = 12
    """Attention heads."""
    num_bands: int = 128
    """Mel bands."""
    num_frames: int = 204
    """Frames of a stretch (10 ms each)."""
    patch: int = 16
    """Bands, and frames, of a patch."""
    stride: int = 10
    """Bands, and frames, from one patch to the next."""
    num_clips: int = 3
    """Stretches of a recording, from its beginning to its end, that are averaged."""
    clip_s: float = 2.0
    """Seconds of a stretch."""

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if min(self.stride, self.num_clips, self.patch) < 1 or min(self.num_bands, self.num_frames) < self.patch:
            raise ValueError(
                f"patches of {self.patch} must fit {self.num_bands} bands and {self.num_frames} frames, with a stride "
                f"and a number of clips of at least 1"
            )
        if not self.clip_s > 0.025:
            raise ValueError(f"clip_s {self.clip_s} must be above 0.025, the window of a frame")

    @property
    def num_patches(self) -> int:
        """Patches of a stretch."""
        rows, columns = ((size - self.patch) // self.stride + 1 for size in (self.num_bands, self.num_frames))
        return rows * columns


@dataclass(frozen=True, kw_only=True)
class VisionTrunkConfig:
    """ImageBind's eyes. The defaults are those of `imagebind_huge`."""

    width: int = 1280
    """Channels."""
    num_layers: int = 32
    """Blocks."""
    num_heads: int = 16
    """Attention heads."""
    size: int = 224
    """Rows and columns of a picture."""
    patch: int = 14
    """Rows and columns of a patch."""

    def __post_init__(self) -> None:
        if self.num_heads < 1 or self.width % self.num_heads:
            raise ValueError(f"width {self.width} must be a multiple of num_heads {self.num_heads}")
        if self.patch < 1 or self.size < self.patch:
            raise ValueError(f"a picture of {self.size} has no room for a patch of {self.patch}")

    @property
    def num_patches(self) -> int:
        """Patches of a picture."""
        return (self.size // self.patch) ** 2


@dataclass(frozen=True, kw_only=True)
class ImageBindConfig:
    """The encoders."""

    audio: AudioTrunkConfig = field(default_factory=AudioTrunkConfig)
    """Ears."""
    vision: VisionTrunkConfig | None = field(default_factory=VisionTrunkConfig)
    """Eyes; null for none."""
    output_width: int = 1024
    """Channels of a vector."""
    logit_scale: bool = False
    """Multiply vectors of sounds by 20, as ImageBind itself does; published NExT-GPT weights need length 1."""


@dataclass(frozen=True, kw_only=True)
class OutputConfig:
    """One output projector. The defaults are those for AudioLDM."""

    num_signals: int = 8
    """Signal tokens that the language model says for one medium."""
    num_vectors: int = 1
    """Vectors that the generator is conditioned on."""
    width: int = 512
    """Channels of such a vector."""

    def __post_init__(self) -> None:
        if min(self.num_signals, self.num_vectors, self.width) < 1:
            raise ValueError("num_signals, num_vectors and width of an output must be at least 1")


def unpadded(lm: CausalLmConfig) -> CausalLmConfig:
    """A language model without an id for padding, which is known by place."""
    return replace(lm, pad_id=None)


def _vicuna() -> CausalLmConfig:
    return CausalLmConfig(bos_id=1, eos_id=2)


@dataclass(frozen=True, kw_only=True)
class NextGptConfig:
    """The whole network. The defaults are those of the published legacy checkpoint (7B)."""

    line: Line = "legacy"
    """Which of the authors' two code lines: how turns are framed, and what queries begin with."""
    encoder: ImageBindConfig = field(default_factory=ImageBindConfig)
    """What hears and sees, frozen."""
    lm: CausalLmConfig = field(default_factory=_vicuna)
    """What reads and answers (Vicuna 7B), without the signals' ids, frozen but for LoRA."""
    lora: LoraSizes = field(default_factory=lambda: LoraSizes(rank=32, alpha=32, dropout=0.1))
    """Its trained changes, on all four matrices of attention."""
    image: OutputConfig | None = field(default_factory=lambda: OutputConfig(num_signals=4, num_vectors=77, width=768))
    """Signals for Stable Diffusion 1.5; null for none."""
    video: OutputConfig | None = field(default_factory=lambda: OutputConfig(num_signals=24, num_vectors=77, width=1024))
    """Signals for ZeroScope; null for none."""
    audio: OutputConfig | None = field(default_factory=OutputConfig)
    """Signals for AudioLDM; null for none."""
    projector_width: int = 512
    """Channels inside the output projectors."""
    tokenizer: str = BYTES
    """What makes ids of text: `bytes`, or a fingerprint; taken from `task.lm`."""

    def __post_init__(self) -> None:
        if self.projector_width < 4 or self.projector_width % 4:
            raise ValueError(f"projector_width {self.projector_width} must be a multiple of 4, the projectors' heads")
        if self.lm.eos_id is None:
            raise ValueError("lm.eos_id must be set: it ends a conversation, or a turn in the new line")
        if self.lm.pad_id is not None:
            raise ValueError("lm.pad_id must be null: padding is known by place")

    def output(self, kind: str) -> OutputConfig | None:
        """The projector of a kind."""
        return {"image": self.image, "video": self.video, "audio": self.audio}[kind]


@dataclass(frozen=True, kw_only=True)
class NextGptTaskConfig:
    """How a stage is trained (section 4)."""

    stage: StageName = "encoder_alignment"
    """What learns, and from what: captions of media, signals for captions, or whole conversations."""
    records: Records = "recordings"
    """What train.jsonl and valid.jsonl hold: recordings and their texts, dialogues, or the authors' records."""
    lm: str = ""
    """The language model: a checkpoint of `lm`, or its name; empty: a random one that reads bytes."""
    train_encoder: bool = False
    """Let the encoder learn too, where no published one can be had; the paper's is frozen."""
    targets: Literal["files", "encoder"] = "files"
    """What projected signals are to match: a generator's vectors of the caption (.npy files named by the records), or
    what the encoder here makes of the recording itself."""
    caption_weight: float = 1.0
    """Of the distance to the target beside the cross-entropy; a video's counts twice in the last stage."""
    batch_items: int = 16
    """Examples in one batch."""
    max_ids: int = 512
    """Positions of an example, at most; longer ones are left out and counted."""
    evaluate_items: int = 100
    """Validation examples judged at each evaluation, at most."""

    def __post_init__(self) -> None:
        if self.batch_items < 1 or self.max_ids < 8:
            raise ValueError("batch_items must be at least 1 and max_ids at least 8")
        if not self.caption_weight >= 0:
            raise ValueError(f"caption_weight {self.caption_weight} must be at least 0")


def tiny() -> Preset:
    """For tests: builds and trains a step in a moment."""
    model = NextGptConfig(
        encoder=ImageBindConfig(
            audio=AudioTrunkConfig(
                width=8, num_layers=1, num_heads=2, num_bands=24, num_frames=40, num_clips=2, clip_s=0.4
            ),
            vision=VisionTrunkConfig(width=8, num_layers=1, num_heads=2, size=8, patch=4),
            output_width=8,
        ),
        lm=CausalLmConfig(
            vocabulary_size=NUM_BYTE_IDS,
            width=16,
            ffn_width=32,
            num_layers=1,
            num_heads=2,
            max_positions=120,
            bos_id=1,
            eos_id=2,
        ),
        lora=LoraSizes(rank=2, alpha=2, dropout=0.1),
        image=OutputConfig(num_signals=2, num_vectors=3, width=4),
        video=None,
        audio=OutputConfig(num_signals=3, num_vectors=1, width=8),
        projector_width=8,
    )
    task = NextGptTaskConfig(
        stage="instruction", targets="encoder", train_encoder=True, batch_items=2, max_ids=78, evaluate_items=3
    )
    return Preset(model=model, task=task, loop=few_steps(3e-3))


def small() -> Preset:
    """SmolLM2-135M with an audio encoder of 2.4 M parameters that is trained with it, on two cores."""
    model = NextGptConfig(
        line="new",
        encoder=ImageBindConfig(
            audio=AudioTrunkConfig(width=192, num_layers=4, num_heads=3), vision=None, output_width=256
        ),
        lm=unpadded(SMOLLM2_135M),
        lora=LoraSizes(rank=16, alpha=32, dropout=0.05),
        image=None,
        video=None,
        audio=OutputConfig(num_signals=8, num_vectors=1, width=256),
        projector_width=256,
    )
    loop = LoopConfig(
        steps=2000,
        optimizer=OptimizerConfig(learning_rate=1e-3, betas=(0.9, 0.95), weight_decay=0.001),
        schedule=ScheduleConfig(warmup_steps=50),
        evaluate_every=250,
        save_every=250,
    )
    task = NextGptTaskConfig(
        lm="smollm2-135m-instruct", targets="encoder", train_encoder=True, batch_items=4, max_ids=160
    )
    return Preset(model=model, task=task, loop=loop)


def legacy_7b() -> Preset:
    """The published sizes of the legacy line, whose weights exist."""
    loop = LoopConfig(
        steps=10_000,
        optimizer=OptimizerConfig(name="adam", learning_rate=4e-4, betas=(0.9, 0.95), weight_decay=0.001),
        schedule=ScheduleConfig(shape="linear", warmup_steps=1000),
        evaluate_every=1000,
        save_every=1000,
    )
    return Preset(model=NextGptConfig(), task=NextGptTaskConfig(records="legacy"), loop=loop)


def new_7b() -> Preset:
    """The sizes of the rewritten line, for which no weights exist; its grouping of vectors is not built here."""
    model = NextGptConfig(
        line="new",
        lora=LoraSizes(rank=128, alpha=256, dropout=0.05),
        image=OutputConfig(num_signals=4, num_vectors=77, width=1024),
    )
    loop = LoopConfig(
        steps=10_000,
        optimizer=OptimizerConfig(learning_rate=2e-4),
        schedule=ScheduleConfig(warmup_steps=300),
        precision="bf16",
        evaluate_every=1000,
        save_every=1000,
    )
    return Preset(model=model, task=NextGptTaskConfig(records="new"), loop=loop)


PRESETS = {"tiny": tiny, "small": small, "7b": legacy_7b, "7b_new": new_7b}
