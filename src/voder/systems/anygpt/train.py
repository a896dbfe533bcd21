"""The two stages of AnyGPT (2402.12226): packs of pairs whose every id carries loss, conversations whose answers do.

Data is a token folder of a speech codec with texts (its first codebook counts), and a file of dialogues with codes of
any modality beside it. Which pairs make a pack is a function of (seed, step, item), so packing needs no state.
"""

import math
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from voder import checkpoint, hub
from voder.data.dialogue import Dialogues
from voder.data.randomness import generator
from voder.data.shards import TokenSplit, TokenStore
from voder.errors import CheckpointError, FittedPartMismatch, TokensError
from voder.systems.anygpt.config import AnyGptConfig, AnyGptTaskConfig
from voder.systems.anygpt.infer import check_music
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.rows import RowMaker, exchanges_of, pair_of
from voder.text.subwords import encode
from voder.train.base_lm import BYTES, TOKENIZER, find_base_lm
from voder.train.lm_rows import IGNORED, Row, RowBatch, base_state, grown_rows, next_id_loss, text_tokenizer
from voder.train.task import Loss, Task


class AnyGptTask(Task):
    """Mean negative log-likelihood per id that carries loss."""

    batch_setting = "task.batch_items"
    model: AnyGpt
    config: AnyGptTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: AnyGptConfig,
        task_config: AnyGptTaskConfig,
        data: Path,
        start: AnyGptConfig | None = None,
    ) -> AnyGptConfig:
        """Take speech from the tokens, the language model from task.lm, the chat markers from the stage.

        Raises:
            FittedPartMismatch: the model to go on from reads speech of another codec.
        """
        info = TokenStore.open(data).tokenizer
        base = model_config if start is None else start
        if start is not None and start.speech_identity != info.identity:
            raise FittedPartMismatch(
                f"the checkpoint reads speech codes of {start.speech_identity}, but {data} holds those of "
                f"{info.identity}: tokenize the data with the checkpoint's own codec (its parts/speech)"
            )
        if start is None and task_config.lm:
            found = find_base_lm(task_config.lm)
            base = replace(base, lm=found.config, tokenizer=found.tokenizer_name)
        chat = "last" if task_config.stage == "chat" and base.chat == "none" else base.chat
        codes = replace(base.codes, speech=info.codebook_size)
        return replace(base, codes=codes, speech_identity=info.identity, chat=chat)

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: AnyGptConfig, config: AnyGptConfig) -> dict[str, Tensor]:
        """Grow the tables by mean rows for the chat markers, which stand at the end."""
        return grown_rows(state, start.network.vocabulary_size, config.network.vocabulary_size)

    def __init__(self, model: nn.Module, config: AnyGptTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        if self.model.config.speech_identity:
            self.store.require(self.model.config.speech_identity)
        self._check_parts()
        self.base = find_base_lm(config.lm) if config.lm else None
        if self.base is not None and not bool(self.model.holds_trained):
            grown = base_state(self.base, self.model.config.network.vocabulary_size)
            kept = {name: value for name, value in self.model.state_dict().items() if name.startswith("seed.")}
            self.model.load_state_dict(grown | kept | {"holds_trained": torch.ones((), dtype=torch.bool)})
        self.tokenizer = text_tokenizer(self.base, self.model.config.tokenizer)
        self.maker = RowMaker(self.model.config, lambda text: encode(self.tokenizer, text))
        self.max_ids = min(config.max_ids, self.model.config.lm.max_positions)
        self.split = self.store.split("train")
        self.items = self._items(self.split)
        if not len(self.items):
            raise TokensError(f"no recording of {self.store.folder} has a text, so nothing can be learned")
        self.dialogues = Dialogues.open(config.dialogues) if config.dialogues else None
        self._identities = {"speech": self.store.tokenizer.identity}

    def _check_parts(self) -> None:
        """The refiner must be over this codec, and music needs a codec."""
        if self.config.refiner:
            found = checkpoint.read(hub.locate(self.config.refiner))
            if "Generator" not in hub.find(found.system).roles:
                raise CheckpointError(
                    f"task.refiner={self.config.refiner} is a {found.system}; a soundstorm is wanted here"
                )
            fitted = found.config.get("codec_identity") or found.config.get("tokenizer")
            if fitted != self.store.tokenizer.identity:
                raise FittedPartMismatch(
                    f"task.refiner={self.config.refiner} fills codes of {fitted}; those of {self.store.folder} are of "
                    f"{self.store.tokenizer.identity}"
                )
        if self.config.music:
            found = checkpoint.read(hub.locate(self.config.music))
            if "Codec" not in hub.find(found.system).roles:
                raise CheckpointError(f"task.music={self.config.music} is a {found.system}; a Codec is wanted here")
            codec = hub.load_codec(self.config.music)
            check_music(self.model.config, codec.num_codebooks, codec.codebook_size)

    def _items(self, split: TokenSplit) -> np.ndarray:
        """Recordings with a text."""
        usable = [index for index in range(len(split)) if split.lengths[index] and split.utterance(index).text]
        return np.array(usable, np.int64)

    def batch(self, step: int, rank: int, world: int) -> RowBatch:
        """This rank's share of the step's rows; they do not depend on how many ranks there are."""
        draws = [generator(self.seed, "row", step, item) for item in range(rank, self.config.batch_items, world)]
        return RowBatch.of([self._row(self.split, self.items, rng) for rng in draws])

    def _row(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Row:
        if self.config.stage == "pretrain":
            return self.maker.packed(self._pairs(split, items, rng), self.max_ids)
        if self._takes_dialogue(rng):
            assert self.dialogues is not None
            dialogue = self.dialogues[int(rng.integers(len(self.dialogues)))]
            return self.maker.chat_row(exchanges_of(dialogue, self.maker, self._identities), self.max_ids)
        units, text = self._spoken(split, int(rng.choice(items)))
        return self.maker.chat_row(self.maker.echo(units, text), self.max_ids)

    def _pairs(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
        """Pairs without an end."""
        while True:
            if self._takes_dialogue(rng):
                assert self.dialogues is not None
                dialogue = self.dialogues[int(rng.integers(len(self.dialogues)))]
                found = pair_of(dialogue)
                exchanges_of(dialogue, self.maker, self._identities)  # refuses what this model cannot read
                if found is None:
                    raise TokensError(f"dialogue {dialogue.id!r} is no pair of codes and text; stage chat takes it")
                kind, codes, text = found
            else:
                kind = "speech"
                codes, text = self._spoken(split, int(rng.choice(items)))
            yield self.maker.pair_row(kind, codes, text, rng, self.config.read_share)

    def _takes_dialogue(self, rng: np.random.Generator) -> bool:
        return self.dialogues is not None and rng.random() < self.config.dialogue_share

    def _spoken(self, split: TokenSplit, index: int) -> tuple[tuple[int, ...], str]:
        return tuple(split.codes(index)[0].tolist()), split.utterance(index).text or ""

    def losses(self, batch: RowBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy of the next id."""
        yield "model", next_id_loss(self.model, batch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity of validation rows, which are always the same."""
        device = next(self.model.parameters()).device
        total = count = 0.0
        for row in self._valid_rows():
            loss = next_id_loss(self.model, RowBatch.of([row]).to(device))
            total += float(loss.value) * loss.weight
            count += loss.weight
        mean = total / max(count, 1.0)
        return {"score": mean, "loss": mean, "perplexity": math.exp(min(mean, 50.0))}

    def _valid_rows(self) -> list[Row]:
        """Rows of validation recordings; of training ones where there are none."""
        split = self.store.split("valid") if "valid" in self.store.splits else self.split
        items = self._items(split)
        if not len(items):
            split, items = self.split, self.items
        draws = [generator(self.seed, "valid", number) for number in range(self.config.evaluate_items)]
        return [self._row(split, items, rng) for rng in draws]

    def samples(self, folder: Path) -> None:
        """A few validation rows, as the authors would write them."""
        shown = [self._spelled(row) for row in self._valid_rows()[:4]]
        (folder / "rows.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")

    def _spelled(self, row: Row) -> str:
        names, first = self.model.vocabulary.tokens, self.model.vocabulary.text_size
        return "".join(names[id_ - first] if id_ >= first else self.tokenizer.decode([id_]) for id_ in row.ids)

    def parts(self) -> dict[str, Path]:
        """The speech codec, the text tokenizer's files, refiner and music codec."""
        found = {"speech": self.store.tokenizer_folder}
        if self.base is not None and self.base.tokenizer_name != BYTES:
            found[TOKENIZER] = self.base.folder / "parts" / TOKENIZER
        for name in ("refiner", "music"):
            if place := getattr(self.config, name):
                found[name] = checkpoint.resolve(hub.locate(place))
        return found

    def describe(self, batch: RowBatch) -> str:
        """The first row, with what of it carries loss."""
        first = batch.row(0)
        return (
            f"stage {self.config.stage}: {len(batch.lengths)} rows of {int(batch.lengths.min())} to "
            f"{int(batch.lengths.max())} ids from {len(self.items)} recordings and "
            f"{len(self.dialogues) if self.dialogues else 0} dialogues; {first.labels.count(IGNORED)} ids of the first "
            f"carry no loss: {self._spelled(first)[:600]}"
        )

    def provenance(self) -> dict[str, Any]:
        """The tokens, the language model and the dialogues that were trained on."""
        data = {
            "recordings": len(self.items),
            "frames": int(self.split.lengths.sum()),
            "dialogues": self.config.dialogues,
        }
        return {"tokenizer": asdict(self.store.tokenizer), "data": data, "lm": self.config.lm or "random"}
