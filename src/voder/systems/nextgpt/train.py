"""Training NExT-GPT's three stages: cross-entropy of what the assistant says, and for what it shows the distance
between projected signals and what a generator would read of the caption.

Both are means over examples (of the mean over an example's ids, and of the sum over its spans), so that the work of
several GPUs adds up exactly. The authors take the mean over all ids of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.audio.io import AudioClip
from voder.data.batching import BucketedBatches, spread
from voder.data.randomness import generator, torch_generator
from voder.data.summary import summarize_splits
from voder.errors import ConfigError, ManifestError
from voder.roles import Turn
from voder.shapes import Mask, Tokens
from voder.systems.nextgpt import hearing
from voder.systems.nextgpt.config import KINDS, NextGptConfig, NextGptTaskConfig, unpadded
from voder.systems.nextgpt.data import Example, Line, Shown, open_examples, read_target
from voder.systems.nextgpt.infer import NextGptChatter
from voder.systems.nextgpt.losses import caption_distance
from voder.systems.nextgpt.model import NextGpt, Read, lay_out, row_losses
from voder.systems.nextgpt.pieces import IGNORED, Piece, Spoken, Words
from voder.systems.nextgpt.seeing import picture
from voder.systems.nextgpt.stages import ENCODER, TRAINED
from voder.systems.nextgpt.vocabulary import base_names, fill_rows
from voder.train.base_lm import LentLm, fitted_lm
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task, TensorBatch

_VIDEO_SCALE = 2.0
"""Weight of a video's distance in the last stage."""


@dataclass
class MediaBatch(TensorBatch):
    """Conversations on ids, the media in them, and what is to be matched."""

    ids: Tokens
    valid: Mask
    labels: Tokens
    media: Int[Tensor, "batch position"]
    """Numbers of vectors: those of sounds, then those of pictures."""
    sounds: Float[Tensor, "sound clip 1 band frame"]
    pictures: Float[Tensor, "picture 3 row column"]
    image_targets: Float[Tensor, "image_span image_vector image_width"]
    video_targets: Float[Tensor, "video_span video_vector video_width"]
    audio_targets: Float[Tensor, "audio_span audio_vector audio_width"]
    shown_sounds: Float[Tensor, "shown clip 1 band frame"]
    """What `audio_targets` are made of where the encoder makes them."""


