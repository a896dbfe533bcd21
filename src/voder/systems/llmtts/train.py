"""Training of the three methods on token shards with texts.

A batch is a pure function of (seed, step, rank): strings of about one length, drawn from the clips. Part of the batches
have an audio prompt. The first codebook's part (with the language model's LoRA and new ids) and the other codebooks'
part are two phases of the loop, so their means, their clipping and their optimisers are their own.
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
from voder.sequence.voices import TARGET, UNKNOWN, Voice, VoiceRow
from voder.systems.llmtts import fit
from voder.systems.llmtts.config import LlmTtsConfig, LlmTtsTaskConfig
from voder.systems.llmtts.infer import LlmTtsSpeaker
from voder.systems.llmtts.layout import spell
from voder.systems.llmtts.model import LlmTts
from voder.systems.llmtts.reader import text_memory
from voder.systems.llmtts.stages import STAGES
from voder.train.base_lm import LentLm, borrowed_names
from voder.train.stages import learns
from voder.train.task import Loss, Task
from voder.train.token_loss import token_loss, token_means
from voder.train.voices import VoiceBatch, codebook_learned, show, string_maker, write_sample


class LlmTtsTask(Task):
    """Two cross-entropies."""

    model: LlmTts
    config: LlmTtsTaskConfig

    def __init__(self, model: nn.Module, config: LlmTtsTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        self.store.require(self.model.config.codec_identity)
        self.layout = self.model.layout
        self.lent = LentLm(config.lm, self.model, borrowed_names(self.model.reader.network, "reader.network."))
        if config.lm:
            self.model.reader.begin_rows()
        self.tokenizer = self.lent.tokenizer
        self._freeze()
        self.memory = text_memory(config.cache_mb * 2**20)
        self.train_strings = self._maker(self.store.split("train"))

    def _freeze(self) -> None:
        """Let learn what the stage names, never the language model's own weights."""
        if self.config.stage == "nar" and self.model.nar is None:
            raise ConfigError("task.stage is nar, but a codec of one codebook leaves nothing to fill in; use ar")
        stages = [stage for name, stage in STAGES.items() if self.config.stage in ("both", name)]
        # not every method has every part
        trained = tuple(prefix for stage in stages for prefix in stage.trained)
        for name, parameter in self.model.named_parameters():
            parameter.requires_grad_(learns(name, trained))

    @classmethod
    def fit_config(
        cls, model_config: LlmTtsConfig, task_config: LlmTtsTaskConfig, data: Path, start: LlmTtsConfig | None = None
    ) -> LlmTtsConfig:
        """Fill in speakers, codec, lengths and language model; `start` is extended by what is new."""
        return fit.fit_config(model_config, task_config, TokenStore.open(data), start)

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: LlmTtsConfig, config: LlmTtsConfig) -> dict[str, Tensor]:
        """Grow the embeddings of speakers by the new ones."""
        return fit.grow_state(state, start, config)

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The two parts, or the one of the stage."""
        first = nn.ModuleList([self.model.reader, *([self.model.ar] if self.model.ar is not None else [])])
        parts: dict[str, nn.Module] = {"ar": first}
        if self.model.nar is not None:
            parts["nar"] = self.model.nar
        return {name: part for name, part in parts.items() if self.config.stage in ("both", name)}

    def parts(self) -> dict[str, Path]:
        """The codec whose tokens are spoken, and the language model."""
        return {"codec": self.store.tokenizer_folder, **self.lent.parts}

    def borrowed(self) -> dict[str, str]:
        """All of the language model's own weights: they are frozen."""
        return self.lent.borrowed

    def _maker(self, split: TokenSplit) -> StringMaker:
        return string_maker(split, self.store, self.model.config, self.config.joins, self._usable_text)

    def _usable_text(self, text: str) -> str | None:
        words = " ".join(text.split())
        return words if 0 < len(spell(self.tokenizer, words)) <= self.model.config.max_text else None

    def batch(self, step: int, rank: int, world: int) -> VoiceBatch:
        """Strings of about one length: either joins of one number of clips, or clips of about one duration."""
        rng = generator(self.seed, "llmtts", step, rank)
        prompted = bool(rng.random() < self.config.prompt_share)
        return self._compose(self.train_strings, rng, prompted=prompted)

    def _compose(self, strings: StringMaker, rng: np.random.Generator, *, prompted: bool) -> VoiceBatch:
        joined = rng.random() < strings.joined_share
        num_clips, near = int(rng.integers(1, self.config.joins.join_max + 1)), float(rng.random())
        rows: list[VoiceRow] = []
        while len(rows) < self.config.batch_size:
            target = strings.joined(rng, num_clips) if joined else strings.single(rng, near)
            text = spell(self.tokenizer, target.text)
            if len(text) <= self.model.config.max_text:
                voice = self._voice(strings, rng, target, prompted=prompted)
                rows.append(VoiceRow(text=text, codes=target.codes, voice=voice))
            else:  # the sum of its clips is too long: fewer of them
                num_clips = max(1, num_clips - 1)
        return VoiceBatch.of(self.layout, rows)

    def _voice(self, strings: StringMaker, rng: np.random.Generator, target: Spoken, *, prompted: bool) -> Voice:
        prompt = strings.prompt(rng, target, self.config.prompt_clips) if prompted else None
        text = () if prompt is None else spell(self.tokenizer, prompt.text)
        if prompt is None or len(text) > self.model.config.max_text:
            has_tag = rng.random() >= self.config.no_tag_share
            return Voice(speaker=target.speaker if has_tag else UNKNOWN)
        given = rng.random() < self.config.prompt_text_share
        return Voice(prompt_codes=prompt.codes, prompt_text=text if given else ())

    def losses(self, batch: VoiceBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy per code, ends included; if both learn, the other codebooks on every `nar_every`-th step."""
        if self.config.stage != "nar":
            yield "ar", self._coarse_loss(batch)
        stage = codebook_learned(self.config, step, self.model.config.num_codebooks)
        if stage is not None:
            yield "nar", self._fine_loss(batch, stage)

    def _coarse_loss(self, batch: VoiceBatch) -> Loss:
        targets = batch.audio.targets[batch.audio.loss]
        if self.model.ar is not None:
            logits = self.model.coarse(batch.text, batch.audio, self.memory)[batch.audio.loss]
            return token_loss(logits, targets)
        return self._vocabulary_loss(batch, targets)

    def _vocabulary_loss(self, batch: VoiceBatch, codes: Tensor) -> Loss:
        """Method A over its whole vocabulary: the codes, and the text if that is learned too."""
        read, heard = self.model.read_both(batch.text, batch.audio)
        hidden, targets = heard.vectors[batch.audio.loss], codes + self.layout.first_said
        if self.config.text_loss:
            following = batch.text.ids[:, 1:]
            told = batch.text.valid[:, 1:] & self.layout.is_text(following)
            hidden = torch.cat((hidden, read.vectors[:, :-1][told]))
            targets = torch.cat((targets, following[told]))
        logits = self.model.reader.logits(hidden)
        loss = token_loss(logits, targets)
        right = (logits[: len(codes)].argmax(dim=-1) == targets[: len(codes)]).float().mean()
        return dataclasses.replace(loss, logs={"accuracy": right})

    def _fine_loss(self, batch: VoiceBatch, stage: int) -> Loss:
        is_target = (batch.frames.segments == TARGET) & batch.frames.valid
        logits = self.model.fine(batch.text, batch.frames, batch.codes, stage, self.memory)[is_target]
        return token_loss(logits, batch.codes[:, stage][is_target])

    @cached_property
    def _valid_batches(self) -> list[VoiceBatch]:
        """The same strings at every evaluation."""
        strings = self._maker(self.store.split("valid"))
        rng = generator(self.seed, "llmtts valid")
        return [
            self._compose(strings, rng, prompted=bool(rng.random() < self.config.prompt_share))
            for _ in range(self.config.evaluate_batches)
        ]

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy of the next code, and of the other codebooks.

        There is no `score`, so the last checkpoint is the best: neither figure follows the words (see valle).
        """
        device = next(self.model.parameters()).device
        batches = [batch.to(device) for batch in self._valid_batches]
        figures: dict[str, float] = {}
        if self.config.stage != "nar":
            figures |= token_means("", [self._coarse_loss(batch) for batch in batches])
        if self.config.stage != "ar" and self.model.nar is not None:
            stages = range(1, self.model.config.num_codebooks)
            figures |= token_means("nar_", [self._fine_loss(batch, stage) for batch in batches for stage in stages])
        return figures

    def samples(self, folder: Path) -> None:
        """Say a text of the validation split in its speaker's voice, beside the original through the codec."""
        codec = hub.load_codec(self.store.tokenizer_folder, device=next(self.model.parameters()).device)
        strings = self._maker(self.store.split("valid"))
        rng = generator(self.seed, "llmtts sample")
        spoken = strings.joined(rng, 1) if strings.short.size else strings.single(rng)
        write_sample(folder, LlmTtsSpeaker(self.model, codec, self.tokenizer), codec, spoken)

    def describe(self, batch: VoiceBatch) -> str:
        """The first row's streams, and what of it carries loss."""
        return show(batch, self.layout, lambda id_: self.tokenizer.decode([id_]), between="|")

    def provenance(self) -> dict[str, Any]:
        """Codec, language model, and what there was to learn from."""
        return {
            "tokenizer": dataclasses.asdict(self.store.tokenizer),
            "language model": self.config.lm or "random",
            "data": summarize_tokens(self.store),
        }
