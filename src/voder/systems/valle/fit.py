"""What the data decides about a model, and how the weights of a trained one grow when the data brings more."""

from collections.abc import Iterable, Sequence
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from voder.data.shards import TokenSplit, TokenStore
from voder.errors import ConfigError, FittedPartMismatch, TokensError
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.layout import spell, text_vocabulary

TEXT_TABLES = ("ar.text.ids.weight", "nar.text.ids.weight")
"""Weights with one row per id of the text vocabulary."""


def fit_config(model: ValleConfig, store: TokenStore, start: ValleConfig | None) -> ValleConfig:
    """Fill in what the tokens decide. With `start`, keep its order of symbols and speakers and append the new.

    Raises:
        ConfigError: the original's network, which is not trained here.
        FittedPartMismatch: `start` was trained on tokens of another codec.
        TokensError: the training split has no text.
    """
    base = model if start is None else start
    if base.original is not None:
        raise ConfigError(
            "model.original is the network of published checkpoints, which speaks but is not trained here; leave it out"
        )
    if start is not None and start.codec_identity != store.tokenizer.identity:
        raise FittedPartMismatch(
            f"the checkpoint speaks tokens of codec {start.codec_identity}, but {store.folder} holds tokens of "
            f"{store.tokenizer.identity}: tokenize the data with the checkpoint's own codec (its parts/codec)"
        )
    split = store.split("train")
    symbols, speakers, ratios = _survey(split, lowercase=base.lowercase)
    if not ratios.size:
        raise TokensError(f"{store.folder}: no recording of the training split has a text, so nothing can be learned")
    info = store.tokenizer
    longest = max(float(ratios.max()) * 1.25, start.max_frames_per_symbol if start else 0.0)
    return replace(
        base,
        symbols=_appended(base.symbols if start else (), symbols),
        speakers=_appended(base.speakers if start else (), speakers),
        codec_identity=info.identity,
        num_codebooks=info.num_codebooks,
        codebook_size=info.codebook_size,
        frame_rate_hz=info.frame_rate_hz,
        frames_per_symbol=base.frames_per_symbol if start else round(float(np.median(ratios)), 3),
        max_frames_per_symbol=round(longest, 3),
    )


def _survey(split: TokenSplit, *, lowercase: bool) -> tuple[set[str], set[str], np.ndarray]:
    """Characters, speakers, and frames per character (one space added, as between words) of every clip with a text."""
    symbols, speakers, ratios = {" "}, set[str](), []
    for index in range(len(split)):
        utterance = split.utterance(index)
        text = spell(utterance.text or "", lowercase=lowercase)
        if utterance.speaker is not None:
            speakers.add(utterance.speaker)
        if text and split.lengths[index]:
            symbols |= set(text)
            ratios.append(split.lengths[index] / (len(text) + 1))
    return symbols, speakers, np.asarray(ratios)


def _appended(old: Sequence[str], new: Iterable[str]) -> tuple[str, ...]:
    return (*old, *sorted(set(new) - set(old)))


def grow_state(state: dict[str, Tensor], start: ValleConfig, config: ValleConfig) -> dict[str, Tensor]:
    """Move the rows of the text tables to their new ids; new symbols and speakers start as the mean of their kind."""
    old = text_vocabulary(len(start.symbols), len(start.speakers))
    new = text_vocabulary(len(config.symbols), len(config.speakers))
    grown = dict(state)
    for name in TEXT_TABLES:
        if name not in state:
            continue
        rows = state[name]
        parts = []
        for kind in ("special", "symbol", "speaker"):
            known = rows[old[kind].start : old[kind].end]
            missing = new[kind].size - old[kind].size
            filler = known.mean(dim=0, keepdim=True) if len(known) else rows.mean(dim=0, keepdim=True)
            parts += [known, filler.expand(missing, -1)]
        grown[name] = torch.cat(parts).contiguous()
    return grown