class NextGptTask(Task):
    """One stage; `task.stage` says which."""

    batch_setting = "task.batch_items"
    model: NextGpt
    config: NextGptTaskConfig

    @classmethod
    def fit_config(
        cls, model_config: NextGptConfig, task_config: NextGptTaskConfig, data: Path, start: NextGptConfig | None = None
    ) -> NextGptConfig:
        """Take the language model's sizes and tokenizer from `task.lm`.

        Raises:
            FittedPartMismatch: the checkpoint that is started from was fitted on another language model.
        """
        open_examples(data / "train.jsonl", task_config.records, task_config.stage)
        base, trained_on = (model_config, None) if start is None else (start, start.tokenizer)
        lm, tokenizer = fitted_lm(task_config.lm, base.lm, trained_on, unpadded)
        return replace(base, lm=lm, tokenizer=tokenizer)

    def __init__(self, model: nn.Module, config: NextGptTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self._check_settings()
        self.lent = LentLm(config.lm, self.model, base_names(self.model.lm, "lm."))
        fill_rows(self.model, torch_generator(seed, "rows"))
        self.words = Words(self.model.config, self.lent.tokenizer)
        self.train_examples, self.valid_examples = (
            open_examples(data / f"{split}.jsonl", config.records, config.stage) for split in ("train", "valid")
        )
        self.numbers, lengths = self._teachable()
        size = config.batch_items
        self.batches = BucketedBatches(lengths, max_total=float(size * lengths.max()), max_batch=size, seed=seed)
        trained = TRAINED[config.stage] + ((ENCODER,) if config.train_encoder else ())
        freeze_all_but(self.model, trained)

    def _check_settings(self) -> None:
        audio, width = self.model.config.audio, self.model.config.encoder.output_width
        shows = self.config.stage != "encoder_alignment"
        if (
            shows
            and self.config.targets == "encoder"
            and (audio is None or (audio.num_vectors, audio.width) != (1, width))
        ):
            raise ConfigError(
                f"task.targets=encoder needs model.audio of one vector of {width} channels, the encoder's: change "
                "model.audio, or give files with task.targets=files"
            )
        if self.config.train_encoder and self.config.stage == "decoder_alignment":
            raise ConfigError(
                "task.train_encoder has no part in decoder_alignment, which hears nothing: set it to false"
            )

    def _teachable(self) -> tuple[np.ndarray, np.ndarray]:
        """Numbers of the examples that fit, and their positions with the longest wordings."""
        kept = []
        for number, example in enumerate(self.train_examples):
            length = self._length(example)
            if length is not None:
                kept.append((number, length))
        if not kept:
            raise ManifestError(
                f"none of the {len(self.train_examples)} examples in {self.data / 'train.jsonl'} can be used: at most "
                f"{self._longest} positions (task.max_ids), media that this model hears or sees, and a projector for "
                "what is shown"
            )
        found = np.array(kept, dtype=np.int64)
        return found[:, 0], found[:, 1].astype(np.float64)

    @property
    def _longest(self) -> int:
        return min(self.config.max_ids, self.model.config.lm.max_positions)

    def _length(self, example: Example) -> int | None:
        """Positions of an example; None where it cannot be used."""
        kinds = {seen.kind for line in example.lines for seen in line.media}
        sees = {"audio"} | ({"image"} if self.model.encoder.vision is not None else set())
        shown = [each for line in example.lines for each in line.shows]
        if kinds - sees or any(self.model.config.output(each.kind) is None for each in shown):
            return None
        if self.config.targets == "encoder" and any(each.kind != "audio" for each in shown):
            return None
        spoken = [self._spoken(line, max(line.wordings, key=len), 0) for line in example.lines]
        length = sum(len(piece) for piece in self.words.lay_out(spoken))
        return length if length <= self._longest else None

    def _spoken(self, line: Line, wording: str, first: int) -> Spoken:
        if line.role == "assistant":
            return Spoken(role="assistant", text=wording, shows=tuple(each.kind for each in line.shows))
        return Spoken(role="user", text=wording, media=tuple(range(first, first + len(line.media))))

    def parts(self) -> dict[str, Path]:
        """The language model."""
        return self.lent.parts

    def borrowed(self) -> dict[str, str]:
        """The language model's own weights: they are frozen."""
        return self.lent.borrowed

    def batch(self, step: int, rank: int, world: int) -> MediaBatch:
        """This rank's share of the step's examples, each in a wording drawn anew."""
        mine = self.numbers[self.batches.indices(step, rank=rank, world=world)].tolist()
        rngs = [generator(self.seed, "wording", step, number) for number in mine]
        return self._batch([self.train_examples[number] for number in mine], rngs)

    def _batch(self, examples: list[Example], rngs: list[np.random.Generator] | None = None) -> MediaBatch:
        sounds: list[Tensor] = []
        pictures: list[Tensor] = []
        rows: list[list[Piece]] = []
        numbers: list[tuple[str, int]] = []
        for row, example in enumerate(examples):
            spoken = []
            for line in example.lines:
                pick = 0 if rngs is None else int(rngs[row].integers(len(line.wordings)))
                spoken.append(self._spoken(line, line.wordings[pick], len(numbers)))
                for seen in line.media:
                    found = self._prepared(seen.read())
                    pool = sounds if seen.kind == "audio" else pictures
                    numbers.append((seen.kind, len(pool)))
                    pool.append(found)
            rows.append(self.words.lay_out(spoken))
        read = lay_out(rows)
        order = [place if kind == "audio" else len(sounds) + place for kind, place in numbers]
        media = torch.tensor([*order, -1])[read.media]  # the last entry is what -1 finds
        shown = [each for example in examples for line in example.lines for each in line.shows]
        return MediaBatch(
            ids=read.ids,
            valid=read.valid,
            labels=read.labels,
            media=media,
            sounds=_stacked(sounds, self._prepared_shape("audio")),
            pictures=_stacked(pictures, self._prepared_shape("image")),
            shown_sounds=self._shown_sounds(shown),
            **{f"{kind}_targets": self._targets(shown, kind) for kind in KINDS},
        )

    def _prepared(self, medium: AudioClip | np.ndarray) -> Tensor:
        if isinstance(medium, AudioClip):
            return hearing.images([medium], self.model.config.encoder.audio)[0]
        vision = self.model.config.encoder.vision
        assert vision is not None
        return picture(medium, vision.size)

    def _prepared_shape(self, kind: str) -> tuple[int, ...]:
        audio, vision = self.model.config.encoder.audio, self.model.config.encoder.vision
        if kind == "audio":
            return audio.num_clips, 1, audio.num_bands, audio.num_frames
        return (3, 1, 1) if vision is None else (3, vision.size, vision.size)

    def _shown_sounds(self, shown: list[Shown]) -> Tensor:
        wanted = shown if self.config.targets == "encoder" else []
        found = [self._prepared(each.recording.read()) for each in wanted if each.recording is not None]
        return _stacked(found, self._prepared_shape("audio"))

    def _targets(self, shown: list[Shown], kind: str) -> Tensor:
        output = self.model.config.output(kind)
        if output is None or self.config.targets == "encoder":
            return torch.zeros(0, 1, 1)
        found = [
            torch.from_numpy(read_target(each, output.num_vectors, output.width)) for each in shown if each.kind == kind
        ]
        return _stacked(found, (output.num_vectors, output.width))

    def losses(self, batch: MediaBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """One phase."""
        value, logs = self._loss(batch)
        yield "model", Loss(value=value, weight=float(len(batch.ids)), logs=logs)

    def _loss(self, batch: MediaBatch) -> tuple[Tensor, dict[str, Tensor]]:
        """Both losses, together and apart."""
        read = Read(ids=batch.ids, valid=batch.valid, labels=batch.labels, media=batch.media)
        logits, states = self.model.states(self.model.embeddings(read, self._vectors(batch)), batch.valid)
        with torch.autocast(logits.device.type, enabled=False):
            sums, counts = row_losses(logits, batch.labels)
            said = (sums / counts.clamp(min=1)).mean()
        value, logs = said, {"said": said.detach()}
        for kind in KINDS:
            wanted = self._wanted(batch, kind)
            if not len(wanted):
                continue
            projected, _ = self.model.project(states, batch.ids, kind)
            with torch.autocast(logits.device.type, enabled=False):
                distance = caption_distance(projected, wanted).mean(dim=1).sum() / len(batch.ids)
            twice = kind == "video" and self.config.stage == "instruction"
            value = value + self.config.caption_weight * (_VIDEO_SCALE if twice else 1.0) * distance
            logs[kind] = distance.detach()
        return value, logs

    def _vectors(self, batch: MediaBatch) -> Tensor:
        encoder = self.model.encoder
        with torch.set_grad_enabled(torch.is_grad_enabled() and self.config.train_encoder):
            heard = [encoder.hear(batch.sounds)] if len(batch.sounds) else []
            seen = [encoder.see(batch.pictures)] if len(batch.pictures) else []
        if not heard and not seen:
            return torch.zeros(0, self.model.config.encoder.output_width, device=batch.ids.device)
        return torch.cat([*heard, *seen])

    @torch.no_grad()
    def _wanted(self, batch: MediaBatch, kind: str) -> Tensor:
        """What the spans of a kind are to match."""
        if kind == "audio" and len(batch.shown_sounds):
            return self.model.encoder.hear(batch.shown_sounds)[:, None]
        found: Tensor = getattr(batch, f"{kind}_targets")
        return found

    def _judged(self) -> list[Example]:
        chosen = self.valid_examples if len(self.valid_examples) else self.train_examples
        fitting = [example for example in chosen if self._length(example) is not None]
        return spread(fitting, self.config.evaluate_items)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Losses on validation examples, one after the other; their sum is the `score`."""
        device = next(self.model.parameters()).device
        found = [self._loss(self._batch([example]).to(device)) for example in self._judged()]
        score = float(np.mean([float(value) for value, _ in found])) if found else float("inf")
        names = sorted({name for _, logs in found for name in logs})
        parts = {name: float(np.mean([float(logs[name]) for _, logs in found if name in logs])) for name in names}
        return {"score": score, **parts}

    def samples(self, folder: Path) -> None:
        """What was asked, what is right, and what is answered."""
        chatter, lines = NextGptChatter(self.model, self.words), []
        for example in self._judged()[:5]:
            asked, answer = example.lines[0], example.lines[1]
            parts = (*(seen.read() for seen in asked.media), asked.wordings[0])
            said = chatter.reply([Turn(role="user", parts=parts)], max_new=60)
            shows = " ".join(f"[{each.split(':')[0]}]" for each in said.missing)
            lines.append(
                "\t".join((example.id, asked.wordings[0], answer.wordings[0], f"{said.text!r} {shows}".strip()))
            )
        (folder / "replies.tsv").write_text("\n".join(("id\tasked\tis\tanswered", *lines)) + "\n", encoding="utf-8")

    def describe(self, batch: MediaBatch) -> str:
        """What is kept, and the first example with what carries loss."""
        ids, labels = batch.ids[0, batch.valid[0]].tolist(), batch.labels[0, batch.valid[0]].tolist()
        text = self.words.vocabulary["text"].end
        learned = [id_ for id_ in labels if id_ != IGNORED]
        said = self.words.tokenizer.decode([id_ for id_ in learned if id_ < text])
        return (
            f"stage {self.config.stage}: {len(batch.ids)} examples, {len(batch.sounds)} sounds, {len(batch.pictures)} "
            f"pictures; {len(self.numbers)} of {len(self.train_examples)} examples fit; the first has {len(ids)} "
            f"positions, of which with loss: {said!r} and {sum(id_ >= text for id_ in learned)} signals"
        )

    def provenance(self) -> dict[str, Any]:
        """What was trained and judged on."""
        return {"data": summarize_splits(self.data, recordings=self.config.records == "recordings")}


def _stacked(found: list[Tensor], shape: tuple[int, ...]) -> Tensor:
    return torch.stack(found) if found else torch.zeros(0, *shape)
