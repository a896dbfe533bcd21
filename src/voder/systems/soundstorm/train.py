"""Training of SoundStorm (2305.09636, §3.2): guess the hidden frames of one level.

Per recording a level, a known beginning and a share of frames to hide are drawn (cosine schedule); all levels behind
are hidden too, and only the drawn frames carry loss. All draws are made with the batch, from (seed, step, item).
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder import hub
from voder.audio.io import write_audio
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.data.summary import summarize_tokens
from voder.errors import FittedPartMismatch, TokensError
from voder.roles import Codec
from voder.sequence.masks import length_mask
from voder.shapes import Lengths, Tokens
from voder.systems.soundstorm.config import SoundStormConfig, SoundStormTaskConfig
from voder.systems.soundstorm.infer import SoundStormGenerator
from voder.systems.soundstorm.masking import level_logits, level_loss, mask_level
from voder.systems.soundstorm.model import Levels, SoundStorm
from voder.train.task import Loss, Task, TensorBatch, spread


@dataclass
class LevelBatch(TensorBatch):
    """Stretches of recordings, and what is hidden of them."""

    semantic: Tokens
    codes: Levels
    lengths: Lengths
    starts: Lengths
    """Known frames at the beginning."""
    levels: Lengths
    """The level that is guessed."""
    drawn: Tensor
    """Bool `[batch, frame]`: the frames of it that are hidden and carry loss."""


class SoundStormTask(Task):
    """Cross-entropy of hidden codes."""

    batch_setting = "task.batch_items"
    model: SoundStorm
    config: SoundStormTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: SoundStormConfig,
        task_config: SoundStormTaskConfig,
        data: Path,
        start: SoundStormConfig | None = None,
    ) -> SoundStormConfig:
        """Take number, sizes and meaning of the codes from the tokens.

        Raises:
            TokensError: the codec has one codebook, so there is nothing to fill in.
            FittedPartMismatch: the model to go on from reads tokens of another codec.
        """
        info = TokenStore.open(data).tokenizer
        if info.num_codebooks < 2:
            raise TokensError(f"{data} holds tokens of one codebook; soundstorm fills in those behind the first")
        if start is not None and start.codec_identity not in (None, info.identity):
            raise FittedPartMismatch(
                f"this model was trained on tokens of codec {start.codec_identity} but those of {data} are of "
                f"{info.identity}: tokenize the data with the checkpoint's own codec (its parts/codec)"
            )
        return replace(
            model_config if start is None else start,
            num_semantic=info.codebook_size,
            codebook_size=info.codebook_size,
            num_levels=info.num_codebooks - 1,
            codec_identity=info.identity,
        )

    def __init__(self, model: nn.Module, config: SoundStormTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        if self.model.config.codec_identity is not None:
            self.store.require(self.model.config.codec_identity)
        self.split = self.store.split("train")
        self.usable = _usable(self.split)
        if not len(self.usable):
            raise TokensError(f"no recording of {data} has two frames; there is nothing to train on")
        self._shares = self.split.lengths[self.usable] / self.split.lengths[self.usable].sum()

    def batch(self, step: int, rank: int, world: int) -> LevelBatch:
        """This rank's share of the step's stretches; they do not depend on how many ranks there are."""
        rows = []
        for item in range(rank, self.config.batch_items, world):
            rng = generator(self.seed, "stretch", step, item)
            rows.append(self._row(self.split, int(rng.choice(self.usable, p=self._shares)), rng))
        return self._collate(rows)

    def _row(self, split: TokenSplit, index: int, rng: np.random.Generator) -> dict[str, Any]:
        """One stretch and what is hidden of it; at least one frame is."""
        codes = split.codes(index)
        length = min(codes.shape[1], self.config.max_frames)
        first = int(rng.integers(codes.shape[1] - length + 1))
        start = int(rng.integers(int(self.config.prompt_share * (length - 1)) + 1))
        count = max(1, round(math.cos(rng.random() * math.pi / 2) * (length - start)))
        drawn = np.zeros(length, np.bool_)
        drawn[start + rng.permutation(length - start)[:count]] = True
        level = int(rng.integers(codes.shape[0] - 1))
        return {"codes": codes[:, first : first + length], "start": start, "level": level, "drawn": drawn}

    def _collate(self, rows: list[dict[str, Any]]) -> LevelBatch:
        lengths = [row["codes"].shape[1] for row in rows]
        codes = np.zeros((len(rows), max(lengths), self.model.config.num_levels + 1), np.int64)
        drawn = np.zeros(codes.shape[:2], np.bool_)
        for number, row in enumerate(rows):
            codes[number, : lengths[number]] = row["codes"].T
            drawn[number, : lengths[number]] = row["drawn"]
        return LevelBatch(
            semantic=torch.from_numpy(codes[:, :, 0].copy()),
            codes=torch.from_numpy(codes[:, :, 1:].copy()),
            lengths=torch.tensor(lengths),
            starts=torch.tensor([row["start"] for row in rows]),
            levels=torch.tensor([row["level"] for row in rows]),
            drawn=torch.from_numpy(drawn),
        )

    def losses(self, batch: LevelBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """The cross-entropy of what is hidden."""
        logits = self._logits(batch)
        loss = level_loss(logits, batch.codes, batch.drawn, batch.levels)
        right = self._right(logits, batch)
        yield "model", Loss(value=loss, weight=float(batch.drawn.sum()), logs={"accuracy": right.float().mean()})

    def _logits(self, batch: LevelBatch) -> Tensor:
        known = mask_level(batch.codes, batch.drawn, batch.starts, batch.levels, self.model.config.mask_id)
        logits: Tensor = self.model(known, batch.semantic, length_mask(batch.lengths, known.shape[1]))
        return logits

    def _right(self, logits: Tensor, batch: LevelBatch) -> Tensor:
        rows = torch.arange(len(batch.levels), device=logits.device)
        said = level_logits(logits.detach(), batch.levels).argmax(dim=-1)
        return (said == batch.codes[rows, :, batch.levels])[batch.drawn]

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Cross-entropy and accuracy of validation recordings under masks that are always the same."""
        losses, right, count = 0.0, 0.0, 0.0
        device = next(self.model.parameters()).device
        split, indices = self._valid()
        for number, index in enumerate(indices):
            batch = self._collate([self._row(split, index, generator(self.seed, "valid", number))]).to(device)
            logits, weight = self._logits(batch), float(batch.drawn.sum())
            losses += weight * float(level_loss(logits, batch.codes, batch.drawn, batch.levels))
            right += float(self._right(logits, batch).sum())
            count += weight
        return {"score": losses / count, "loss": losses / count, "accuracy": right / count}

    def _valid(self) -> tuple[TokenSplit, list[int]]:
        """Validation recordings, spread over the split; training ones where there are none."""
        valid = self.store.split("valid") if "valid" in self.store.splits else self.split
        split = valid if len(_usable(valid)) else self.split
        return split, spread(_usable(split).tolist(), self.config.evaluate_items)

    @torch.no_grad()
    def samples(self, folder: Path) -> None:
        """Three validation recordings as the codec restores them, and as this model fills them in."""
        codec: Codec = hub.load_codec(self.store.tokenizer_folder, device=next(self.model.parameters()).device)
        role = SoundStormGenerator(self.model, codec)
        split, indices = self._valid()
        for number, index in enumerate(indices[:3], 1):
            codes = split.codes(index)[:, : self.config.max_frames]
            write_audio(folder / f"{number}_codec.wav", codec.decode(codes))
            write_audio(folder / f"{number}_filled.wav", role.generate(codes[0]))

    def parts(self) -> dict[str, Path]:
        """The codec whose tokens these are."""
        return {"codec": self.store.tokenizer_folder}

    def describe(self, batch: LevelBatch) -> str:
        """The first stretch, with what is hidden of it."""
        drawn = batch.drawn[0, : int(batch.lengths[0])]
        shown = "".join("_" if hidden else "." for hidden in drawn.tolist()[:100])
        return (
            f"{len(batch.lengths)} stretches of {int(batch.lengths.min())} to {int(batch.lengths.max())} frames; the "
            f"first has {int(batch.starts[0])} known ones and level {int(batch.levels[0]) + 1} of "
            f"{batch.codes.shape[2]} hidden at _ (these {int(drawn.sum())} carry loss), and all behind it: {shown}"
        )

    def provenance(self) -> dict[str, Any]:
        """The tokens that were trained on."""
        return {"tokenizer": asdict(self.store.tokenizer), "data": summarize_tokens(self.store)}


def _usable(split: TokenSplit) -> np.ndarray:
    return np.flatnonzero(split.lengths >= 2)
