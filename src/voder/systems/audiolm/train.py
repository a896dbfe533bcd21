"""Training of the three stages on recordings that have units and codes.

A batch holds stretches of recordings for every stage that is trained: as long as the stage may see, anywhere in a
recording that is drawn in proportion to its length. It is a pure function of (seed, step, rank). The stages are phases
of the loop, so their clipping and their optimisers are their own.
"""

import dataclasses
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder import hub
from voder.audio.io import write_audio
from voder.data.paired import PairedSplit, PairedStore
from voder.data.randomness import generator
from voder.data.shards import TokenStore
from voder.data.summary import summarize_tokens
from voder.errors import ConfigError, FittedPartMismatch
from voder.sequence.assemble import Piece, Stream, assemble
from voder.systems.audiolm.config import STAGES, AudioLmConfig, AudioLmTaskConfig, StageName
from voder.systems.audiolm.infer import AudioLmContinuer
from voder.systems.audiolm.layout import Layout, merged
from voder.systems.audiolm.model import AudioLm
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task
from voder.train.token_loss import token_loss, token_means

_PAD_TO = 8


@dataclass
class AudioLmBatch:
    """One stream per stage that learns."""

    streams: dict[StageName, Stream]

    def to(self, device: torch.device) -> "AudioLmBatch":
        """Move all tensors."""
        return AudioLmBatch({name: stream.to(device) for name, stream in self.streams.items()})


class Stretches:
    """Draws what the stages learn from the recordings of a split."""

    def __init__(self, split: PairedSplit, layout: Layout) -> None:
        self.split, self.layout = split, layout
        self._shares = split.lengths / split.lengths.sum()

    def draw(self, stage: StageName, rng: np.random.Generator) -> list[Piece]:
        """One stretch."""
        index = int(rng.choice(len(self._shares), p=self._shares))
        return getattr(self, f"_{stage}")(index, rng)

    def _semantic(self, index: int, rng: np.random.Generator) -> list[Piece]:
        units = self.split.units(index)
        start, stop = _window(len(units), self.layout.config.semantic_positions, rng)
        return self.layout.semantic(merged(units[start:stop]), ended=stop == len(units))

    def _coarse(self, index: int, rng: np.random.Generator) -> list[Piece]:
        config, codes, units = self.layout.config, self.split.codes(index), self.split.units(index)
        start, stop = _window(codes.shape[1], config.coarse_frames, rng)
        ended = stop == codes.shape[1]
        per_frame = config.unit_rate_hz / config.frame_rate_hz
        last = len(units) if ended else int(stop * per_frame)
        heard = merged(units[min(int(start * per_frame), len(units) - 1) : max(last, 1)])
        return self.layout.coarse(heard, codes[:, start:stop], ended=ended)

    def _fine(self, index: int, rng: np.random.Generator) -> list[Piece]:
        codes = self.split.codes(index)
        start, stop = _window(codes.shape[1], self.layout.config.fine_frames, rng)
        return self.layout.fine(codes[:, start:stop])


def _window(length: int, longest: int, rng: np.random.Generator) -> tuple[int, int]:
    """A stretch of at most `longest`, anywhere."""
    start = int(rng.integers(max(0, length - longest) + 1))
    return start, min(start + longest, length)


