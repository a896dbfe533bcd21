"""What data and language model decide, and how the weights of a trained voice grow when the data brings speakers."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from voder import checkpoint
from voder.data.shards import TokenStore
from voder.errors import FittedPartMismatch
from voder.systems.llmtts.config import LlmTtsConfig, LlmTtsTaskConfig
from voder.systems.llmtts.layout import spell
from voder.text.subwords import byte_tokenizer
from voder.train.base_lm import BYTES, find_base_lm
from voder.train.voices import fitted_voice, pace, spelled_texts

SPEAKER_TABLES = ("ar.text.ids.weight", "nar.text.ids.weight", "reader.new_ids.weight")
"""Weights whose last rows are speakers."""


def fit_config(
    model: LlmTtsConfig, task: LlmTtsTaskConfig, store: TokenStore, start: LlmTtsConfig | None
) -> LlmTtsConfig:
    """Fill in what tokens and language model decide. With `start`, its speakers come first and the new behind them.

    Raises:
        FittedPartMismatch: `start` was trained on tokens of another codec, or over another language model.
        TokensError: the training split has no text.
    """
    lm = find_base_lm(task.lm) if task.lm else None
    known = "" if lm is None else checkpoint.identity(lm.folder)
    if start is not None and start.lm_identity != known:
        raise FittedPartMismatch(
            f"the checkpoint was trained over language model {start.lm_identity or 'none'}, but task.lm={task.lm!r} "
            f"is {known or 'none'}: name the checkpoint's own (its parts/lm)"
        )
    base = model if start is None else start
    tokenizer = byte_tokenizer() if lm is None else lm.tokenizer
    found = [frames for _, frames in spelled_texts(store, partial(spell, tokenizer))]
    stride, longest = pace(store.folder, found, (start.frames_per_token, start.max_frames_per_token) if start else None)
    return replace(
        fitted_voice(base, start, store),
        lm=base.lm if lm is None else lm.config,
        tokenizer=BYTES if lm is None else lm.tokenizer_name,
        lm_identity=known,
        frames_per_token=stride,
        max_frames_per_token=longest,
    )


def grow_state(state: dict[str, Tensor], start: LlmTtsConfig, config: LlmTtsConfig) -> dict[str, Tensor]:
    """Add rows for new speakers: the mean of those that are there, or of all marks where there are none."""
    missing = len(config.speakers) - len(start.speakers)
    grown = dict(state)
    for name in SPEAKER_TABLES:
        if missing and name in state:
            rows = state[name]
            known = rows[-len(start.speakers) :] if start.speakers else rows
            grown[name] = torch.cat((rows, known.mean(dim=0, keepdim=True).expand(missing, -1))).contiguous()
    return grown
