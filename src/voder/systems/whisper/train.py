"""Fine-tuning: the cross-entropy of each recording's text after the prompt of its language (2212.04356, section 2.4).

A recording and its text must fit one window and the decoder's positions; those that do not are left out and counted
in the first step's report. Texts are learnt without timestamps: manifests do not say when words are spoken.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn import functional as F

from voder.data.batching import BucketedBatches
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest, Utterance
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.metrics.text import corpus_edits, pooled
from voder.shapes import Tokens
from voder.systems.whisper.config import SAMPLE_RATE_HZ, ListenConfig, WhisperConfig, WhisperTaskConfig
from voder.systems.whisper.infer import WhisperTranscriber
from voder.systems.whisper.model import WhisperModel
from voder.systems.whisper.tokenizer import WhisperTokenizer
from voder.train.task import Loss, Task, TensorBatch

IGNORED = -100
"""Target of positions that carry no loss: the prompt, and padding."""


@dataclass
class SpokenBatch(TensorBatch):
    """Recordings cut or filled up to one window, and what is said in them."""

    audio: Float[Tensor, "batch sample"]
    ids: Tokens
    """What the decoder reads."""
    targets: Tokens
    """What it should say next; IGNORED where nothing is asked."""


class WhisperTask(Task):
    """Mean negative log-likelihood per id."""

    model: WhisperModel
    config: WhisperTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: WhisperConfig, task_config: WhisperTaskConfig, data: Path, start: WhisperConfig | None = None
    ) -> WhisperConfig:
        """The data decides nothing; that it is there is found out before a run is begun."""
        Manifest.open(data / "train.jsonl")
        base = model_config if start is None else start
        WhisperTokenizer(base.vocabulary_size, language=task_config.language, task=task_config.task)
        return base

    def __init__(self, model: nn.Module, config: WhisperTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self._tokenizers: dict[str, WhisperTokenizer] = {}
        self.texts = self._teachable()
        self.numbers = np.array(sorted(self.texts), dtype=np.int64)
        if not len(self.numbers):
            raise ManifestError(
                f"{self.train_manifest.path} has no recording with a text of at most {self._window_s:g} s "
                f"and {self.model.config.num_text_positions} ids; there is nothing to learn to write"
            )
        self.clips = AudioCache(self.train_manifest, sample_rate_hz=SAMPLE_RATE_HZ, max_bytes=config.cache_mb * 2**20)
        size = config.batch_size
        # every recording takes a whole window, so lengths do not matter
        self.batches = BucketedBatches(np.ones(len(self.numbers)), max_total=size, max_batch=size, seed=seed)
        if config.freeze_encoder:
            self.model.encoder.requires_grad_(False)

    @property
    def _window_s(self) -> float:
        return self.model.config.window_samples / SAMPLE_RATE_HZ

    def _tokenizer(self, utterance: Utterance) -> WhisperTokenizer:
        language = utterance.language or self.config.language
        if language not in self._tokenizers:
            self._tokenizers[language] = WhisperTokenizer(
                self.model.config.vocabulary_size, language=language, task=self.config.task
            )
        return self._tokenizers[language]

    def _teachable(self) -> dict[int, tuple[list[int], int]]:
        """Ids of the recordings that fit, by number, and how many of them are the prompt."""
        found: dict[int, tuple[list[int], int]] = {}
        for number, utterance in enumerate(self.train_manifest):
            if not utterance.text or utterance.duration_s > self._window_s:
                continue
            tokenizer = self._tokenizer(utterance)
            prompt = [*tokenizer.prompt, tokenizer.no_timestamps]
            ids = [*prompt, *tokenizer.encode(" " + utterance.text.strip()), tokenizer.eot]
            if len(ids) <= self.model.config.num_text_positions + 1:
                found[number] = ids, len(prompt)
        return found

    def blocks(self) -> list[nn.Module]:
        """The encoder's: the decoder's are also asked for keys and values, beside being called."""
        return list(self.model.encoder.blocks)

    def batch(self, step: int, rank: int, world: int) -> SpokenBatch:
        """This rank's share of the step's recordings."""
        mine = [int(self.numbers[i]) for i in self.batches.indices(step)[rank::world]]
        samples = self.model.config.window_samples
        audio = torch.zeros(len(mine), samples)
        longest = max((len(self.texts[n][0]) for n in mine), default=2) - 1
        ids = torch.zeros(len(mine), longest, dtype=torch.long)
        targets = torch.full_like(ids, IGNORED)
        for row, number in enumerate(mine):
            clip = self.clips[number][:samples]
            audio[row, : len(clip)] = torch.from_numpy(clip)
            spoken, prompt = self.texts[number]
            ids[row, : len(spoken) - 1] = torch.tensor(spoken[:-1])
            targets[row, prompt - 1 : len(spoken) - 1] = torch.tensor(spoken[prompt:])
        return SpokenBatch(audio=audio, ids=ids, targets=targets)

    def losses(self, batch: SpokenBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase; padding of the ids stands behind them, where causality keeps it out of sight."""
        logits = self.model(self.model.log_mel(batch.audio), batch.ids)
        with torch.autocast(logits.device.type, enabled=False):
            value = F.cross_entropy(logits.float().flatten(0, 1), batch.targets.flatten(), ignore_index=IGNORED)
        yield "model", Loss(value=value, weight=float((batch.targets != IGNORED).sum()))

    def _judged(self) -> list[Utterance]:
        manifest = self.valid_manifest if len(self.valid_manifest) else self.train_manifest
        spoken = [u for u in manifest if u.text]
        count = min(len(spoken), self.config.evaluate_items)
        return [spoken[i * len(spoken) // count] for i in range(count)]

    def evaluate(self) -> dict[str, float]:
        """Error rates on validation recordings; `score` is the word error rate."""
        chosen = self._judged()
        said = [u.text or "" for u in chosen]
        heard = self._heard(chosen)
        words = pooled(corpus_edits(said, heard)).rate
        characters = pooled(corpus_edits(said, heard, unit="characters")).rate
        return {"score": words, "word_error": words, "character_error": characters}

    def _heard(self, chosen: list[Utterance]) -> list[str]:
        # greedy and without timestamps, as it is taught
        judge = WhisperTranscriber(self.model, ListenConfig(temperatures=(0.0,), timestamps=False))
        texts: list[str] = []
        for utterance in chosen:  # one at a time: each says its own language
            language = utterance.language or self.config.language
            clip = utterance.read(sample_rate_hz=SAMPLE_RATE_HZ, channels=1)
            texts.append(judge.configured(language=language, task=self.config.task).listen_batch([clip])[0].text)
        return texts

    def samples(self, folder: Path) -> None:
        """What was said and what was heard."""
        chosen = self._judged()[:10]
        lines = [f"{u.id}\t{u.text}\t{h}" for u, h in zip(chosen, self._heard(chosen), strict=True)]
        (folder / "heard.tsv").write_text("id\tsaid\theard\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def describe(self, batch: SpokenBatch) -> str:
        """What is kept of the data, and the first recording's ids with those that carry loss in brackets."""
        kept = f"{len(self.numbers)} of {len(self.train_manifest)} recordings have a text and fit one window"
        tokenizer = WhisperTokenizer(self.model.config.vocabulary_size)
        targets = [int(t) for t in batch.targets[0] if int(t) != IGNORED]
        read = batch.ids[0, : int((batch.targets[0] == IGNORED).long().cumprod(0).sum()) + 1].tolist()
        return (
            f"{len(batch.ids)} recordings of {self._window_s:g} s; {kept}; the first reads "
            f"{tokenizer.decode_with_timestamps(read)!r} and should say [{tokenizer.decode_with_timestamps(targets)!r}]"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on."""
        return {"data": {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}}
