"""Settings of AnyGPT; presets `tiny` (tests), `small` (SmolLM2 135M and one's own codec), the published `7b`."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

from voder.errors import ConfigError
from voder.hub import Preset
from voder.nn.causal_lm import CausalLmConfig
from voder.systems.anygpt.seed import SeedConfig
from voder.systems.anygpt.vocabulary import AnyGptVocabulary, ChatPlace, ModalitySizes
from voder.text.subwords import NUM_BYTE_IDS
from voder.train.base_lm import BYTES, SMOLLM2_135M
from voder.train.loop import cosine_loop


@dataclass(frozen=True, kw_only=True)
class AnyGptConfig:
    """A language model whose vocabulary has grown by codes of several modalities, and what it was fitted on."""

    lm: CausalLmConfig = field(default_factory=CausalLmConfig)
    """The language model before it grew: `vocabulary_size` counts its own ids; task.lm decides where it is given."""
    tokenizer: str = BYTES
    """`bytes`, or the fingerprint of the text tokenizer in parts/tokenizer; task.lm decides."""
    codes: ModalitySizes = field(default_factory=ModalitySizes)
    """Codes of each modality; the tokens decide those of speech."""
    chat: ChatPlace = "none"
    """Where the two markers of the chat model are; task.stage adds them at the end."""
    speech_identity: str = ""
    """The codec whose first codebook speech is; the data says."""
    seed: SeedConfig | None = None
    """The image tokenizer, frozen; without one, images exist as codes alone."""

    def __post_init__(self) -> None:
        if self.tokenizer == BYTES and self.lm.vocabulary_size < NUM_BYTE_IDS:
            raise ConfigError(f"lm.vocabulary_size is {self.lm.vocabulary_size}; bytes need {NUM_BYTE_IDS} ids")
        seed, codes = self.seed, self.codes
        if seed is not None and (seed.codebook_size, seed.num_queries) != (codes.image, codes.image_length):
            raise ConfigError(
                f"the image tokenizer makes {seed.num_queries} codes of {seed.codebook_size}, but the vocabulary has "
                f"{codes.image_length} of {codes.image}; make them equal"
            )

    @property
    def vocabulary(self) -> AnyGptVocabulary:
        """Which id is what."""
        return AnyGptVocabulary(self.lm.vocabulary_size, self.codes, chat=self.chat)

    @property
    def network(self) -> CausalLmConfig:
        """The language model as it is built: with all ids."""
        return replace(self.lm, vocabulary_size=self.vocabulary.size)


@dataclass(frozen=True, kw_only=True)
class AnyGptTaskConfig:
    """What one stage trains on."""

    stage: Literal["pretrain", "chat"] = "pretrain"
    """pretrain: pairs of text and codes, every id carries loss; chat: conversations, the answers do."""
    lm: str = ""
    """The language model to begin with: a checkpoint of `lm` or a name that `voder fetch` knows; random if empty."""
    refiner: str = ""
    """A soundstorm over the same codec that is kept with the checkpoint: speech in full quality, any voice."""
    music: str = ""
    """A codec of music that is kept with the checkpoint."""
    dialogues: str = ""
    """A file of dialogues (pairs or conversations with codes of any modality) beside the recordings."""
    dialogue_share: float = 0.5
    """Share of rows that come from task.dialogues."""
    read_share: float = 0.5
    """Share of pairs that are read (codes to text); the others are made (text to codes)."""
    batch_items: int = 4
    """Packs (pretrain) or conversations in a batch; halve it when memory runs out."""
    max_ids: int = 512
    """Ids of a pack or a conversation."""
    evaluate_items: int = 32
    """Validation rows scored at each evaluation, at most."""

    def __post_init__(self) -> None:
        for name in ("dialogue_share", "read_share"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"{name} is {getattr(self, name)}; a share from 0 to 1 is wanted")
        if self.batch_items < 1 or self.max_ids < 8:
            raise ConfigError(f"batch_items {self.batch_items} must be at least 1 and max_ids {self.max_ids} 8")
        if not self.dialogues and self.dialogue_share != 0.5:
            raise ConfigError(f"dialogue_share is {self.dialogue_share}, but there are no task.dialogues")


def anatomy(config: AnyGptConfig) -> Mapping[str, str]:
    """The parts, in numbers."""
    lm, kinds = config.network, config.vocabulary.layout.kinds
    sizes = ", ".join(f"{name} {kind.size}" for name, kind in kinds.items())
    return {
        "encoder": f"codecs of {', '.join(kinds)}",
        "input projector": f"vocabulary + {lm.vocabulary_size - config.lm.vocabulary_size} ids ({sizes})",
        "language model": f"{lm.family} {lm.width} x {lm.num_layers}, {lm.vocabulary_size} ids",
        "output projector": "vocabulary",
        "generator": "SoundStorm and the speech codec, the music codec, unCLIP",
    }


_loop = partial(cosine_loop, betas=(0.9, 0.999))


def tiny() -> Preset:
    """For tests: reads bytes, builds and trains a step in a moment."""
    lm = CausalLmConfig(
        vocabulary_size=NUM_BYTE_IDS, width=16, ffn_width=32, num_layers=2, num_heads=2, max_positions=320, pad_id=0
    )
    codes = ModalitySizes(image=16, speech=16, music=16, audio=0, image_length=4, music_levels=2, audio_levels=1)
    model = AnyGptConfig(lm=lm, codes=codes)
    task = AnyGptTaskConfig(batch_items=2, max_ids=160, evaluate_items=2)
    return Preset(model=model, task=task, loop=replace(_loop(4, learning_rate=1e-2, every=2, warmup=1), log_every=1))


def small() -> Preset:
    """SmolLM2 135M and the first codebook of one's own codec, on two cores."""
    model = AnyGptConfig(lm=SMOLLM2_135M, codes=ModalitySizes(audio=0))
    task = AnyGptTaskConfig(lm="smollm2-135m-instruct", batch_items=2, max_ids=128, evaluate_items=16)
    loop = replace(_loop(500, learning_rate=2e-4, every=100, warmup=20), precision="bf16")
    return Preset(model=model, task=task, loop=loop)


def published() -> Preset:
    """LLaMA-2 7B with images, speech, music and sounds: 53,516 ids."""
    model = AnyGptConfig(lm=CausalLmConfig(max_positions=4096, norm_epsilon=1e-5), seed=published_seed())
    task = AnyGptTaskConfig(batch_items=5, max_ids=4500)
    return Preset(model=model, task=task, loop=_loop(4096, learning_rate=3e-5, every=500, warmup=123))


def published_seed() -> SeedConfig:
    """The sizes of the published SEED-2 tokenizer."""
    return SeedConfig(
        image_size=224,
        patch_size=14,
        vit_width=1408,
        vit_layers=39,
        vit_heads=16,
        vit_ffn_width=6144,
        num_queries=32,
        width=768,
        num_layers=12,
        num_heads=12,
        ffn_width=3072,
        codebook_size=8192,
        code_width=32,
        num_blocks=4,
        output_width=1024,
    )


PRESETS: dict[str, Callable[[], Preset]] = {"tiny": tiny, "small": small, "7b": published}
