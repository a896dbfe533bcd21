"""Training of the codec language model on token shards.

A batch is a pure function of (seed, step, rank): strings of about one length, drawn from the clips, under a budget
of positions. Half of the batches have an audio prompt. The two networks are two phases of the loop, so their
means, their clipping and their optimisers are their own.
"""

import dataclasses
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder import hub
from voder.data.joins import Spoken, StringMaker
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.data.summary import summarize_tokens
from voder.errors import ConfigError
from voder.sequence.assemble import Stream
from voder.sequence.voices import TARGET, UNKNOWN, Voice, VoiceRow
from voder.systems.valle import fit
from voder.systems.valle.config import ValleConfig, ValleTaskConfig
from voder.systems.valle.infer import ValleSpeaker
from voder.systems.valle.layout import Layout
from voder.systems.valle.model import Valle
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task
from voder.train.token_loss import token_loss, token_means
from voder.train.voices import PAD_TO, VoiceBatch, codebook_learned, show, string_maker, write_sample


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
        return string_maker(split, self.store, self.model.config, self.config.joins, self._usable_text)

    def _usable_text(self, text: str) -> str | None:
        spelled = self.layout.spell(text)
        fits = 0 < len(spelled) <= self.model.config.max_text
        return spelled if fits and set(spelled) <= set(self.model.config.symbols) else None

    def batch(self, step: int, rank: int, world: int) -> VoiceBatch:
        """Strings of about one length: either joins of one number of clips, or clips of about one duration."""
        rng = generator(self.seed, "valle", step, rank)
        grown = 1.0 if not self.config.curriculum_steps else min(1.0, (step + 1) / self.config.curriculum_steps)
        most = 1 + int(grown * (self.config.joins.join_max - 1) + 1e-9)
        prompted = bool(rng.random() < self.config.prompt_share)
        return self._compose(self.train_strings, rng, most, prompted=prompted, corrupt=self.config.corrupt_share)

    def _compose(
        self, strings: StringMaker, rng: np.random.Generator, most: int, *, prompted: bool, corrupt: float
    ) -> VoiceBatch:
        """Draw rows until the next would exceed the budget."""
        num_clips = int(rng.integers(1, most + 1)) if rng.random() < strings.joined_share else 0
        near = float(rng.random())
        rows: list[VoiceRow] = []
        longest = 0
        while len(rows) < self.config.max_rows:
            target = strings.joined(rng, num_clips) if num_clips else strings.single(rng, near)
            if len(target.text) > self.model.config.max_text:
                continue
            voice = self._voice(strings, rng, target, prompted=prompted)
            row = VoiceRow(text=target.text, codes=target.codes, voice=voice)
            longest = max(longest, _positions(row))
            if rows and longest * (len(rows) + 1) > self.config.batch_tokens:
                break
            rows.append(row)
        batch = VoiceBatch.of(self.layout, rows, prompt_loss=self.config.prompt_loss)
        return dataclasses.replace(batch, audio=self._corrupted(batch.audio, rng, corrupt))

    def _voice(self, strings: StringMaker, rng: np.random.Generator, target: Spoken, *, prompted: bool) -> Voice:
        prompt = strings.prompt(rng, target, self.config.prompt_clips) if prompted else None
        if prompt is None or len(prompt.text) > self.model.config.max_text:
            has_tag = rng.random() >= self.config.no_tag_share
            return Voice(speaker=target.speaker if has_tag else UNKNOWN)
        return Voice(
            speaker=target.speaker if rng.random() < self.config.prompt_tag_share else UNKNOWN,
            prompt_codes=prompt.codes,
            prompt_text=prompt.text if rng.random() < self.config.prompt_text_share else "",
        )

    def _corrupted(self, audio: Stream, rng: np.random.Generator, share: float) -> Stream:
        """Replace a share of the codes that are read; begin marks stay."""
        size = self.model.config.codebook_size
        replaced = torch.from_numpy(rng.random(tuple(audio.ids.shape)) < share) & (audio.ids < size) & audio.valid
        noise = torch.from_numpy(rng.integers(size, size=tuple(audio.ids.shape)))
        return dataclasses.replace(audio, ids=torch.where(replaced, noise, audio.ids))

    def losses(self, batch: VoiceBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy per code, end tokens included; the finer codebooks on each `nar_every`-th step of both."""
        if self.config.stage != "nar":
            yield "ar", self._coarse_loss(batch)
        stage = codebook_learned(self.config, step, self.model.config.num_codebooks)
        if stage is not None:
            yield "nar", self._fine_loss(batch.head(max(1, len(batch.codes) // 2)), stage)

    def _coarse_loss(self, batch: VoiceBatch) -> Loss:
        logits = self.model.ar(batch.text, batch.audio)[batch.audio.loss]
        return token_loss(logits, batch.audio.targets[batch.audio.loss])

    def _fine_loss(self, batch: VoiceBatch, stage: int) -> Loss:
        assert self.model.nar is not None
        is_target = (batch.frames.segments == TARGET) & batch.frames.valid
        logits = self.model.nar(batch.text, batch.frames, batch.codes, stage)[is_target]
        return token_loss(logits, batch.codes[:, stage][is_target])

    @cached_property
    def _valid_batches(self) -> dict[str, list[VoiceBatch]]:
        """The same strings at every evaluation, with and without prompts, at full length."""
        strings = self._maker(self.store.split("valid"))
        made: dict[str, list[VoiceBatch]] = {}
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
            figures |= token_means(f"{mode}/", [self._coarse_loss(batch) for batch in moved])
            if self.model.nar is not None:
                stages = range(1, self.model.config.num_codebooks)
                figures |= token_means(f"{mode}/nar_", [self._fine_loss(b, stage) for b in moved for stage in stages])
        return figures

    def samples(self, folder: Path) -> None:
        """Say a text of the validation split in its speaker's voice, beside the original through the codec."""
        codec = hub.load_codec(self.store.tokenizer_folder, device=next(self.model.parameters()).device)
        strings = self._maker(self.store.split("valid"))
        rng = generator(self.seed, "valle sample")
        num_clips = min(3, self.config.joins.join_max)
        spoken = strings.joined(rng, num_clips) if strings.short.size else strings.single(rng)
        write_sample(folder, ValleSpeaker(self.model, codec), codec, spoken)

    def describe(self, batch: VoiceBatch) -> str:
        """The first row's streams, and what of it carries loss."""
        return show(batch, self.layout, self.model.config.symbols.__getitem__, between="")

    def provenance(self) -> dict[str, Any]:
        """The codec, and what the tokens were made of."""
        return {"tokenizer": dataclasses.asdict(self.store.tokenizer), "data": summarize_tokens(self.store)}


def _positions(row: VoiceRow) -> int:
    """Positions that a row takes, padding to multiples included."""
    text = len(row.text) + 2
    audio = row.codes.shape[1] + 1
    if row.voice.prompt_codes is not None:
        text += len(row.voice.prompt_text) + 1
        audio += row.voice.prompt_codes.shape[1] + 1
    return -(-text // PAD_TO) * PAD_TO + -(-audio // PAD_TO) * PAD_TO
