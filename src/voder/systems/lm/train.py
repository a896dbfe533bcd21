"""Training on texts: the cross-entropy of every next id, the end included.

The texts are those of a folder of `voder prepare`. Texts longer than `task.max_ids` are cut into pieces; recordings
without a text are left out and counted in the first step's report.
"""

import shutil
import tempfile
import weakref
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.data.batching import BucketedBatches
from voder.data.manifest import Manifest
from voder.data.summary import summarize
from voder.errors import CheckpointError, FittedPartMismatch, ManifestError
from voder.generate.lm import GenerateConfig
from voder.systems.lm.config import LmConfig, LmTaskConfig
from voder.systems.lm.infer import TextLm
from voder.systems.lm.model import LmModel, with_lora_names
from voder.text.subwords import BYTES, byte_tokenizer, encode, fingerprint, read_tokenizer
from voder.train.base_lm import tokenizer_of
from voder.train.lm_rows import Row, RowBatch, next_id_loss
from voder.train.task import Loss, Task


def find_tokenizer(name: str) -> tuple[Any, Path | None]:
    """The tokenizer that a setting names (`bytes`, a folder of its files, or a language model's), and its files alone.

    Raises:
        CheckpointError: nothing of the kind is there.
    """
    if name == BYTES:
        return byte_tokenizer(), None
    folder = hub.locate(name)
    try:
        found = checkpoint.read(folder)
    except CheckpointError:
        return _copied(read_tokenizer(folder))
    tokenizer = tokenizer_of(str(found.config.get("tokenizer")), found.parts, found.folder)
    return tokenizer, found.parts.get("tokenizer")


def _copied(tokenizer: Any) -> tuple[Any, Path]:
    """Write the tokenizer of a folder, which may hold a whole model, to a folder of its own, and read it from there."""
    folder = Path(tempfile.mkdtemp(prefix="voder-tokenizer-"))
    tokenizer.save_pretrained(folder)
    copy = read_tokenizer(folder)
    weakref.finalize(copy, shutil.rmtree, folder, ignore_errors=True)
    return copy, folder


