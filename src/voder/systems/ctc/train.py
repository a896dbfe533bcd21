"""Training of the recogniser: recordings joined and varied on the fly, the CTC loss in fp32."""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.data.batching import BucketedBatches
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.metrics.text import corpus_edits, pooled
from voder.shapes import Lengths
from voder.systems.ctc.augment import change_speed, join_clips, normalize_clip, vary_mel, vary_waveform
from voder.systems.ctc.config import CtcConfig, CtcTaskConfig
from voder.systems.ctc.infer import CtcTranscriber
from voder.systems.ctc.model import CtcModel
from voder.text.normalize import normalize_words
from voder.text.tokenizer import SymbolTokenizer
from voder.train.task import Loss, Task, TensorBatch


@dataclass
class SpokenBatch(TensorBatch):
    """Recordings and what is said in them."""

    audio: Float[Tensor, "batch sample"]
    lengths: Lengths
    targets: Int[Tensor, " symbol"]
    """Ids from 1 of all items, one after the other."""
    target_lengths: Lengths


class TextTable:
    """What can be taught: recordings with a text that the symbols can spell, by number, and by speaker."""

    def __init__(self, manifest: Manifest, tokenizer: SymbolTokenizer, *, normalize: bool) -> None:
        self.manifest = manifest
        self.ids: dict[int, list[int]] = {}
        self.by_speaker: dict[str, list[int]] = {}
        self.speaker_of: dict[int, str] = {}
        for number, utterance in enumerate(manifest):
            text = target_text(utterance.text, normalize)
            if not text:
                continue
            self.ids[number] = tokenizer.encode(text)
            self.speaker_of[number] = utterance.speaker or ""
            self.by_speaker.setdefault(utterance.speaker or "", []).append(number)
        self.numbers = np.array(sorted(self.ids), dtype=np.int64)
        if not len(self.numbers):
            raise ManifestError(f"{manifest.path} has no recording with a text; there is nothing to learn to write")


