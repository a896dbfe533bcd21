"""Training Pengi: the cross-entropy of an answer's ids after the prefix of a recording and a prompt.

The audio encoder, the projections and the mappers learn; the text tower and the language model are frozen. The prefix
carries no loss, the end of an answer does. (The authors' training code is not published, and the loss in their model
class cannot run.)
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from voder.data.batching import BucketedBatches, spread
from voder.data.cache import Kept
from voder.data.randomness import generator
from voder.data.summary import summarize_splits
from voder.errors import ManifestError, TextError
from voder.systems.pengi.config import PengiConfig, PengiTaskConfig, prefixed
from voder.systems.pengi.data import Example, Examples, open_examples
from voder.systems.pengi.hearing import fit_length, one_channel, resample
from voder.systems.pengi.infer import PengiListener
from voder.systems.pengi.model import Pengi, answer_loss
from voder.systems.pengi.reading import Reader
from voder.systems.pengi.stages import TRAINED
from voder.text.subwords import byte_tokenizer
from voder.train.base_lm import LentLm, borrowed_names, fitted_lm
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task, TensorBatch


@dataclass
class AnswerBatch(TensorBatch):
    """Recordings, prompts, answers."""

    audio: Float[Tensor, "batch sample"]
    prompts: Int[Tensor, "batch read"]
    prompts_valid: Bool[Tensor, "batch read"]
    answers: Int[Tensor, "batch written"]
    answers_valid: Bool[Tensor, "batch written"]


class PengiTask(Task):
    """Mean cross-entropy per id of the answers."""

    batch_setting = "task.batch_items"
    model: Pengi
    config: PengiTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: PengiConfig, task_config: PengiTaskConfig, data: Path, start: PengiConfig | None = None
    ) -> PengiConfig:
        """Take the language model's sizes and tokenizer from `task.lm`.

        Raises:
            FittedPartMismatch: the checkpoint that is started from was fitted on another language model.
        """
        open_examples(data, "train", task_config.records, task_config.prompt)
        base, trained_on = (model_config, None) if start is None else (start, start.tokenizer)
        lm, tokenizer = fitted_lm(task_config.lm, base.lm, trained_on, prefixed)
        return replace(base, lm=lm, tokenizer=tokenizer)

    def __init__(self, model: nn.Module, config: PengiTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.lent = LentLm(config.lm, self.model, borrowed_names(self.model.lm, "lm."))
        self.reader = Reader(self.model.config, self.lent.tokenizer, byte_tokenizer())
        self.train_examples, self.valid_examples = (
            open_examples(data, split, config.records, config.prompt) for split in ("train", "valid")
        )
        self.numbers = self._teachable()
        size = config.batch_items
        # every recording takes a whole clip, so lengths do not matter
        self.batches = BucketedBatches(np.ones(len(self.numbers)), max_total=size, max_batch=size, seed=seed)
        self._kept = Kept[np.ndarray](config.cache_mb * 2**20, lambda samples: samples.nbytes)
        freeze_all_but(self.model, TRAINED)

    def _teachable(self) -> np.ndarray:
        """Numbers of the examples whose prompt and answer fit."""
        most = min(self.config.max_answer, self.model.config.lm.max_positions - 2 * self.model.config.mapper.prefix)
        kept = [number for number, example in enumerate(self.train_examples) if self._fits(example, most)]
        if not kept:
            raise ManifestError(
                f"none of the {len(self.train_examples)} examples in {self.data / 'train.jsonl'} has a prompt of at "
                f"most {self.model.config.max_prompt} ids (model.max_prompt) and an answer of at most {most} "
                "(task.max_answer)"
            )
        return np.array(kept, dtype=np.int64)

    def _fits(self, example: Example, most: int) -> bool:
        try:
            self.reader.prompt_ids(example.prompt)
        except TextError:
            return False
        return len(self.reader.answer_ids(example.answer)) <= most

    def parts(self) -> dict[str, Path]:
        """The language model."""
        return self.lent.parts

    def borrowed(self) -> dict[str, str]:
        """All of the language model's weights: it is frozen."""
        return self.lent.borrowed

    def batch(self, step: int, rank: int, world: int) -> AnswerBatch:
        """This rank's share of the step's examples."""
        mine = self.numbers[self.batches.indices(step, rank=rank, world=world)].tolist()
        audio = []
        for number in mine:
            rng = generator(self.seed, "stretch", step, number) if self.config.random_crop else None
            audio.append(fit_length(self._samples(number), self.model.num_samples, rng))
        return self._batch([self.train_examples[number] for number in mine], np.stack(audio))

    def _batch(self, examples: list[Example], audio: np.ndarray) -> AnswerBatch:
        prompts, prompts_valid = self.reader.prompts([example.prompt for example in examples])
        answers, answers_valid = self.reader.pad([self.reader.answer_ids(example.answer) for example in examples])
        return AnswerBatch(
            audio=torch.from_numpy(np.ascontiguousarray(audio)),
            prompts=prompts,
            prompts_valid=prompts_valid,
            answers=answers,
            answers_valid=answers_valid,
        )

    def _samples(self, number: int) -> np.ndarray:
        """One channel of a training recording at the model's rate, kept in memory up to a bound."""
        return self._kept.get(number, lambda: self._heard(self.train_examples[number]))

    def _heard(self, example: Example) -> np.ndarray:
        return one_channel(resample(example.read(), self.model.config.audio.sample_rate_hz), "mean")

    def losses(self, batch: AnswerBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        value, count = self._loss(batch)
        yield "model", Loss(value=value, weight=float(count))

    def _loss(self, batch: AnswerBatch) -> tuple[Tensor, int]:
        read = self.model.read(batch.prompts, batch.prompts_valid)
        prefix = self.model.prefix(self.model.hear(batch.audio), read)
        logits = self.model.logits(prefix, batch.answers)
        with torch.autocast(logits.device.type, enabled=False):
            return answer_loss(logits, batch.answers, batch.answers_valid)

    def _judged(self) -> list[Example]:
        chosen: Examples = self.valid_examples if len(self.valid_examples) else self.train_examples
        most = self.model.config.lm.max_positions - 2 * self.model.config.mapper.prefix
        return spread([example for example in chosen if self._fits(example, most)], self.config.evaluate_items)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss per id on validation examples, one after the other; it is the `score`."""
        device = next(self.model.parameters()).device
        total = count = 0.0
        for example in self._judged():
            audio = fit_length(self._heard(example), self.model.num_samples)
            value, ids = self._loss(self._batch([example], audio[None]).to(device))
            total, count = total + float(value) * ids, count + ids
        mean = total / count if count else float("inf")
        return {"score": mean, "loss": mean}

    def samples(self, folder: Path) -> None:
        """What was asked, what is right, and what is answered."""
        listener, lines = PengiListener(self.model, self.reader), []
        for example in self._judged()[:5]:
            said = listener.answer(example.read(), example.prompt, max_new=self.config.max_answer).text
            lines.append("\t".join((example.id, example.prompt, example.answer.strip(), repr(said))))
        (folder / "answers.tsv").write_text("\n".join(("id\tprompt\tis\tanswered", *lines)) + "\n", encoding="utf-8")

    def describe(self, batch: AnswerBatch) -> str:
        """What is kept, and the first example with what carries loss."""
        ids = batch.answers[0, batch.answers_valid[0]].tolist()
        asked = batch.prompts[0, batch.prompts_valid[0]].tolist()
        return (
            f"{len(batch.audio)} recordings of {self.model.config.clip_s:g} s; {len(self.numbers)} of "
            f"{len(self.train_examples)} examples fit; the first: prompt ids {asked}; prefix of "
            f"{2 * self.model.config.mapper.prefix} vectors without loss; then, all with loss, "
            f"{self.reader.tokenizer.decode(ids)!r}"
        )

    def provenance(self) -> dict[str, Any]:
        """What was trained and judged on."""
        return {"data": summarize_splits(self.data, recordings=self.config.records == "recordings")}
