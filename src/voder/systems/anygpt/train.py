"""The two stages of AnyGPT (2402.12226): packs of pairs whose every id carries loss, conversations whose answers do.

A file of dialogues with codes of any modality may stand beside the recordings. Which pairs make a pack is a function of
(seed, step, item), so packing needs no state.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
from torch import nn

from voder.data.dialogue import Dialogue, Dialogues
from voder.data.shards import TokenSplit
from voder.errors import TokensError
from voder.generate.units import fitted_generator
from voder.sequence.spans import Exchange
from voder.systems.anygpt.config import AnyGptConfig, AnyGptTaskConfig
from voder.systems.anygpt.infer import fitted_music
from voder.systems.anygpt.model import AnyGpt
from voder.systems.anygpt.rows import RowMaker, exchanges_of, pair_of
from voder.text.subwords import encode
from voder.train.grown_lm import GrownLmTask
from voder.train.lm_rows import Row


class AnyGptTask(GrownLmTask):
    """Packs of pairs, and conversations."""

    network = AnyGpt
    speech_part, speech_setting = "speech", "speech_identity"
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
        base, info = cls.begun(model_config, task_config, data, start)
        chat = "last" if task_config.stage == "chat" and base.chat == "none" else base.chat
        fitted: AnyGptConfig = replace(base, codes=replace(base.codes, speech=info.codebook_size), chat=chat)
        return fitted

    def __init__(self, model: nn.Module, config: AnyGptTaskConfig, data: Path, *, seed: int) -> None:
        super().__init__(model, config, data, seed=seed)
        self.generators = self._generators()
        self.maker = RowMaker(self.model.config, lambda text: encode(self.tokenizer, text))
        self.dialogues = Dialogues.open(config.dialogues) if config.dialogues else None
        self.num_dialogues = 0 if self.dialogues is None else len(self.dialogues)

    def _generators(self) -> dict[str, Path]:
        """Parts that make sound of codes: the refiner must be over this codec, and music needs its codes."""
        found = {}
        if self.config.refiner:
            found["refiner"] = fitted_generator(self.config.refiner, self.store.tokenizer.identity, "task.refiner")
        if self.config.music:
            found["music"] = fitted_music(self.config.music, self.model.config)
        return found

    def row(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Row:
        """A pack of pairs, or a conversation."""
        if self.config.stage == "pretrain":
            return self.maker.packed(self._pairs(split, items, rng), self.max_ids)
        if (dialogue := self._dialogue(rng)) is not None:
            return self.maker.chat_row(self._exchanges(dialogue), self.max_ids)
        units, text = self._spoken(split, int(rng.choice(items)))
        return self.maker.chat_row(self.maker.echo(units, text), self.max_ids)

    def _pairs(self, split: TokenSplit, items: np.ndarray, rng: np.random.Generator) -> Iterator[Row]:
        """Pairs without an end."""
        while True:
            if (dialogue := self._dialogue(rng)) is not None:
                self._exchanges(dialogue)  # refuses what this model cannot read
                found = pair_of(dialogue)
                if found is None:
                    raise TokensError(f"dialogue {dialogue.id!r} is no pair of codes and text; stage chat takes it")
                kind, codes, text = found
            else:
                kind = "speech"
                codes, text = self._spoken(split, int(rng.choice(items)))
            yield self.maker.pair_row(kind, codes, text, rng, self.config.read_share)

    def _dialogue(self, rng: np.random.Generator) -> Dialogue | None:
        """A dialogue of the file beside the recordings, as often as task.dialogue_share says."""
        if self.dialogues is None or rng.random() >= self.config.dialogue_share:
            return None
        return self.dialogues[int(rng.integers(len(self.dialogues)))]

    def _exchanges(self, dialogue: Dialogue) -> list[Exchange]:
        return exchanges_of(dialogue, self.maker, {"speech": self.store.tokenizer.identity})

    def _spoken(self, split: TokenSplit, index: int) -> tuple[tuple[int, ...], str]:
        return tuple(split.codes(index)[0].tolist()), split.utterance(index).text or ""

    def parts(self) -> dict[str, Path]:
        """The speech codec, the text tokenizer's files, refiner and music codec."""
        return super().parts() | self.generators