class CtcTask(Task):
    """The CTC loss, per symbol, averaged over recordings."""

    batch_setting = "task.batch_seconds"
    model: CtcModel
    config: CtcTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: CtcConfig, task_config: CtcTaskConfig, data: Path, start: CtcConfig | None = None
    ) -> CtcConfig:
        """Take the symbols from the training texts; fine-tuning appends those that are new.

        Raises:
            TextError: the configuration lists symbols and the training texts hold others; names them.
        """
        base = model_config if start is None else start
        spoken = (target_text(u.text, base.normalize_text) for u in Manifest.open(data / "train.jsonl"))
        texts = [text for text in spoken if text]
        if start is None and base.symbols:
            known = SymbolTokenizer(base.symbols, base.unit)
            for text in texts:
                known.encode(text)
            return base
        found = SymbolTokenizer.fit(texts, base.unit).symbols
        return replace(base, symbols=(*base.symbols, *(s for s in found if s not in base.symbols)))

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: CtcConfig, config: CtcConfig) -> dict[str, Tensor]:
        """Grow the last layer by the symbols that are new; they begin as unlikely as a mean symbol."""
        missing = len(config.symbols) - len(start.symbols)
        grown = dict(state)
        for name in ("head.weight", "head.bias"):
            rest = state[name][1:] if len(state[name]) > 1 else state[name]
            grown[name] = torch.cat([state[name], rest.mean(0, keepdim=True).expand(missing, *rest.shape[1:])])
        return grown

    def __init__(self, model: nn.Module, config: CtcTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        network = self.model.config
        self.rate = network.mel.sample_rate_hz
        self.tokenizer = SymbolTokenizer(network.symbols, network.unit)
        self.texts = TextTable(self.train_manifest, self.tokenizer, normalize=network.normalize_text)
        self.clips = AudioCache(
            self.train_manifest,
            sample_rate_hz=self.rate,
            max_bytes=config.cache_mb * 2**20,
            prepare=normalize_clip,
        )
        durations = self.train_manifest.durations_s[self.texts.numbers]
        if config.augment.join_max > 1:  # what will be joined is of one length as far as batches go
            durations = np.maximum(durations, config.augment.join_below_s)
        self.batches = BucketedBatches(
            durations,
            max_total=config.batch_seconds,
            max_batch=config.batch_items,
            seed=seed,
        )

    def batch(self, step: int, rank: int, world: int) -> SpokenBatch:
        """This rank's share of the step's recordings; they do not depend on how many ranks there are."""
        everyone = self.batches.indices(step)
        # one number of clips per string in the whole batch: strings of like length leave little padding
        count = self._clips_per_string(step)
        mine = everyone[: max(world, len(everyone) // count)][rank::world]
        rngs = [generator(self.seed, "compose", step, int(n)) for n in mine]
        made = [self._compose(int(self.texts.numbers[n]), count, g) for n, g in zip(mine, rngs, strict=True)]
        lengths = torch.tensor([len(samples) for samples, _ in made])
        audio = torch.zeros(len(made), int(lengths.max()))
        for row, (samples, _) in zip(audio, made, strict=True):
            row[: len(samples)] = torch.from_numpy(samples)
        return SpokenBatch(
            audio=audio,
            lengths=lengths,
            targets=torch.tensor([i + 1 for _, ids in made for i in ids]),
            target_lengths=torch.tensor([len(ids) for _, ids in made]),
        )

    def _clips_per_string(self, step: int) -> int:
        """From 1 to a bound that grows to `join_max` over the first steps: single clips end the blank-only plateau."""
        augment = self.config.augment
        share = min(1.0, step / augment.join_ramp_steps) if augment.join_ramp_steps else 1.0
        bound = 1 + int((augment.join_max - 1) * share)
        return int(generator(self.seed, "join", step).integers(1, bound + 1))

    def _compose(self, number: int, count: int, rng: np.random.Generator) -> tuple[np.ndarray, list[int]]:
        """One recording, joined with `count` - 1 others of its speaker if it is short, varied; and its symbols."""
        augment = self.config.augment
        chosen = [number]
        if self.train_manifest.durations_s[number] < augment.join_below_s:
            others = self.texts.by_speaker[self.texts.speaker_of[number]]
            chosen += [others[i] for i in rng.integers(len(others), size=count - 1)]
        speed = rng.uniform(*augment.speed)
        parts = [change_speed(self.clips[n], speed * rng.uniform(0.95, 1.05)) for n in chosen]
        samples = vary_waveform(join_clips(parts, rng, self.rate), rng, augment)
        ids = [self.texts.ids[n] for n in chosen]
        return samples, self._join_ids(ids)

    def _join_ids(self, parts: list[list[int]]) -> list[int]:
        """Symbols of joined texts: characters get a space between, if they know one."""
        space = [self.tokenizer.symbols.index(" ")] if " " in self.tokenizer.symbols else []
        joined = list(parts[0])
        for part in parts[1:]:
            joined += [*space, *part]
        return joined

    def losses(self, batch: SpokenBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase. A recording too short for its text (after speeding up) counts nothing."""
        mel, frames = self.model.features(batch.audio, batch.lengths)
        hop_s = self.model.config.mel.hop / self.rate
        varied = vary_mel(mel, frames, self.config.augment, hop_s)
        positions = self.model.num_outputs(frames)
        logits = self.model.classify(varied, frames)
        per_item = ctc_loss(logits, positions, batch.targets, batch.target_lengths)
        loss = (per_item / batch.target_lengths.clamp(min=1)).mean()
        yield "model", Loss(value=loss, weight=float(len(batch.lengths)))

    def evaluate(self) -> dict[str, float]:
        """Error rates on validation recordings; `score` is the word error rate."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        spoken = [u for u in manifest if u.text]
        count = min(len(spoken), self.config.evaluate_items)
        chosen = [spoken[i * len(spoken) // count] for i in range(count)]
        judge = CtcTranscriber(self.model)
        clips = [u.read(sample_rate_hz=self.rate, channels=1) for u in chosen]
        heard = [t.text for start in range(0, count, 16) for t in judge.transcribe_batch(clips[start : start + 16])]
        said = [u.text or "" for u in chosen]
        words = pooled(corpus_edits(said, heard)).rate
        characters = pooled(corpus_edits(said, heard, unit="characters")).rate
        return {"score": words, "word_error": words, "character_error": characters}

    def samples(self, folder: Path) -> None:
        """What was said and what was heard."""
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        judge = CtcTranscriber(self.model)
        lines = [
            f"{u.id}\t{u.text}\t{judge.transcribe_batch([u.read(sample_rate_hz=self.rate, channels=1)])[0].text}"
            for u in (manifest[i] for i in range(min(10, len(manifest))))
        ]
        (folder / "heard.tsv").write_text("id\tsaid\theard\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def describe(self, batch: SpokenBatch) -> str:
        """The first recording and its text."""
        ids = (batch.targets[: int(batch.target_lengths[0])] - 1).tolist()
        seconds = batch.lengths / self.rate
        return (
            f"{len(batch.lengths)} strings, {float(seconds.sum()):.1f} s of audio, of {len(self.texts.numbers)} "
            f"recordings with a text ({len(self.train_manifest)} in all); {len(self.tokenizer)} "
            f"{self.tokenizer.unit}; the first, "
            f"{float(seconds[0]):.2f} s: {self.tokenizer.decode(ids)!r}"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}


def target_text(text: str | None, normalize: bool) -> str:
    """What is to be written for a transcript; empty where there is nothing to learn."""
    return normalize_words(text or "") if normalize else (text or "").strip()


def ctc_loss(
    logits: Float[Tensor, "batch position symbol"],
    positions: Lengths,
    targets: Int[Tensor, " target"],
    target_lengths: Lengths,
) -> Float[Tensor, " batch"]:
    """Negative log-likelihood of every item's targets, in fp32; 0 where the audio is too short for them."""
    with torch.autocast(logits.device.type, enabled=False):
        log_probabilities = logits.float().log_softmax(-1).transpose(0, 1)
        return F.ctc_loss(log_probabilities, targets, positions, target_lengths, reduction="none", zero_infinity=True)
