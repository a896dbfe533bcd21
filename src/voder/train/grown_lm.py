"""What training a language model whose vocabulary has grown by codes is, whatever its rows are.

Data is a token folder of a codec or a unit tokenizer, of which the first codebook counts. A system says how a row of
ids is made (`row`); the loss is that of the next id, and labels say which ids carry it.
"""

import math
from abc import abstractmethod
from collections.abc import Iterator
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor, nn

from voder import checkpoint
from voder.data.randomness import generator
from voder.data.shards import TokenizerInfo, TokenSplit, TokenStore
from voder.data.summary import summarize_dialogues, summarize_tokens
from voder.errors import ConfigError, FittedPartMismatch, TokensError
from voder.nn.grown_lm import NETWORK, GrownLm, grown_rows, grown_state
from voder.text.subwords import byte_tokenizer
from voder.train.base_lm import BYTES, TOKENIZER, BaseLm, find_base_lm
from voder.train.lm_rows import IGNORED, Row, RowBatch, next_id_loss
from voder.train.task import Loss, Task


class GrownLmTask(Task):
    """Mean negative log-likelihood per id that carries loss."""

    batch_setting = "task.batch_items"
    network: ClassVar[type[GrownLm]]
    """What is trained."""
    speech_part: ClassVar[str]
    """What the tokenizer of speech is called among the parts of a checkpoint."""
    speech_setting: ClassVar[str]
    """The setting of the model that names it."""
    model: GrownLm
    num_dialogues = 0
    """How many there are beside the recordings."""

    @classmethod
    def begun(cls, model_config: Any, task_config: Any, data: Path, start: Any | None) -> tuple[Any, TokenizerInfo]:
        """The model to begin with, over task.lm where that is named, and the tokenizer of the data.

        Raises:
            FittedPartMismatch: the model to go on from reads speech of another tokenizer.
        """
        info = TokenStore.open(data).tokenizer
        known: dict[str, Any] = {cls.speech_setting: info.identity}
        if start is not None:
            fitted = getattr(start, cls.speech_setting)
            if fitted != info.identity:
                raise FittedPartMismatch(
                    f"the checkpoint reads speech of tokenizer {fitted}, but {data} holds that of {info.identity}: "
                    f"tokenize the data with the checkpoint's own (its parts/{cls.speech_part})"
                )
            return start, info
        if task_config.lm:
            found = find_base_lm(task_config.lm)
            known |= {"lm": found.config, "tokenizer": found.tokenizer_name}
        return replace(model_config, **known), info

    @classmethod
    def adapt_state(cls, state: dict[str, Tensor], start: Any, config: Any) -> dict[str, Tensor]:
        """Grow the tables by mean rows for new markers, and put LoRA that changes nothing yet beside the weights."""
        with torch.device("meta"):
            wanted = cls.network(config).state_dict()
        return grown_state(state, wanted, start.network.vocabulary_size, config.network.vocabulary_size)

    def __init__(self, model: nn.Module, config: Any, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.store = TokenStore.open(data)
        if identity := getattr(self.model.config, self.speech_setting):
            self.store.require(identity)
        self.base = find_base_lm(config.lm) if config.lm else None
        if self.base is not None and not bool(self.model.holds_trained):
            self._take(self.base)
        self.tokenizer = text_tokenizer(self.base, self.model.config.tokenizer)
        self.max_ids = min(config.max_ids, self.model.config.lm.max_positions)
        self.split = self.store.split("train")
        self.items = self._usable(self.split)
        if not len(self.items):
            lacking = " has a text" if self.needs_texts else " is longer than nothing"
            raise TokensError(f"no recording of {self.store.folder}{lacking}, so nothing can be learned")
        self.valid_split = self.store.split("valid") if "valid" in self.store.splits else self.split
        if not len(self._usable(self.valid_split)):
            self.valid_split = self.split

    def _take(self, base: BaseLm) -> None:
        """Put a base language model's weights in, its vocabulary grown."""
        size = self.model.config.network.vocabulary_size
        state = grown_rows(checkpoint.load_state(base.folder), base.config.vocabulary_size, size)
        own = self.model.state_dict()
        state |= {name: value for name, value in own.items() if ".lora_" in name or not name.startswith(NETWORK)}
        state["holds_trained"] = torch.ones((), dtype=torch.bool)
        checkpoint.load_into(self.model, grown_state(state, own, size, size), base.folder)

    @property
    def needs_texts(self) -> bool:
        """Whether a recording without a text is of no use."""
        return True

    def _usable(self, split: TokenSplit) -> np.ndarray:
        """Recordings that rows can be made of."""
        needs = self.needs_texts
        usable = [i for i in range(len(split)) if split.lengths[i] and (split.utterance(i).text or not needs)]
        return np.array(usable, np.int64)

    @abstractmethod
    def row(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Row:
        """A row of recordings (`items` of the split) or of other data; all that is random in it comes from `rng`."""

    def batch(self, step: int, rank: int, world: int) -> RowBatch:
        """This rank's share of the step's rows; they do not depend on how many ranks there are."""
        draws = [generator(self.seed, "row", step, item) for item in range(rank, self.config.batch_items, world)]
        return RowBatch.of([self.row(self.split, self.items, rng) for rng in draws])

    def losses(self, batch: RowBatch, step: int) -> Iterator[tuple[str, Loss]]:
        """Cross-entropy of the next id."""
        yield "model", next_id_loss(self.model, batch)

    @torch.no_grad()
    def evaluate(self) -> dict[str, float]:
        """Loss and perplexity of validation rows, which are always the same."""
        device = next(self.model.parameters()).device
        total = count = 0.0
        for row in self.valid_rows(self.config.evaluate_items):
            loss = next_id_loss(self.model, RowBatch.of([row]).to(device))
            total += float(loss.value) * loss.weight
            count += loss.weight
        mean = total / max(count, 1.0)
        return {"score": mean, "loss": mean, "perplexity": math.exp(min(mean, 50.0))}

    def valid_rows(self, count: int) -> list[Row]:
        """Rows of validation recordings; of training ones where there are none."""
        items = self._usable(self.valid_split)
        return [self.row(self.valid_split, items, generator(self.seed, "valid", number)) for number in range(count)]

    def samples(self, folder: Path) -> None:
        """A few validation rows, as the authors would write them."""
        shown = [self.spelled(row) for row in self.valid_rows(min(4, self.config.evaluate_items))]
        (folder / "rows.txt").write_text("\n\n".join(shown) + "\n", encoding="utf-8")

    def spelled(self, row: Row) -> str:
        """A row as the authors would write it."""
        return self.model.vocabulary.spell(row.ids, self.tokenizer.decode)

    def parts(self) -> dict[str, Path]:
        """The tokenizer of speech, and the text tokenizer's files."""
        found = {self.speech_part: self.store.tokenizer_folder}
        if self.base is not None and self.base.tokenizer_name != BYTES:
            found[TOKENIZER] = self.base.folder / "parts" / TOKENIZER
        return found

    def describe(self, batch: RowBatch) -> str:
        """The first row, with what of it carries loss."""
        first = batch.row(0)
        return (
            f"stage {self.config.stage}: {len(batch.lengths)} rows of {int(batch.lengths.min())} to "
            f"{int(batch.lengths.max())} ids from {len(self.items)} recordings and "
            f"{self.num_dialogues} dialogues; {first.labels.count(IGNORED)} ids of the first carry no loss: "
            f"{self.spelled(first)[:600]}"
        )

    def provenance(self) -> dict[str, Any]:
        """The tokens, the language model and the dialogues that were trained on."""
        data = {"train": summarize_tokens(self.store)}
        if self.config.dialogues:
            data["dialogues"] = summarize_dialogues(Path(self.config.dialogues))
        lm = {"name": self.config.lm, "identity": checkpoint.identity(self.base.folder)} if self.base else "random"
        return {"tokenizer": asdict(self.store.tokenizer), "data": data, "lm": lm}


def text_tokenizer(base: BaseLm | None, name: str) -> Any:
    """The tokenizer called `name` that training reads texts with: the base language model's, or bytes.

    Raises:
        ConfigError: the model was fitted on another language model's tokenizer, which is not at hand.
        FittedPartMismatch: the base language model has another one.
    """
    if base is None and name == BYTES:
        return byte_tokenizer()
    if base is None:
        raise ConfigError(f"the checkpoint reads text with tokenizer {name}: name its language model with task.lm")
    if base.tokenizer_name != name:
        raise FittedPartMismatch(f"task.lm reads text with tokenizer {base.tokenizer_name}, the checkpoint with {name}")
    return base.tokenizer
