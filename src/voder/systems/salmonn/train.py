"""Training: the cross-entropy of each answer's ids, given what was heard and a question (2310.13289, section 3.2).

Encoders and language model are frozen; Q-Former, norms, projection and LoRA learn. The stages differ in their examples.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32
from torch import Tensor, nn
from torch.nn import functional as F

from voder import checkpoint
from voder.data.batching import BucketedBatches
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.data.summary import summarize
from voder.errors import CheckpointError, ManifestError
from voder.generate.lm import GenerateConfig
from voder.roles import device_of
from voder.systems.salmonn.config import WINDOW_S, SalmonnConfig, SalmonnTaskConfig
from voder.systems.salmonn.data import Example, Examples, open_examples
from voder.systems.salmonn.infer import SalmonnListener
from voder.systems.salmonn.listening import Ears, Heard, through_bridge
from voder.systems.salmonn.model import Salmonn, borrowed_names
from voder.systems.salmonn.parts import Parts, fitted_config, refuse_others
from voder.systems.salmonn.prompt import IGNORED, Assembled, Prompts, Question, pack
from voder.systems.salmonn.prompts import PROMPTS, QUESTION, STAGE_TASKS
from voder.systems.salmonn.stages import STAGES
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task


@dataclass
class AskedBatch:
    """Recordings, questions and answers."""

    numbers: list[int]
    """Of the examples."""
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
        self._fill_language_model()
        freeze_all_but(self.model, STAGES[config.stage].trained)
        device = device_of(self.model)
        self.ears = Ears(*self.where.encoders(device), self.model.config.hears).eval()
        self.tokenizer = self.where.tokenizer()
        self.prompts = Prompts(self.model.config, self.tokenizer)
        self.sources = {split: open_examples(data, split) for split in ("train", "valid")}
        self.examples = self._of_stage(self.sources["train"])
        lengths = [_seconds(example) for example in self.examples]
        size = config.batch_size
        self.batches = BucketedBatches(np.array(lengths), max_total=size * WINDOW_S, max_batch=size, seed=seed)
        self._kept: dict[int, Heard] = {}
        self._kept_bytes = 0

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

    @torch.no_grad()
    def _fill_language_model(self) -> None:
        """Put the part's weights into the frozen network."""
        wanted = self.borrowed()
        state = checkpoint.load_state(self.where.lm)
        own = self.model.state_dict()
        for name, place in wanted.items():
            theirs = place.removeprefix("lm/")
            if theirs not in state or state[theirs].shape != own[name].shape:
                raise CheckpointError(
                    f"the language model in {self.where.lm} has no {theirs} of {list(own[name].shape)}"
                )
            own[name].copy_(state[theirs])

    def parts(self) -> dict[str, Path]:
        """Encoders and language model."""
        return self.where.folders

    def borrowed(self) -> dict[str, str]:
        """The language model's own weights, which its part has."""
        return borrowed_names(self.model.state_dict())

    def batch(self, step: int, rank: int, world: int) -> AskedBatch:
        """This rank's share of the step's examples, each with a question drawn for it."""
        mine = [int(number) for number in self.batches.indices(step, rank=rank, world=world)]
        clips = [None if number in self._kept else self.examples[number].read(self.data) for number in mine]
        questions = [self._question(self.examples[number], step, number) for number in mine]
        return AskedBatch(mine, clips, questions, [self._answer(self.examples[number]) for number in mine])

    def _question(self, example: Example, step: int, number: int) -> Question:
        pool = PROMPTS[example.task]
        chosen = pool[int(generator(self.seed, "question", step, number).integers(len(pool)))]
        return self.prompts.question(chosen.replace(QUESTION, example.question))

    def _answer(self, example: Example) -> list[int]:
        return self.prompts.answer(example.text.strip(), self.model.config.lm.eos_id, self.config.max_text_ids)

    def _listen(self, batch: AskedBatch) -> list[Heard]:
        device = device_of(self.model)
        if not self.config.cache_mb:
            return self.ears.listen([self._sound(batch, place) for place in range(len(batch.numbers))], device)
        heard = []
        for place, number in enumerate(batch.numbers):
            if number not in self._kept:
                # alone, so that a kept result is what a resumed run computes again
                (found,) = self.ears.listen([self._sound(batch, place)], device)
                self._keep(number, _in_16_bits(found))
                heard.append(_in_16_bits(found))
            else:
                heard.append(self._kept[number])
        return [Heard(h.speech.float(), None if h.audio is None else h.audio.float()) for h in heard]

    def _sound(self, batch: AskedBatch, place: int) -> Float32[np.ndarray, " sample"]:
        clip = batch.clips[place]
        return self.examples[batch.numbers[place]].read(self.data) if clip is None else clip

    def _keep(self, number: int, heard: Heard) -> None:
        size = sum(2 * track.numel() for track in (heard.speech, heard.audio) if track is not None)
        if self._kept_bytes + size <= self.config.cache_mb * 2**20:
            self._kept[number] = heard
            self._kept_bytes += size

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
        count = min(len(found), self.config.evaluate_items)
        return [found[i * len(found) // count] for i in range(count)]

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy per id of validation answers; `score` is the share of wrong ids."""
        chosen, device = self._judged(), device_of(self.model)
        total = right = count = 0.0
        for start in range(0, len(chosen), self.config.batch_size):
            group = chosen[start : start + self.config.batch_size]
            heard = [h for e in group for h in self.ears.listen([e.read(self.data)], device)]
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
    hidden = model.llama.base_model.model.model(
        inputs_embeds=read.embeddings, attention_mask=read.mask, use_cache=False
    ).last_hidden_state
    wanted = read.labels[:, 1:]
    places = wanted != IGNORED
    return model.llama.get_output_embeddings()(hidden[:, :-1][places]), wanted[places]


def _in_16_bits(heard: Heard) -> Heard:
    return replace(heard, speech=heard.speech.half(), audio=None if heard.audio is None else heard.audio.half())


def _seconds(example: Example) -> float:
    known = WINDOW_S if example.utterance is None else example.utterance.duration_s
    return min(max(known, 1.0), float(WINDOW_S))


def _described(examples: Examples) -> dict[str, Any]:
    if examples.source.suffix == ".jsonl":
        return summarize(Manifest.open(examples.source))
    return {"examples": len(examples.rows), "sha256": examples.sha256}
