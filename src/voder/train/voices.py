"""What the tasks that train a voice of codes share: its settings from the data, batches, how one is shown, a sample."""

import dataclasses
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, TypeVar

import numpy as np
import torch

from voder.audio.io import write_audio
from voder.data.joins import JoinConfig, Spoken, StringMaker
from voder.data.shards import TokenSplit, TokenStore
from voder.errors import ConfigError, FittedPartMismatch, TokensError
from voder.roles import Codec, SayRequest, Speaker
from voder.sequence.assemble import Stream, assemble
from voder.sequence.voices import UNKNOWN, VoiceConfig, VoiceLayout, VoiceRow
from voder.shapes import Codes

PAD_TO = 8
"""Streams are padded to a multiple of this, so that few shapes occur and memory is used again."""
C = TypeVar("C", bound=VoiceConfig)
S = TypeVar("S", str, tuple[int, ...])


@dataclass(frozen=True, kw_only=True)
class VoiceTaskConfig:
    """How a voice is trained: what learns, and the strings that it learns from."""

    stage: Literal["both", "ar", "nar"] = "both"
    """What learns: the first codebook's part, the other codebooks' part, or both."""
    joins: JoinConfig = field(default_factory=JoinConfig)
    """How training strings are made of clips."""
    prompt_share: float = 0.5
    """Share of batches whose strings have an audio prompt."""
    prompt_clips: int = 3
    """Clips joined into a prompt, at most."""
    prompt_text_share: float = 0.7
    """Share of prompts whose text is given; the others must be imitated without."""
    no_tag_share: float = 0.03
    """Share of unprompted strings without a speaker's tag."""
    nar_every: int = 3
    """When both parts learn, the other codebooks' part does so on one step in this many."""
    evaluate_batches: int = 4
    """Validation batches at each evaluation (valle: with and without prompts)."""

    def __post_init__(self) -> None:
        for name in ("prompt_clips", "nar_every", "evaluate_batches"):
            if getattr(self, name) < 1:
                raise ConfigError(f"task.{name} is {getattr(self, name)}; at least 1 is wanted")


@dataclass
class VoiceBatch:
    """Strings of about one length."""

    text: Stream
    audio: Stream
    """First codebook: what is read, with what is predicted and carries loss."""
    frames: Stream
    """Prompt and target frames for the other codebooks."""
    codes: Codes
    """All codebooks at those frames."""

    @classmethod
    def of(cls, layout: VoiceLayout, rows: Sequence[VoiceRow], *, prompt_loss: bool = False) -> "VoiceBatch":
        """Lay out rows; with `prompt_loss` the codes of a prompt whose text is given are learned too."""
        audio = [
            [
                *layout.audio_prompt(row.voice, loss=prompt_loss and bool(row.voice.prompt_text)),
                layout.audio_target(row.codes[0]),
            ]
            for row in rows
        ]
        frames = assemble([layout.frames(row.codes.shape[1], row.voice) for row in rows], multiple=PAD_TO)
        codes = np.zeros((len(rows), layout.config.num_codebooks, frames.ids.shape[1]), np.int64)
        for place, row in zip(codes, rows, strict=True):
            place[:, : row.all_codes.shape[1]] = row.all_codes
        return cls(
            text=assemble([layout.text(row.text, row.voice) for row in rows], multiple=PAD_TO),
            audio=assemble(audio, multiple=PAD_TO),
            frames=frames,
            codes=torch.from_numpy(codes),
        )

    def to(self, device: torch.device) -> "VoiceBatch":
        """Move all tensors."""
        streams = {name: getattr(self, name).to(device) for name in ("text", "audio", "frames")}
        return dataclasses.replace(self, codes=self.codes.to(device, non_blocking=True), **streams)

    def head(self, num_rows: int) -> "VoiceBatch":
        """The first rows."""
        frames = self.frames.head(num_rows)
        codes = self.codes[:num_rows, :, : frames.ids.shape[1]]
        return VoiceBatch(self.text.head(num_rows), self.audio.head(num_rows), frames, codes)


def fitted_voice(config: C, start: VoiceConfig | None, store: TokenStore) -> C:
    """Settings with the codec of the tokens, and their speakers behind those of `start`, which is gone on from.

    Raises:
        FittedPartMismatch: `start` was trained on tokens of another codec.
    """
    info = store.tokenizer
    if start is not None and start.codec_identity != info.identity:
        raise FittedPartMismatch(
            f"the checkpoint speaks tokens of codec {start.codec_identity}, but {store.folder} holds tokens of "
            f"{info.identity}: tokenize the data with the checkpoint's own codec (its parts/codec)"
        )
    return dataclasses.replace(
        config,
        speakers=appended(start.speakers if start else (), store.split("train").speakers()),
        codec_identity=info.identity,
        num_codebooks=info.num_codebooks,
        codebook_size=info.codebook_size,
        frame_rate_hz=info.frame_rate_hz,
    )


