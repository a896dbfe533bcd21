"""What data and language model decide, and how the weights of a trained voice grow when the data brings speakers."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voder import checkpoint, hub
from voder.data.shards import TokenSplit, TokenStore
from voder.errors import FittedPartMismatch, TokensError
from voder.systems.llmtts.config import BYTES, LlmTtsConfig, LlmTtsTaskConfig
from voder.systems.llmtts.layout import spell
from voder.text.subwords import byte_tokenizer, fingerprint

SPEAKER_TABLES = ("ar.text.ids.weight", "nar.text.ids.weight", "reader.new_ids.weight")
"""Weights whose last rows are speakers."""


def named_language_model(name: str) -> Any | None:
    """The trained language model that a setting names (None for none): `.network`, `.tokenizer`, `.config`."""
    return hub.load_role(name, "LanguageModel") if name else None


def fit_config(
    model: LlmTtsConfig, task: LlmTtsTaskConfig, store: TokenStore, start: LlmTtsConfig | None
) -> LlmTtsConfig:
    """Fill in what tokens and language model decide. With `start`, its speakers come first and the new behind them.

    Raises:
        FittedPartMismatch: `start` was trained on tokens of another codec, or over another language model.
        TokensError: the training split has no text.
    """
    trained = named_language_model(task.language_model)
    known = checkpoint.identity(hub.locate(task.language_model)) if trained else ""
    tokenizer = byte_tokenizer() if trained is None else trained.tokenizer
    if start is not None:
        _require_same(start, store, task, known)
    base = model if start is None else start
    texts = _texts(store.split("train"), tokenizer)
    if not texts:
        raise TokensError(f"{store.folder}: no recording of the training split has a text, so nothing can be learned")
    info, ratios = store.tokenizer, np.array([frames / length for length, frames in texts])
    longest = max(float(ratios.max()) * 1.25, start.max_frames_per_token if start else 0.0)
    speakers = base.speakers if start else ()
    return replace(
        base,
        lm=base.lm if trained is None else trained.config,
        tokenizer=_name(tokenizer),
        language_model=known,
        speakers=(*speakers, *_new(speakers, store.split("train").speakers())),
        codec_identity=info.identity,
        num_codebooks=info.num_codebooks,
        codebook_size=info.codebook_size,
        frame_rate_hz=info.frame_rate_hz,
        frames_per_token=base.frames_per_token if start else round(float(np.median(ratios)), 3),
        max_frames_per_token=round(longest, 3),
    )


def _name(tokenizer: Any) -> str:
    """A tokenizer's fingerprint; bytes go by their name, as they need no file."""
    found = fingerprint(tokenizer)
    return BYTES if found == fingerprint(byte_tokenizer()) else found


def _require_same(start: LlmTtsConfig, store: TokenStore, task: LlmTtsTaskConfig, known: str) -> None:
    if start.codec_identity != store.tokenizer.identity:
        raise FittedPartMismatch(
            f"the checkpoint speaks tokens of codec {start.codec_identity}, but {store.folder} holds tokens of "
            f"{store.tokenizer.identity}: tokenize the data with the checkpoint's own codec (its parts/codec)"
        )
    if start.language_model != known:
        raise FittedPartMismatch(
            f"the checkpoint was trained over language model {start.language_model or 'none'}, but "
            f"task.language_model={task.language_model!r} is {known or 'none'}: name the checkpoint's own"
        )


def _texts(split: TokenSplit, tokenizer: Any) -> list[tuple[int, int]]:
    """Tokens (one added, as between words) and frames of every clip with a text."""
    found = []
    for index in range(len(split)):
        tokens = spell(tokenizer, split.utterance(index).text or "")
        if tokens and split.lengths[index]:
            found.append((len(tokens) + 1, int(split.lengths[index])))
    return found


def _new(known: Iterable[str], found: Iterable[str]) -> list[str]:
    return sorted(set(found) - set(known))


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
