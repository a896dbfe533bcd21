"""Training: the cross-entropy of each answer's ids, given what was heard and a question (2310.13289, section 3.2).

Encoders and language model are frozen; Q-Former, norms, projection and LoRA learn. The stages differ in their examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional as F

from voder.data.batching import BucketedBatches, spread
from voder.data.cache import Kept
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import ManifestError
from voder.generate.lm import GenerateConfig
from voder.roles import device_of
from voder.systems.salmonn.config import WINDOW_S, SalmonnConfig, SalmonnTaskConfig
from voder.systems.salmonn.data import Example, Examples, open_examples
from voder.systems.salmonn.infer import SalmonnListener
from voder.systems.salmonn.listening import Ears, Heard, through_bridge
from voder.systems.salmonn.model import Salmonn
from voder.systems.salmonn.parts import Parts, fitted_config, refuse_others
from voder.systems.salmonn.prompt import IGNORED, Assembled, Prompts, Question, pack
from voder.systems.salmonn.prompts import PROMPTS, QUESTION, STAGE_TASKS
from voder.systems.salmonn.stages import STAGES
from voder.train.base_lm import LentLm, borrowed_names
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task


@dataclass
class AskedBatch:
    """Recordings, questions and answers."""

    examples: list[Example]
    clips: list[Float32[np.ndarray, " _"] | None]
    """16 kHz sound; None where what the encoders make of it is kept."""
    questions: list[Question]
    answers: list[list[int]]

    def to(self, device: torch.device) -> "AskedBatch":
        """Nothing here is a tensor: sound goes to the device when it is listened to."""
        return self


class SalmonnTask(Task):
    """Mean negative log-likelihood per id of the answers."""

    model: Salmonn
    config: SalmonnTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: SalmonnConfig,
        task_config: SalmonnTaskConfig,
        data: Path,
        start: SalmonnConfig | None = None,
    ) -> SalmonnConfig:
        """Take widths, network and fingerprints from the parts.

        Raises:
            FittedPartMismatch: the checkpoint that is started from was trained on other parts.
        """
        open_examples(data, "train")
        parts = Parts.of_task(task_config)
        if start is None:
            return fitted_config(model_config, parts)
        names = {"speech": task_config.speech, "audio": task_config.audio, "lm": task_config.lm}
        refuse_others(start.fitted, parts.fingerprints, names)
        return start

    def __init__(self, model: nn.Module, config: SalmonnTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.where = Parts.of_task(config)
        self.lent = LentLm(str(self.where.lm), self.model, borrowed_names(self.model.llama, "llama."))
        freeze_all_but(self.model, STAGES[config.stage].trained)
        self.ears = Ears(*self.where.encoders(device_of(self.model)), self.model.config.hears).eval()
        self.tokenizer = self.lent.tokenizer
        self.prompts = Prompts(self.model.config, self.tokenizer)
        self.sources = {split: open_examples(data, split) for split in ("train", "valid")}
        self.examples = self._of_stage(self.sources["train"])
        lengths = [_seconds(example) for example in self.examples]
        size = config.batch_size
        self.batches = BucketedBatches(np.array(lengths), max_total=size * WINDOW_S, max_batch=size, seed=seed)
        self._kept = Kept[Heard](config.cache_mb * 2**20, lambda heard: heard.num_bytes)

    def _of_stage(self, examples: Examples) -> list[Example]:
        tasks = STAGE_TASKS[self.config.stage]
        found = examples.of_tasks(tasks)
        if not found:
            there = sorted({row.task for row in examples.rows})
            raise ManifestError(
                f"{examples.source} has nothing for the stage {self.config.stage}, which learns {', '.join(tasks)}; "
                f"its {len(examples.rows)} examples are of {', '.join(there) or 'no task'}, or without a text"
            )
        return found

    def parts(self) -> dict[str, Path]:
        """Encoders and language model."""
        return self.where.folders

    def borrowed(self) -> dict[str, str]:
        """The language model's own weights, which its part has."""
        return self.lent.borrowed

    def batch(self, step: int, rank: int, world: int) -> AskedBatch:
        """This rank's share of the step's examples, each with a question drawn for it."""
        mine = [int(number) for number in self.batches.indices(step, rank=rank, world=world)]
        examples = [self.examples[number] for number in mine]
        return AskedBatch(
            examples=examples,
            clips=[None if example in self._kept else example.read(self.data) for example in examples],
            questions=[self._question(example, step, n) for example, n in zip(examples, mine, strict=True)],
            answers=[self._answer(example) for example in examples],
        )

    def _question(self, example: Example, step: int, number: int) -> Question:
        pool = PROMPTS[example.task]
        chosen = pool[int(generator(self.seed, "question", step, number).integers(len(pool)))]
        return self.prompts.question(chosen.replace(QUESTION, example.question))

    def _answer(self, example: Example) -> list[int]:
        return self.prompts.answer(example.text.strip(), self.model.config.lm.eos_id, self.config.max_text_ids)

    def _listen(self, batch: AskedBatch) -> list[Heard]:
        if not self.config.cache_mb:
            return self.ears.listen([clip for clip in batch.clips if clip is not None], device_of(self.model))
        return [self._hear(example, clip) for example, clip in zip(batch.examples, batch.clips, strict=True)]

    def _hear(self, example: Example, clip: Float32[np.ndarray, " sample"] | None = None) -> Heard:
        """What the encoders make of an example, rounded whether kept or not: what a resumed run computes again."""

        def listen() -> Heard:
            sound = example.read(self.data) if clip is None else clip
            (found,) = self.ears.listen([sound], device_of(self.model))
            return found.to(torch.float16)

        return self._kept.get(example, listen).to(torch.float32)

    def losses(self, batch: AskedBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        yield "model", self._loss(self._listen(batch), batch.questions, batch.answers)

    def _loss(self, heard: list[Heard], questions: list[Question], answers: list[list[int]]) -> Loss:
        read = pack(self.model, through_bridge(self.model.bridge, heard), questions, answers)
        logits, wanted = answer_logits_of(self.model, read)
        with torch.autocast(logits.device.type, enabled=False):
            value = F.cross_entropy(logits.float(), wanted)
        right = (logits.argmax(-1) == wanted).float().mean()
        return Loss(value=value, weight=float(len(wanted)), logs={"accuracy": right})

    def _judged(self) -> list[Example]:
        found = self.sources["valid"].of_tasks(STAGE_TASKS[self.config.stage]) or self.examples
        return spread(found, self.config.evaluate_items)

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy per id of validation answers; `score` is the share of wrong ids."""
        chosen = self._judged()
        total = right = count = 0.0
        for start in range(0, len(chosen), self.config.batch_size):
            group = chosen[start : start + self.config.batch_size]
            heard = [self._hear(example) for example in group]
            questions = [self._question(example, 0, start + place) for place, example in enumerate(group)]
            loss = self._loss(heard, questions, [self._answer(example) for example in group])
            total += float(loss.value) * loss.weight
            right += float(loss.logs["accuracy"]) * loss.weight
            count += loss.weight
        return {"score": 1 - right / count, "loss": total / count, "accuracy": right / count}

    def samples(self, folder: Path) -> None:
        """Questions about validation recordings, what should be said and what is."""
        listener = SalmonnListener(self.model, self.ears, self.tokenizer, GenerateConfig(max_new=40))
        rows = []
        for example in self._judged()[:4]:
            clip = example.clip(self.data)
            asked = PROMPTS[example.task][0].replace(QUESTION, example.question)
            rows.append(f"{asked}\t{example.text}\t{listener.answer(clip, asked).text}")
        (folder / "answers.tsv").write_text("question\twanted\tsaid\n" + "\n".join(rows) + "\n", encoding="utf-8")

    def describe(self, batch: AskedBatch) -> str:
        """What is kept of the data, and the first example with what carries loss in brackets."""
        question, answer = batch.questions[0], batch.answers[0]
        asked = self.tokenizer.decode(question.before) + "…" + self.tokenizer.decode(question.after)
        trained = sum(p.numel() for p in self.model.parameters() if p.requires_grad)
        frozen = sum(p.numel() for p in self.model.parameters() if not p.requires_grad)
        return (
            f"stage {self.config.stage}: {trained:,} parameters learn beside {frozen:,} frozen ones; "
            f"{len(self.examples)} of {len(self.sources['train'].rows)} examples are of its tasks and have a text; "
            f"the first reads {asked!r} and should say [{self.tokenizer.decode(answer)!r}]"
        )

    def provenance(self) -> dict[str, Any]:
        """The examples that were trained and judged on, and the parts."""
        described = {split: _described(examples) for split, examples in self.sources.items()}
        return {"data": described, "parts": vars(self.model.config.fitted)}


def answer_logits_of(model: Salmonn, read: Assembled) -> tuple[Tensor, Tensor]:
    """Logits where an answer's id comes next, and those ids: the head sees no other position."""
    hidden = (
        model.llama.get_base_model()
        .base_model(inputs_embeds=read.embeddings, attention_mask=read.mask, use_cache=False)
        .last_hidden_state
    )
    wanted = read.labels[:, 1:]
    places = wanted != IGNORED
    return model.llama.get_output_embeddings()(hidden[:, :-1][places]), wanted[places]


def _seconds(example: Example) -> float:
    known = WINDOW_S if example.utterance is None else example.utterance.duration_s
    return min(max(known, 1.0), float(WINDOW_S))


def _described(examples: Examples) -> dict[str, Any]:
    if examples.source.suffix == ".jsonl":
        return summarize(Manifest.open(examples.source))
    return {"examples": len(examples.rows), "sha256": examples.sha256}