class LmTask(Task):
    """Mean negative log-likelihood per id."""

    batch_setting = "task.batch_ids"
    model: LmModel
    config: LmTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: LmConfig, task_config: LmTaskConfig, data: Path, start: LmConfig | None = None
    ) -> LmConfig:
        """Note the tokenizer, and LoRA where it is asked for.

        Raises:
            FittedPartMismatch: the checkpoint that is started from has another tokenizer.
            CheckpointError: the tokenizer has more ids than the network.
        """
        Manifest.open(data / "train.jsonl")
        base = model_config if start is None else start
        tokenizer, _ = find_tokenizer(task_config.tokenizer)
        name = BYTES if task_config.tokenizer == BYTES else fingerprint(tokenizer)
        if start is not None and start.tokenizer != name:
            raise FittedPartMismatch(
                f"the checkpoint to start from has the tokenizer {start.tokenizer}, and task.tokenizer="
                f"{task_config.tokenizer} is {name}; set task.tokenizer to that checkpoint"
            )
        if len(tokenizer) > base.network.vocabulary_size:
            raise CheckpointError(
                f"the tokenizer {task_config.tokenizer} has {len(tokenizer)} ids and the network "
                f"{base.network.vocabulary_size}; raise model.network.vocabulary_size"
            )
        return replace(base, tokenizer=name, lora=task_config.lora or base.lora)

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: LmConfig, config: LmConfig) -> dict[str, Tensor]:
        """Put the weights of a network without LoRA under those with it; the LoRA itself begins as no change."""
        if start.lora is not None or config.lora is None:
            return state
        renamed = {with_lora_names(name, config.lora_targets): value for name, value in state.items()}
        with torch.device("meta"):
            wanted = LmModel(config).state_dict()
        fresh = {name: torch.zeros(value.shape) for name, value in wanted.items() if ".lora_" in name}
        for name, value in fresh.items():
            if ".lora_A." in name:
                nn.init.kaiming_uniform_(value, a=5**0.5)
        return renamed | fresh

    def __init__(self, model: nn.Module, config: LmTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.train_manifest = Manifest.open(data / "train.jsonl")
        self.valid_manifest = Manifest.open(data / "valid.jsonl")
        self.tokenizer, self._tokenizer_files = find_tokenizer(config.tokenizer)
        self.max_ids = min(config.max_ids, self.model.config.network.max_positions)
        self.pieces = self._pieces_of(self.train_manifest)
        if not self.pieces:
            raise ManifestError(f"{self.train_manifest.path} has no recording with a text; there is nothing to learn")
        lengths = np.array([len(piece) for piece in self.pieces])
        self.batches = BucketedBatches(lengths, max_total=config.batch_ids, max_batch=config.batch_items, seed=seed)

    def parts(self) -> dict[str, Path]:
        """The tokenizer's files."""
        return {} if self._tokenizer_files is None else {"tokenizer": self._tokenizer_files}

    def _pieces_of(self, manifest: Manifest, limit: int | None = None) -> list[list[int]]:
        sizes = self.model.config.network
        begin = [] if sizes.bos_id is None else [sizes.bos_id]
        end = [] if sizes.eos_id is None else [sizes.eos_id]
        pieces: list[list[int]] = []
        for utterance in manifest:
            if not utterance.text or (limit is not None and len(pieces) >= limit):
                continue
            ids = [*begin, *encode(self.tokenizer, utterance.text), *end]
            cut = [ids[start : start + self.max_ids] for start in range(0, len(ids), self.max_ids)]
            pieces += [piece for piece in cut if len(piece) > 1]
        return pieces

    def batch(self, step: int, rank: int, world: int) -> RowBatch:
        """This rank's share of the step's texts."""
        return _rows([self.pieces[i] for i in self.batches.indices(step, rank=rank, world=world)])

    def losses(self, batch: RowBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        yield "model", next_id_loss(self.model, batch)

    def evaluate(self) -> dict[str, float]:
        """Loss per id and perplexity on validation texts; `score` is the loss."""
        pieces = self._judged()
        device = next(self.model.parameters()).device
        total = count = 0.0
        for start in range(0, len(pieces), self.config.batch_items):
            batch = _rows(pieces[start : start + self.config.batch_items]).to(device)
            loss = next_id_loss(self.model, batch)
            total, count = total + float(loss.value) * loss.weight, count + loss.weight
        mean = total / max(count, 1.0)
        return {"score": mean, "loss": mean, "perplexity": float(np.exp(mean))}

    def _judged(self) -> list[list[int]]:
        found = self._pieces_of(self.valid_manifest, self.config.evaluate_items)
        return found or self.pieces[: self.config.evaluate_items]

    def samples(self, folder: Path) -> None:
        """Beginnings of validation texts and how the model goes on."""
        reader = TextLm(self.model, self.tokenizer, GenerateConfig(max_new=32))
        lines = []
        for piece in self._judged()[:5]:
            begun = piece[: max(1, len(piece) // 2)]
            lines.append(f"{reader.decode(begun)!r}\t{reader.generate(begun)!r}")
        (folder / "continued.tsv").write_text("begin\tcontinued\n" + "\n".join(lines) + "\n", encoding="utf-8")

    def describe(self, batch: RowBatch) -> str:
        """What is kept of the data, and the first text."""
        texts = sum(1 for utterance in self.train_manifest if utterance.text)
        return (
            f"{len(batch.ids)} texts, {int(batch.lengths.sum())} ids, of {texts} texts in {len(self.pieces)} pieces "
            f"({len(self.train_manifest)} recordings); all ids but the first carry loss; the first: "
            f"{self.tokenizer.decode(batch.row(0).ids)!r}"
        )

    def provenance(self) -> dict[str, Any]:
        """The manifests that were trained and judged on, and the tokenizer."""
        data = {"train": summarize(self.train_manifest), "valid": summarize(self.valid_manifest)}
        return {"data": data, "tokenizer": self.model.config.tokenizer}


def _rows(pieces: list[list[int]]) -> RowBatch:
    """Texts of which every id but the first carries loss."""
    return RowBatch.of([Row.behind(piece, 0) for piece in pieces])
