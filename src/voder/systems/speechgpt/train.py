"""The three stages of SpeechGPT (2305.11000, §3.2): next ids of speech, of instructions, of spoken conversations.

The loss covers every id behind the prefix, the human's turn included, as in the authors' code; padding carries none,
whatever its id.
"""

from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from voder.data.dialogue import Dialogues
from voder.data.shards import TokenSplit
from voder.errors import ConfigError
from voder.generate.units import fitted_generator
from voder.nn.grown_lm import TABLES
from voder.systems.speechgpt.config import SpeechGptConfig, SpeechGptTaskConfig
from voder.systems.speechgpt.model import SpeechGpt
from voder.systems.speechgpt.rows import Exchanges, RowMaker, merged
from voder.text.subwords import encode
from voder.train.grown_lm import GrownLmTask
from voder.train.lm_rows import Row, blocks
from voder.train.stages import freeze_all_but


class SpeechGptTask(GrownLmTask):
    """Rows of units, of requests, of conversations."""

    network = SpeechGpt
    speech_part, speech_setting = "units", "units_identity"
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
        base, info = cls.begun(model_config, task_config, data, start)
        chained = task_config.stage == "chain" and task_config.lora is not None
        if start is not None and start.lora is not None and not chained:
            raise ConfigError("the checkpoint has LoRA, which only stage chain trains; begin from one without")
        fitted: SpeechGptConfig = replace(
            base,
            num_units=info.codebook_size,
            markers=task_config.stage != "adapt" or (start is not None and start.markers),
            lora=task_config.lora if chained else None,
        )
        return fitted

    def __init__(self, model: nn.Module, config: SpeechGptTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        identity = self.store.tokenizer.identity
        self.vocoder = fitted_generator(config.vocoder, identity, "task.vocoder") if config.vocoder else None
        self.maker = RowMaker(self.model.config, lambda text: encode(self.tokenizer, text))
        self.exchanges = self._exchanges()
        self.num_dialogues = 0 if self.exchanges is None else len(self.exchanges)
        self._blocks: dict[TokenSplit, list[list[int]]] = {}
        if config.embeddings_only and config.stage != "adapt":
            raise ConfigError(f"embeddings_only is for stage adapt; stage {config.stage} trains more")
        if config.embeddings_only:
            names = [name for name, _ in self.model.named_parameters() if name.endswith(TABLES)]
            freeze_all_but(self.model, tuple(names))

    def _exchanges(self) -> Exchanges | None:
        if not self.config.dialogues:
            return None
        if self.config.stage != "chain":
            raise ConfigError(f"task.dialogues is for stage chain; stage {self.config.stage} reads tokens alone")
        return Exchanges(
            Dialogues.open(self.config.dialogues),
            self.store.tokenizer.identity,
            self.store.tokenizer_folder,
            dedup=self.model.config.dedup,
        )

    @property
    def needs_texts(self) -> bool:
        """Speech alone is what stage adapt reads."""
        return self.config.stage != "adapt"

    def row(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Row:
        """A block of speech, a request with its answer, or a question with its."""
        if self.config.stage == "adapt":
            whole = self._blocks_of(split, items)
            return Row.behind(whole[int(rng.integers(len(whole)))], 0)
        if self.exchanges is not None:
            question, answer = self.exchanges.pair(int(rng.integers(len(self.exchanges))))
            return self.maker.chained(question, answer, rng, self.max_ids)
        index = int(rng.choice(items))
        units, text = self._units(split, index), split.utterance(index).text or ""
        if self.config.stage == "instruct":
            return self.maker.instructed(units, text, rng, self.max_ids)
        return self.maker.chained((text, units), (text, units), rng, self.max_ids)

    def _blocks_of(self, split: TokenSplit, items: np.ndarray) -> list[list[int]]:
        if split not in self._blocks:
            rows = [self.maker.speech_row(self._units(split, int(index))) for index in items]
            self._blocks[split] = blocks(rows, min(self.max_ids, sum(map(len, rows))))
        return self._blocks[split]

    def _units(self, split: TokenSplit, index: int) -> tuple[int, ...]:
        return merged(split.codes(index)[0], dedup=self.model.config.dedup)

    def parts(self) -> dict[str, Path]:
        """The unit tokenizer, the text tokenizer's files, the vocoder."""
        return super().parts() | ({"vocoder": self.vocoder} if self.vocoder else {})
