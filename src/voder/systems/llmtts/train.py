"""Training of the three methods on token shards with texts.

A batch is a pure function of (seed, step, rank): strings of about one length, drawn from the clips. Part of the batches
have an audio prompt. The first codebook's part (with the language model's LoRA and new ids) and the other codebooks'
part are two phases of the loop, so their means, their clipping and their optimisers are their own.
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

from voder import checkpoint, hub
from voder.audio.io import write_audio
from voder.data.joins import UNKNOWN, Spoken, StringMaker
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.data.summary import summarize_tokens
from voder.errors import ConfigError
from voder.nn.causal_lm import merge_lora
from voder.roles import SayRequest
from voder.sequence.assemble import Stream, assemble
from voder.shapes import Codes
from voder.systems.llmtts import fit
from voder.systems.llmtts.config import BYTES, LlmTtsConfig, LlmTtsTaskConfig
from voder.systems.llmtts.infer import LlmTtsSpeaker
from voder.systems.llmtts.layout import Voice, spell
from voder.systems.llmtts.model import LlmTts
from voder.systems.llmtts.reader import TextMemory
from voder.text.subwords import byte_tokenizer
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task

PAD_TO = 8
"""Streams are padded to a multiple of this, so that few shapes occur and memory is used again."""


@dataclass
class LlmTtsBatch:
    """Strings of about one length."""

    text: Stream
    audio: Stream
    """First codebook: what is read, with what is predicted and carries loss."""
    frames: Stream
    """Prompt and target frames for the other codebooks."""
    codes: Codes
    """All codebooks at those frames."""

    def to(self, device: torch.device) -> "LlmTtsBatch":
        """Move all tensors."""
        streams = {name: getattr(self, name).to(device) for name in ("text", "audio", "frames")}
        return dataclasses.replace(self, codes=self.codes.to(device, non_blocking=True), **streams)


class LlmTtsTask(Task):
    """Two cross-entropies."""

    model: LlmTts
    config: LlmTtsTaskConfig

    def __init__(self, model: nn.Module, config: LlmTtsTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        self.store.require(self.model.config.codec_identity)
        self.layout = self.model.layout
        trained = fit.named_language_model(config.language_model)
        self.tokenizer = byte_tokenizer() if trained is None else trained.tokenizer
        if trained is not None and not bool(self.model.reader.holds_trained):
            network = trained.network
            self.model.reader.take(merge_lora(network) if hasattr(network, "merge_and_unload") else network)
        freeze_all_but(self.model, self._learning())
        self.memory = TextMemory(config.cache_mb * 2**20)
        self.train_strings = self._maker(self.store.split("train"))

    def _learning(self) -> tuple[str, ...]:
        """Beginnings of the names of what learns: never the language model's own weights."""
        stage, nar = self.config.stage, self.model.nar
        if stage == "nar" and nar is None:
            raise ConfigError("task.stage is nar, but a codec of one codebook leaves nothing to fill in; use ar")
        own = [name for name, _ in self.model.reader.named_parameters()]
        new = [f"reader.{name}" for name in own if ".lora_" in name or not name.startswith("network.")]
        first = [*new, *(["ar."] if self.model.ar is not None else [])]
        others = [] if nar is None else ["nar."]
        return (*(first if stage != "nar" else ()), *(others if stage != "ar" else ()))

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
        """The codec whose tokens are spoken, and the tokenizer's files."""
        found = {"codec": self.store.tokenizer_folder}
        if self.model.config.tokenizer != BYTES:
            found["tokenizer"] = checkpoint.read(hub.locate(self.config.language_model)).parts["tokenizer"]
        return found

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
        words = " ".join((text or "").split())
        return words if 0 < len(spell(self.tokenizer, words)) <= self.model.config.max_text else None

    def batch(self, step: int, rank: int, world: int) -> LlmTtsBatch:
        """Strings of about one length: either joins of one number of clips, or clips of about one duration."""
        rng = generator(self.seed, "llmtts", step, rank)
        prompted = bool(rng.random() < self.config.prompt_share)
        return self._compose(self.train_strings, rng, prompted=prompted)

    def _compose(self, strings: StringMaker, rng: np.random.Generator, *, prompted: bool) -> LlmTtsBatch:
        joined = rng.random() < strings.joined_share
        num_clips, near = int(rng.integers(1, self.config.joins.join_max + 1)), float(rng.random())
        rows: list[tuple[Spoken, Voice]] = []
        while len(rows) < self.config.batch_size:
            target = strings.joined(rng, num_clips) if joined else strings.single(rng, near)
            if len(spell(self.tokenizer, target.text)) <= self.model.config.max_text:
                rows.append((target, self._voice(strings, rng, target, prompted=prompted)))
            else:  # the sum of its clips is too long: fewer of them
                num_clips = max(1, num_clips - 1)
        return self._lay_out(rows)

    def _voice(self, strings: StringMaker, rng: np.random.Generator, target: Spoken, *, prompted: bool) -> Voice:
        prompt = strings.prompt(rng, target, self.config.prompt_clips) if prompted else None
        text = () if prompt is None else spell(self.tokenizer, prompt.text)
        if prompt is None or len(text) > self.model.config.max_text:
            has_tag = rng.random() >= self.config.no_tag_share
            return Voice(speaker=target.speaker if has_tag else UNKNOWN)
        given = rng.random() < self.config.prompt_text_share
        return Voice(prompt_codes=prompt.codes, prompt_text=text if given else ())

    def _lay_out(self, rows: list[tuple[Spoken, Voice]]) -> LlmTtsBatch:
        layout = self.layout
        texts = [layout.text(spell(self.tokenizer, target.text), voice) for target, voice in rows]
        audio = [[*layout.audio_prompt(voice), layout.audio_target(target.codes[0])] for target, voice in rows]
        frames = assemble([layout.frames(target.codes.shape[1], voice) for target, voice in rows], multiple=PAD_TO)
        codes = np.zeros((len(rows), self.model.config.num_codebooks, frames.ids.shape[1]), np.int64)
        for row, (target, voice) in zip(codes, rows, strict=True):
            heard = target.codes
            if voice.prompt_codes is not None:
                heard = np.concatenate((voice.prompt_codes, heard), axis=1)
            row[:, : heard.shape[1]] = heard
        return LlmTtsBatch(
            assemble(texts, multiple=PAD_TO), assemble(audio, multiple=PAD_TO), frames, torch.from_numpy(codes)
        )

    def losses(self, batch: LlmTtsBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy per code, ends included; if both learn, the other codebooks on every `nar_every`-th step."""
        if self.config.stage != "nar":
            yield "ar", self._coarse_loss(batch)
        every = 1 if self.config.stage == "nar" else self.config.nar_every
        if self.config.stage != "ar" and self.model.nar is not None and step % every == 0:
            # in turn and not at random, so that all ranks step on the same output layer
            yield "nar", self._fine_loss(batch, 1 + step // every % (self.model.config.num_codebooks - 1))

    def _coarse_loss(self, batch: LlmTtsBatch) -> Loss:
        targets = batch.audio.targets[batch.audio.loss]
        if self.model.ar is not None:
            logits = self.model.coarse(batch.text, batch.audio, self.memory)[batch.audio.loss]
            return _cross_entropy(logits, targets)
        return self._vocabulary_loss(batch, targets)

    def _vocabulary_loss(self, batch: LlmTtsBatch, codes: Tensor) -> Loss:
        """Method A over its whole vocabulary: the codes, and the text if that is learned too."""
        read, heard = self.model.read_both(batch.text, batch.audio)
        hidden, targets = heard.vectors[batch.audio.loss], codes + self.layout.first_new
        if self.config.text_loss:
            following = batch.text.ids[:, 1:]
            told = batch.text.valid[:, 1:] & self.layout.is_text(following)
            hidden = torch.cat((hidden, read.vectors[:, :-1][told]))
            targets = torch.cat((targets, following[told]))
        logits = self.model.reader.logits(hidden)
        loss = _cross_entropy(logits, targets)
        right = (logits[: len(codes)].argmax(dim=-1) == targets[: len(codes)]).float().mean()
        return dataclasses.replace(loss, logs={"accuracy": right})

    def _fine_loss(self, batch: LlmTtsBatch, stage: int) -> Loss:
        is_target = (batch.frames.segments == 0) & batch.frames.valid
        logits = self.model.fine(batch.text, batch.frames, batch.codes, stage, self.memory)[is_target]
        return _cross_entropy(logits, batch.codes[:, stage][is_target])

    @cached_property
    def _valid_batches(self) -> list[LlmTtsBatch]:
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
            figures |= _mean("", [self._coarse_loss(batch) for batch in batches])
        if self.config.stage != "ar" and self.model.nar is not None:
            stages = range(1, self.model.config.num_codebooks)
            figures |= _mean("nar_", [self._fine_loss(batch, stage) for batch in batches for stage in stages])
        return figures

    def samples(self, folder: Path) -> None:
        """Say a text of the validation split in its speaker's voice, beside the original through the codec."""
        codec = hub.load_codec(self.store.tokenizer_folder, device=next(self.model.parameters()).device)
        strings = self._maker(self.store.split("valid"))
        rng = generator(self.seed, "llmtts sample")
        spoken = strings.joined(rng, 1) if strings.short.size else strings.single(rng)
        tag = None if spoken.speaker == UNKNOWN else self.model.config.speakers[spoken.speaker]
        request = SayRequest(text=spoken.text, speaker=tag)
        speech = LlmTtsSpeaker(self.model, codec, self.tokenizer).say_batch([request])[0]
        write_audio(folder / "said.wav", speech.clip, synthetic=True)
        write_audio(folder / "original.wav", codec.decode(spoken.codes))
        (folder / "text.txt").write_text(f"{tag or 'no tag'}: {spoken.text}\n", encoding="utf-8")

    def describe(self, batch: LlmTtsBatch) -> str:
        """The first row's streams, and what of it carries loss."""
        ids, layout = batch.text.ids[0][batch.text.valid[0]].tolist(), self.layout
        shown = []
        for id_ in ids:
            kind, number = layout.ids.locate(id_)
            mark = self.model.config.speakers[number] if kind == "speaker" else ("no tag", "sep", "end")[number % 3]
            shown.append(self.tokenizer.decode([id_]) if kind == "text" else f"<{mark}>")
        audio, read, wanted = batch.audio, [], []
        for position in range(int(audio.valid[0].sum())):
            kind, number = layout.ids.locate(int(audio.ids[0, position]))
            read.append(str(number) if kind == "code" else f"<{kind}>")
            target = int(audio.targets[0, position])
            learned = "<end>" if target == layout.end else str(target)
            wanted.append(learned if audio.loss[0, position] else "-")
        return f"text   {'|'.join(shown)}\nreads  {' '.join(read)}\nlearns {' '.join(wanted)}"

    def provenance(self) -> dict[str, Any]:
        """Codec, language model, and what there was to learn from."""
        return {
            "tokenizer": dataclasses.asdict(self.store.tokenizer),
            "language model": self.config.language_model or "random",
            "data": summarize_tokens(self.store),
        }


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