def appended(old: Sequence[str], new: Iterable[str]) -> tuple[str, ...]:
    """The old names in their order, then the new ones, sorted."""
    return (*old, *sorted(set(new) - set(old)))


def spelled_texts(store: TokenStore, spell: Callable[[str], S]) -> Iterator[tuple[S, float]]:
    """Every text of the training split as it is spelled, and its frames per item (one added, as between words)."""
    split = store.split("train")
    for index in range(len(split)):
        text = spell(split.utterance(index).text or "")
        if len(text) and split.lengths[index]:
            yield text, split.lengths[index] / (len(text) + 1)


def pace(tokens: Path, found: Sequence[float], before: tuple[float, float] | None) -> tuple[float, float]:
    """Mean frames of one item of text, and those at which speech is cut; `before` are those of a voice to go on from.

    Raises:
        TokensError: nothing was found: no clip has a text.
    """
    if not found:
        raise TokensError(f"{tokens}: no recording of the training split has a text, so nothing can be learned")
    stride = before[0] if before else round(float(np.median(found)), 3)
    return stride, round(max(float(max(found)) * 1.25, before[1] if before else 0.0), 3)


def string_maker(
    split: TokenSplit, store: TokenStore, config: VoiceConfig, joins: JoinConfig, text_of: Callable[[str], str | None]
) -> StringMaker:
    """Strings out of a split, their speakers by number.

    Args:
        split: what they are made of.
        store: whose silence stands between clips.
        config: speakers and longest strings.
        joins: how clips are joined.
        text_of: gives the text as it is spelled, or None for a clip that cannot be used.
    """
    numbers = {name: number for number, name in enumerate(config.speakers)}
    return StringMaker(
        split,
        joins,
        silence=store.silence,
        frame_rate_hz=config.frame_rate_hz,
        speaker_of=lambda name: UNKNOWN if name is None else numbers.get(name, UNKNOWN),
        text_of=lambda text: text_of(text or ""),
        max_frames=config.max_frames,
        max_prompt_frames=config.max_prompt_frames,
    )


def codebook_learned(config: VoiceTaskConfig, step: int, num_codebooks: int) -> int | None:
    """The codebook (from 1) that the second network learns at a step, if it learns.

    They take turns and are not drawn, so that all ranks step on the same output layer.
    """
    every = 1 if config.stage == "nar" else config.nar_every
    if config.stage == "ar" or num_codebooks == 1 or step % every:
        return None
    return 1 + step // every % (num_codebooks - 1)


def show(batch: VoiceBatch, layout: VoiceLayout, spelled: Callable[[int], str], *, between: str) -> str:
    """The first row's streams, and what of it carries loss; `spelled` gives the text of an item by its number."""
    shown = []
    for id_ in batch.text.ids[0][batch.text.valid[0]].tolist():
        kind, number = layout.text_ids.locate(id_)
        names = {"mark": ("no tag", "sep", "end"), "speaker": layout.config.speakers}.get(kind)
        shown.append(spelled(number) if names is None else f"<{names[number]}>")
    audio, read, wanted = batch.audio, [], []
    for position in range(int(audio.valid[0].sum())):
        kind, number = layout.audio_ids.locate(int(audio.ids[0, position]))
        read.append(str(number) if kind == "code" else f"<{kind}>")
        target = int(audio.targets[0, position])
        learned = "<end>" if target == layout.end else str(target)
        wanted.append(learned if audio.loss[0, position] else "-")
    return f"text   {between.join(shown)}\nreads  {' '.join(read)}\nlearns {' '.join(wanted)}"


def write_sample(folder: Path, speaker: Speaker, codec: Codec, spoken: Spoken) -> None:
    """Say a string in its speaker's voice, beside the original through the codec."""
    tag = None if spoken.speaker == UNKNOWN else speaker.speakers[spoken.speaker]
    speech = speaker.say_batch([SayRequest(text=spoken.text, speaker=tag)])[0]
    write_audio(folder / "said.wav", speech.clip, synthetic=True)
    write_audio(folder / "original.wav", codec.decode(spoken.codes))
    (folder / "text.txt").write_text(f"{tag or 'no tag'}: {spoken.text}\n", encoding="utf-8")