class AudioLmTask(Task):
    """One cross-entropy per stage."""

    model: AudioLm
    config: AudioLmTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: AudioLmConfig,
        task_config: AudioLmTaskConfig,
        data: Path,
        start: AudioLmConfig | None = None,
    ) -> AudioLmConfig:
        """Take from the tokens what they decide, and note which stages will be trained.

        Raises:
            TokensError: the folder holds no codes, or no units.
            FittedPartMismatch: the checkpoint to go on from knows other tokens.
        """
        store = PairedStore(data)
        base = model_config if start is None else start
        stages = base.stages if task_config.stage == "all" else (task_config.stage,)
        if start is not None:
            for kind, known, held in (
                ("codec", start.codec_identity, store.codes),
                ("unit tokenizer", start.units_identity, store.units),
            ):
                _require(kind, known, held)
            return replace(start, trained=_in_order({*start.trained, *stages}))
        codes, units, split = store.codes.tokenizer, store.units.tokenizer, store.split("train")
        said = sum(len(merged(split.units(index))) for index in range(len(split)))
        fitted = replace(
            base,
            num_units=units.codebook_size,
            unit_rate_hz=units.frame_rate_hz,
            units_per_s=round(said * units.frame_rate_hz / int(split.unit_lengths.sum()), 3),
            units_identity=units.identity,
            num_codebooks=codes.num_codebooks,
            codebook_size=codes.codebook_size,
            frame_rate_hz=codes.frame_rate_hz,
            codec_identity=codes.identity,
        )
        stages = fitted.stages if task_config.stage == "all" else stages
        if not set(stages) <= set(fitted.stages):
            raise ConfigError(
                f"task.stage is {task_config.stage}, but model.coarse_codebooks is {fitted.coarse_codebooks} and the "
                f"codec has {codes.num_codebooks}: there is nothing left for it to learn"
            )
        return replace(fitted, trained=_in_order(set(stages)))

    def __init__(self, model: nn.Module, config: AudioLmTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = PairedStore(data)
        fitted = self.model.config
        self.store.codes.require(fitted.codec_identity)
        self.store.units.require(fitted.units_identity)
        self.layout = Layout(fitted)
        self.stages: tuple[StageName, ...] = fitted.stages if config.stage == "all" else (config.stage,)
        freeze_all_but(self.model, tuple(f"{stage}." for stage in self.stages))
        self.stretches = Stretches(self.store.split("train"), self.layout)

    @property
    def optimised(self) -> dict[str, nn.Module]:
        """The stages that learn."""
        return {stage: self.model.stage(stage) for stage in self.stages}

    def parts(self) -> dict[str, Path]:
        """What made the tokens."""
        return {"codec": self.store.codes.tokenizer_folder, "units": self.store.units.tokenizer_folder}

    def batch(self, step: int, rank: int, world: int) -> AudioLmBatch:
        """Stretches of every stage that learns."""
        rng = generator(self.seed, "audiolm", step, rank)
        return self._compose(self.stretches, self.config.batch_size, rng)

    def _compose(self, stretches: Stretches, count: int, rng: np.random.Generator) -> AudioLmBatch:
        return AudioLmBatch(
            {
                stage: assemble([stretches.draw(stage, rng) for _ in range(count)], multiple=_PAD_TO)
                for stage in self.stages
            }
        )

    def losses(self, batch: AudioLmBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy of what follows, stage by stage."""
        for stage, stream in batch.streams.items():
            yield stage, self._loss(stage, stream)

    def _loss(self, stage: StageName, stream: Stream) -> Loss:
        return token_loss(self.model.stage(stage)(stream)[stream.loss], stream.targets[stream.loss])

    @cached_property
    def _valid(self) -> AudioLmBatch:
        """The same stretches at every evaluation."""
        split = self.store.split("valid")
        count = min(self.config.evaluate_items, len(split))
        return self._compose(Stretches(split, self.layout), count, generator(self.seed, "audiolm valid"))

    def evaluate(self) -> dict[str, float]:
        """Loss and accuracy of every stage that learns; the mean loss marks the best checkpoint."""
        device = next(self.model.parameters()).device
        figures: dict[str, float] = {}
        for stage, stream in self._valid.to(device).streams.items():
            figures |= token_means(f"{stage}/", [self._loss(stage, stream)])
        means = [figures[f"{stage}/loss"] for stage in self.stages]
        return figures | {"score": sum(means) / len(means)}

    def samples(self, folder: Path) -> None:
        """Continue a recording of the validation split; while stages are missing, write what this one predicts."""
        device = next(self.model.parameters()).device
        for stage, stream in self._valid.to(device).streams.items():
            predicted = self.model.stage(stage)(stream.head(1)).argmax(dim=-1)[0]
            at = stream.head(1).loss[0]
            wanted = stream.head(1).targets[0]
            lines = [f"wanted     {_spaced(wanted[at])}", f"predicted  {_spaced(predicted[at])}"]
            (folder / f"{stage}.txt").write_text("\n".join(lines) + "\n", encoding="utf-8")
        if set(self.model.config.trained) < set(self.model.config.stages):
            return
        self._continue_one(folder, device)

    def _continue_one(self, folder: Path, device: torch.device) -> None:
        """Half of a recording (or of what the model sees), and as much again."""
        parts, config = self.parts(), self.model.config
        continuer = AudioLmContinuer(
            self.model,
            codec=hub.load_codec(parts["codec"], device=device),
            units=hub.load_role(parts["units"], "UnitTokenizer", device=device),
        )
        codes = self.store.split("valid").codes(0)  # its sound is made of these: the recordings may be elsewhere
        frames = max(1, min(codes.shape[1], config.coarse_frames) // 2)
        prompt = continuer.codec.decode(codes[:, :frames])
        write_audio(folder / "prompt.wav", prompt)
        speech = continuer.continue_clip(prompt, duration_s=frames / config.frame_rate_hz)
        write_audio(folder / "continuation.wav", speech.clip, synthetic=True)

    def describe(self, batch: AudioLmBatch) -> str:
        """The first row of every stage: what is read, and what is predicted behind each."""
        lines = []
        for stage, stream in batch.streams.items():
            valid = stream.valid[0]
            wanted = torch.where(stream.loss[0], stream.targets[0], -1)[valid].tolist()
            lines.append(f"{stage:8} reads  {_spaced(stream.ids[0][valid])}")
            lines.append(f"{'':8} learns {' '.join('-' if id_ < 0 else str(id_) for id_ in wanted)}")
        return "\n".join(lines)

    def provenance(self) -> dict[str, Any]:
        """What made the tokens."""
        return {
            "tokenizer": dataclasses.asdict(self.store.codes.tokenizer),
            "units": dataclasses.asdict(self.store.units.tokenizer),
            "data": summarize_tokens(self.store.codes),
        }


def _require(kind: str, known: str, held: TokenStore) -> None:
    if held.tokenizer.identity != known:
        raise FittedPartMismatch(
            f"the checkpoint knows tokens of {kind} {known}, but {held.folder} holds those of "
            f"{held.tokenizer.identity}: tokenize the data with the checkpoint's own (in its parts/)"
        )


def _in_order(names: set[str]) -> tuple[str, ...]:
    return tuple(stage for stage in STAGES if stage in names)


def _spaced(ids: Tensor) -> str:
    return " ".join(map(str, ids.tolist()))
