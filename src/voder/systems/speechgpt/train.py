"""The three stages of SpeechGPT (2305.11000, §3.2): next ids of speech, of instructions, of spoken conversations.

Data is a token folder of a unit tokenizer or a codec (its first codebook). The loss covers every id behind the prefix,
the human's turn included, as in the authors' code; padding carries none, whatever its id.
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
from voder.errors import CheckpointError, ConfigError, FittedPartMismatch, TokensError
from voder.systems.speechgpt.config import SpeechGptConfig, SpeechGptTaskConfig
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.rows import Exchanges, RowMaker, merged
from voder.text.subwords import encode
from voder.train.base_lm import BYTES, TOKENIZER, find_base_lm
from voder.train.lm_rows import (
    IGNORED,
    TABLES,
    Row,
    RowBatch,
    base_state,
    blocks,
    grown_rows,
    next_id_loss,
    text_tokenizer,
)
from voder.train.stages import freeze_all_but
from voder.train.task import Loss, Task

_ROOT, _ADAPTED = "network.", "network.base_model.model."


class SpeechGptTask(Task):
    """Mean negative log-likelihood per id that carries loss."""

    batch_setting = "task.batch_items"
    model: SpeechGpt
    config: SpeechGptTaskConfig

    @classmethod
    def fit_config(
        cls,
        model_config: SpeechGptConfig,
        task_config: SpeechGptTaskConfig,
        data: Path,
        start: SpeechGptConfig | None = None,
    ) -> SpeechGptConfig:
        """Take the units from the tokens, the language model from task.lm, markers and LoRA from the stage.

        Raises:
            FittedPartMismatch: the model to go on from reads units of another tokenizer.
            ConfigError: a stage that would take markers or LoRA away.
        """
        info = TokenStore.open(data).tokenizer
        base = model_config if start is None else start
        if start is not None and start.units_identity != info.identity:
            raise FittedPartMismatch(
                f"the checkpoint reads units of tokenizer {start.units_identity}, but {data} holds those of "
                f"{info.identity}: tokenize the data with the checkpoint's own (its parts/units)"
            )
        if start is None and task_config.lm:
            found = find_base_lm(task_config.lm)
            base = replace(base, lm=found.config, tokenizer=found.tokenizer_name)
        chained = task_config.stage == "chain" and task_config.lora is not None
        if start is not None and start.lora is not None and not chained:
            raise ConfigError("the checkpoint has LoRA, which only stage chain trains; begin from one without")
        return replace(
            base,
            num_units=info.codebook_size,
            units_identity=info.identity,
            markers=task_config.stage != "adapt" or (start is not None and start.markers),
            lora=task_config.lora if chained else None,
        )

    @classmethod
    def adapt_state(
        cls, state: dict[str, Tensor], start: SpeechGptConfig, config: SpeechGptConfig
    ) -> dict[str, Tensor]:
        """Grow the tables by mean rows for new markers, and put LoRA that changes nothing yet beside the weights."""
        old, new = start.network.vocabulary_size, config.network.vocabulary_size
        named = {name.replace(_ADAPTED, _ROOT).replace(".base_layer.", "."): value for name, value in state.items()}
        plain = grown_rows(named, old, new)
        with torch.device("meta"):
            wanted = SpeechGpt(config).state_dict()
        adapted = {}
        for name, value in wanted.items():
            if ".lora_" in name:
                adapted[name] = state.get(name, torch.zeros(value.shape))
                if name not in state and ".lora_A." in name:
                    nn.init.kaiming_uniform_(adapted[name], a=math.sqrt(5))
            else:
                adapted[name] = plain[name.replace(_ADAPTED, _ROOT).replace(".base_layer.", ".")]
        return adapted

    def __init__(self, model: nn.Module, config: SpeechGptTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        if self.model.config.units_identity:
            self.store.require(self.model.config.units_identity)
        self._check_vocoder()
        self.base = find_base_lm(config.lm) if config.lm else None
        if self.base is not None and not bool(self.model.holds_trained):
            self._take_base()
        self.tokenizer = text_tokenizer(self.base, self.model.config.tokenizer)
        self.maker = RowMaker(self.model.config, self.model.vocabulary, lambda text: encode(self.tokenizer, text))
        self.max_ids = min(config.max_ids, self.model.config.lm.max_positions)
        self.split = self.store.split("train")
        self.exchanges = self._exchanges()
        self.items = self._items(self.split)
        self.chunks = self._blocks(self.split) if config.stage == "adapt" else []
        if config.embeddings_only and config.stage != "adapt":
            raise ConfigError(f"embeddings_only is for stage adapt; stage {config.stage} trains more")
        if config.embeddings_only:
            names = [name for name, _ in self.model.named_parameters() if name.endswith(TABLES)]
            freeze_all_but(self.model, tuple(names))

    def _check_vocoder(self) -> None:
        if not self.config.vocoder:
            return
        found = checkpoint.read(hub.locate(self.config.vocoder))
        if "Generator" not in hub.find(found.system).roles:
            raise CheckpointError(f"task.vocoder={self.config.vocoder} is a {found.system}; a Generator is wanted here")
        fitted = found.config.get("tokenizer")
        if fitted is not None and fitted != self.store.tokenizer.identity:
            raise FittedPartMismatch(
                f"task.vocoder={self.config.vocoder} reads units of tokenizer {fitted}; those of {self.store.folder} "
                f"are of {self.store.tokenizer.identity}"
            )

    def _take_base(self) -> None:
        """Put the base language model's weights in, its vocabulary grown."""
        assert self.base is not None
        grown = base_state(self.base, self.model.config.network.vocabulary_size)
        own = self.model.state_dict()
        known = {name: value for name, value in own.items() if ".lora_" in name}
        known["holds_trained"] = torch.ones((), dtype=torch.bool)
        self.model.load_state_dict(self.adapt_state(grown | known, self.model.config, self.model.config))

    def _exchanges(self) -> Exchanges | None:
        if self.config.stage != "chain" or not self.config.dialogues:
            if self.config.dialogues:
                raise ConfigError(f"task.dialogues is for stage chain; stage {self.config.stage} reads tokens alone")
            return None
        return Exchanges(
            Dialogues.open(self.config.dialogues),
            self.store.tokenizer.identity,
            self.store.tokenizer_folder,
            dedup=self.model.config.dedup,
        )

    def _items(self, split: TokenSplit) -> np.ndarray:
        """Recordings that this stage can use."""
        needs_text = self.config.stage != "adapt"
        usable = [i for i in range(len(split)) if split.lengths[i] and (split.utterance(i).text or not needs_text)]
        if not usable and split is self.split:
            raise TokensError(f"no recording of {self.store.folder} can be used{' (none has a text)' * needs_text}")
        return np.array(usable, np.int64)

    def _units(self, split: TokenSplit, index: int) -> tuple[int, ...]:
        return merged(split.codes(index)[0], dedup=self.model.config.dedup)

    def _blocks(self, split: TokenSplit) -> list[list[int]]:
        rows = [self.maker.speech_row(self._units(split, int(i))) for i in self._items(split)]
        return blocks(rows, min(self.max_ids, sum(map(len, rows)))) if rows else []

    def batch(self, step: int, rank: int, world: int) -> RowBatch:
        """This rank's share of the step's rows; they do not depend on how many ranks there are."""
        rows = []
        for item in range(rank, self.config.batch_items, world):
            rng = generator(self.seed, "row", step, item)
            rows.append(self._row(self.split, self.items, self.chunks, rng))
        return RowBatch.of(rows)

    def _row(self, split: TokenSplit, items: np.ndarray, whole: list[list[int]], rng: np.random.Generator) -> Row:
        if self.config.stage == "adapt":
            return Row.behind(whole[int(rng.integers(len(whole)))], 0)
        if self.exchanges is not None:
            question, answer = self.exchanges.pair(int(rng.integers(len(self.exchanges))))
            return self.maker.chained(question, answer, rng, self.max_ids)
        index = int(rng.choice(items))
        units, text = self._units(split, index), split.utterance(index).text or ""
        if self.config.stage == "instruct":
            return self.maker.instructed(units, text, rng, self.max_ids)
        return self.maker.chained((text, units), (text, units), rng, self.max_ids)

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
        whole = self._blocks(split) if self.config.stage == "adapt" else []
        if not len(items) or (self.config.stage == "adapt" and not whole):
            split, items, whole = self.split, self.items, self.chunks
        draws = [generator(self.seed, "valid", number) for number in range(self.config.evaluate_items)]
        return [self._row(split, items, whole, rng) for rng in draws]

    def samples(self, folder: Path) -> None:
        """A few validation rows, as the authors would write them."""
        shown = [self._spelled(row) for row in self._valid_rows()[:4]]
        (folder / "rows.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")

    def _spelled(self, row: Row) -> str:
        vocabulary, said = self.model.vocabulary, ""
        for id_ in row.ids:
            said += vocabulary.spell([id_]) or self.tokenizer.decode([id_])
        return said

    def parts(self) -> dict[str, Path]:
        """The unit tokenizer, the text tokenizer's files, the vocoder."""
        found = {"units": self.store.tokenizer_folder}
        if self.base is not None and self.base.tokenizer_name != BYTES:
            found[TOKENIZER] = self.base.folder / "parts" / TOKENIZER
        if self.config.vocoder:
            found["vocoder"] = checkpoint.resolve(hub.locate(self.config.vocoder))
        return found

    def describe(self, batch: RowBatch) -> str:
        """The first row, with what of it carries loss."""
        first = batch.row(0)
        return (
            f"stage {self.config.stage}: {len(batch.lengths)} rows of {int(batch.lengths.min())} to "
            f"{int(batch.lengths.max())} ids from {len(self.items)} recordings; {first.labels.count(IGNORED)} ids of "
            f"the first carry no loss: {self._spelled(first)[:600]}"
        )

    def provenance(self) -> dict[str, Any]:
        """The tokens, the language model and the dialogues that were trained on."""
        data = {
            "recordings": len(self.items),
            "frames": int(self.split.lengths.sum()),
            "dialogues": self.config.dialogues,
        }
        return {"tokenizer": asdict(self.store.tokenizer), "data": data, "lm": self.config.lm or "random"}
