"""Training of the codec language model on token shards.

A batch is a pure function of (seed, step, rank): strings of about one length, drawn from the clips, under a budget
of positions. Half of the batches have an audio prompt. The two networks are two phases of the loop, so their
means, their clipping and their optimisers are their own.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voder import hub
from voder.audio.io import write_audio
from voder.data.joins import UNKNOWN, Spoken, StringMaker
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.data.summary import summarize_tokens
from voder.errors import ConfigError
from voder.roles import SayRequest
from voder.sequence.assemble import Stream, assemble
from voder.shapes import Codes
from voder.systems.valle import fit
from voder.systems.valle.config import ValleConfig, ValleTaskConfig
from voder.systems.valle.infer import ValleSpeaker
from voder.systems.valle.layout import Layout, Voice
from voder.systems.valle.model import Valle
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task

PAD_TO = 8
"""Streams are padded to a multiple of this, so that few shapes occur and memory is used again."""


@dataclass
class ValleBatch:
    """Strings of about one length."""

    text: Stream
    audio: Stream
    """First codebook: what is read, with what is predicted and carries loss."""
    frames: Stream
    """Prompt and target frames for the finer codebooks; loss on target frames."""
    codes: Codes
    """All codebooks at those frames."""

    def to(self, device: torch.device) -> "ValleBatch":
        """Move all tensors."""
        streams = {name: getattr(self, name).to(device) for name in ("text", "audio", "frames")}
        return dataclasses.replace(self, codes=self.codes.to(device, non_blocking=True), **streams)

    def head(self, num_rows: int) -> "ValleBatch":
        """The first rows."""
        frames = self.frames.head(num_rows)
        codes = self.codes[:num_rows, :, : frames.ids.shape[1]]
        return ValleBatch(self.text.head(num_rows), self.audio.head(num_rows), frames, codes)


class ValleTask(Task):
    """Two cross-entropies."""

    batch_setting = "task.batch_tokens"
    model: Valle
    config: ValleTaskConfig

    def __init__(self, model: nn.Module, config: ValleTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        self.store.require(self.model.config.codec_identity)
        self.layout = Layout(self.model.config)
        if config.stage != "both":
            if config.stage == "nar" and self.model.nar is None:
                raise ConfigError("task.stage is nar, but a codec of one codebook leaves nothing to fill in; use ar")
            freeze_all_but(self.model, (f"{config.stage}.",))
        self.train_strings = self._maker(self.store.split("train"))

    @classmethod
    def fit_config(
        cls, model_config: ValleConfig, task_config: Any, data: Path, start: ValleConfig | None = None
    ) -> ValleConfig:
        """Fill in symbols, speakers, codec and lengths from the tokens; `start` is extended by what is new."""
        return fit.fit_config(model_config, TokenStore.open(data), start)

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: ValleConfig, config: ValleConfig) -> dict[str, Tensor]:
        """Grow the text embeddings by new symbols and speakers, which start as the mean of the old ones."""
        return fit.grow_state(state, start, config)

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The two networks, or the one of the stage."""
        networks = {"ar": self.model.ar} | ({} if self.model.nar is None else {"nar": self.model.nar})
        return {name: network for name, network in networks.items() if self.config.stage in ("both", name)}

    def parts(self) -> dict[str, Path]:
        """The codec whose tokens are spoken."""
        return {"codec": self.store.tokenizer_folder}

    def _maker(self, split: TokenSplit) -> StringMaker:
        model = self.model.config
        numbers = {name: number for number, name in enumerate(model.speakers)}
        return StringMaker(
            split,
            self.config.joins,
            silence=self.store.silence,
            frame_rate_hz=model.frame_rate_hz,
            speaker_of=lambda name: UNKNOWN if name is None else numbers.get(name, UNKNOWN),
            text_of=self._usable_text,
            max_frames=model.max_frames,
            max_prompt_frames=model.max_prompt_frames,
        )

    def _usable_text(self, text: str | None) -> str | None:
        spelled = self.layout.spell(text or "")
        fits = 0 < len(spelled) <= self.model.config.max_text
        return spelled if fits and set(spelled) <= set(self.model.config.symbols) else None

    def batch(self, step: int, rank: int, world: int) -> ValleBatch:
        """Strings of about one length: either joins of one number of clips, or clips of about one duration."""
        rng = generator(self.seed, "valle", step, rank)
        grown = 1.0 if not self.config.curriculum_steps else min(1.0, (step + 1) / self.config.curriculum_steps)
        most = 1 + int(grown * (self.config.joins.join_max - 1) + 1e-9)
        prompted = bool(rng.random() < self.config.prompt_share)
        return self._compose(self.train_strings, rng, most, prompted=prompted, corrupt=self.config.corrupt_share)

    def _compose(
        self, strings: StringMaker, rng: np.random.Generator, most: int, *, prompted: bool, corrupt: float
    ) -> ValleBatch:
        """Draw rows until the next would exceed the budget."""
        num_clips = int(rng.integers(1, most + 1)) if rng.random() < strings.joined_share else 0
        near = float(rng.random())
        rows: list[tuple[Spoken, Voice]] = []
        longest = 0
        while len(rows) < self.config.max_rows:
            target = strings.joined(rng, num_clips) if num_clips else strings.single(rng, near)
            if len(target.text) > self.model.config.max_text:
                continue
            voice = self._voice(strings, rng, target, prompted=prompted)
            longest = max(longest, _positions(target, voice))
            if rows and longest * (len(rows) + 1) > self.config.batch_tokens:
                break
            rows.append((target, voice))
        return self._lay_out(rows, rng, corrupt)

    def _voice(self, strings: StringMaker, rng: np.random.Generator, target: Spoken, *, prompted: bool) -> Voice:
        prompt = strings.prompt(rng, target, self.config.prompt_clips) if prompted else None
        if prompt is None or len(prompt.text) > self.model.config.max_text:
            has_tag = rng.random() >= self.config.no_tag_share
            return Voice(speaker=target.speaker if has_tag else UNKNOWN)
        return Voice(
            speaker=target.speaker if rng.random() < self.config.prompt_tag_share else UNKNOWN,
            prompt_codes=prompt.codes,
            prompt_text=prompt.text if rng.random() < self.config.prompt_text_share else None,
        )

    def _lay_out(self, rows: list[tuple[Spoken, Voice]], rng: np.random.Generator, corrupt: float) -> ValleBatch:
        layout = self.layout
        text = assemble([layout.text(target.text, voice) for target, voice in rows], multiple=PAD_TO)
        audio = []
        for target, voice in rows:
            learn_prompt = self.config.prompt_loss and voice.prompt_text is not None
            audio.append([*layout.audio_prompt(voice, loss=learn_prompt), layout.audio_target(target.codes[0])])
        frames = assemble([layout.frames(target.codes.shape[1], voice) for target, voice in rows], multiple=PAD_TO)
        codes = np.zeros((len(rows), self.model.config.num_codebooks, frames.ids.shape[1]), np.int64)
        for row, (target, voice) in zip(codes, rows, strict=True):
            heard = target.codes
            if voice.prompt_codes is not None:
                heard = np.concatenate((voice.prompt_codes, heard), axis=1)
            row[:, : heard.shape[1]] = heard
        read = self._corrupted(assemble(audio, multiple=PAD_TO), rng, corrupt)
        return ValleBatch(text, read, frames, torch.from_numpy(codes))

    def _corrupted(self, audio: Stream, rng: np.random.Generator, share: float) -> Stream:
        """Replace a share of the codes that are read; begin marks stay."""
        size = self.model.config.codebook_size
        replaced = torch.from_numpy(rng.random(tuple(audio.ids.shape)) < share) & (audio.ids < size) & audio.valid
        noise = torch.from_numpy(rng.integers(size, size=tuple(audio.ids.shape)))
        return dataclasses.replace(audio, ids=torch.where(replaced, noise, audio.ids))

    def losses(self, batch: ValleBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy per code, end tokens included; the finer codebooks on each `nar_every`-th step of both."""
        if self.config.stage != "nar":
            yield "ar", self._coarse_loss(batch)
        every = 1 if self.config.stage == "nar" else self.config.nar_every
        if self.config.stage != "ar" and self.model.nar is not None and step % every == 0:
            # in turn and not at random, so that all ranks step on the same output layer
            stage = 1 + step // every % (self.model.config.num_codebooks - 1)
            yield "nar", self._fine_loss(batch.head(max(1, len(batch.codes) // 2)), stage)

    def _coarse_loss(self, batch: ValleBatch) -> Loss:
        logits = self.model.ar(batch.text, batch.audio)[batch.audio.loss]
        return _cross_entropy(logits, batch.audio.targets[batch.audio.loss])

    def _fine_loss(self, batch: ValleBatch, stage: int) -> Loss:
        assert self.model.nar is not None
        is_target = (batch.frames.segments == 0) & batch.frames.valid
        logits = self.model.nar(batch.text, batch.frames, batch.codes, stage)[is_target]
        return _cross_entropy(logits, batch.codes[:, stage][is_target])

    @cached_property
    def _valid_batches(self) -> dict[str, list[ValleBatch]]:
        """The same strings at every evaluation, with and without prompts, at full length."""
        strings = self._maker(self.store.split("valid"))
        made: dict[str, list[ValleBatch]] = {}
        for mode in ("tag", "prompt") if self.config.prompt_share else ("tag",):
            rng = generator(self.seed, "valle valid", mode)
            made[mode] = [
                self._compose(strings, rng, self.config.joins.join_max, prompted=mode == "prompt", corrupt=0.0)
                for _ in range(self.config.evaluate_batches)
            ]
        return made

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy of the next code, by tag and by prompt, and of the finer codebooks.

        There is no `score`, so the last checkpoint is the best: on a small corpus neither figure follows the words.
        Of the demo's voice, step 2000 has the best accuracy and says 21 % of the words wrong, step 6000 7.5 %.
        """
        device = next(self.model.parameters()).device
        figures: dict[str, float] = {}
        for mode, batches in self._valid_batches.items():
            moved = [batch.to(device) for batch in batches]
            figures |= _mean(f"{mode}/", [self._coarse_loss(batch) for batch in moved])
            if self.model.nar is not None:
                stages = range(1, self.model.config.num_codebooks)
                figures |= _mean(f"{mode}/nar_", [self._fine_loss(b, stage) for b in moved for stage in stages])
        return figures

    def samples(self, folder: Path) -> None:
        """Say a text of the validation split in its speaker's voice, beside the original through the codec."""
        codec = hub.load_codec(self.store.tokenizer_folder, device=next(self.model.parameters()).device)
        speaker = ValleSpeaker(self.model, codec)
        strings = self._maker(self.store.split("valid"))
        rng = generator(self.seed, "valle sample")
        num_clips = min(3, self.config.joins.join_max)
        spoken = strings.joined(rng, num_clips) if strings.short.size else strings.single(rng)
        tag = None if spoken.speaker == UNKNOWN else self.model.config.speakers[spoken.speaker]
        speech = speaker.say_batch([SayRequest(text=spoken.text, speaker=tag)])[0]
        write_audio(folder / "said.wav", speech.clip, synthetic=True)
        write_audio(folder / "original.wav", codec.decode(spoken.codes))
        (folder / "text.txt").write_text(f"{tag or 'no tag'}: {spoken.text}\n", encoding="utf-8")

    def describe(self, batch: ValleBatch) -> str:
        """The first row's streams, and what of it carries loss."""
        config = self.model.config
        names = ["<no tag>", "<sep>", "<end>", *config.symbols, *(f"<{name}>" for name in config.speakers)]
        text = "".join(names[i] for i in batch.text.ids[0][batch.text.valid[0]].tolist())
        audio, row = batch.audio, 0
        marks = {self.layout.audio_ids[n].start: f"<{n}>" for n in ("end", "begin", "begin_prompt")}
        read, wanted = [], []
        for position in range(int(audio.valid[row].sum())):
            read.append(marks.get(int(audio.ids[row, position]), str(int(audio.ids[row, position]))))
            target = int(audio.targets[row, position])
            wanted.append(marks.get(target, str(target)) if audio.loss[row, position] else "-")
        return f"text   {text}\nreads  {' '.join(read)}\nlearns {' '.join(wanted)}"

    def provenance(self) -> dict[str, Any]:
        """The codec, and what the tokens were made of."""
        return {"tokenizer": dataclasses.asdict(self.store.tokenizer), "data": summarize_tokens(self.store)}


def _positions(target: Spoken, voice: Voice) -> int:
    """Positions that a row takes, padding to multiples included."""
    text = len(target.text) + 2
    audio = target.codes.shape[1] + 1
    if voice.prompt_codes is not None:
        text += len(voice.prompt_text or "") + 1
        audio += voice.prompt_codes.shape[1] + 1
    return -(-text // PAD_TO) * PAD_TO + -(-audio // PAD_TO) * PAD_TO


def _cross_entropy(logits: Tensor, targets: Tensor) -> Loss:
    """Mean over tokens, with their number and the share that is predicted right."""
    logits = logits.float()
    accuracy = (logits.detach().argmax(dim=-1) == targets).float().mean()
    return Loss(value=F.cross_entropy(logits, targets), weight=float(targets.numel()), logs={"accuracy": accuracy})


def _mean(prefix: str, losses: list[Loss]) -> dict[str, float]:
    """Token-weighted means."""
    weight = sum(loss.weight for loss in losses)
    total = sum(float(loss.value) * loss.weight for loss in losses)
    right = sum(float(loss.logs["accuracy"]) * loss.weight for loss in losses)
    return {f"{prefix}loss": total / weight, f"{prefix}accuracy": right / weight}
