"""What the data decides about a model, and how the weights of a trained one grow when the data brings more."""

from dataclasses import replace
from functools import partial

import torch
from torch import Tensor

from voder.data.shards import TokenStore
from voder.errors import ConfigError
from voder.systems.valle.config import ValleConfig
from voder.systems.valle.layout import spell, text_vocabulary
from voder.train.voices import appended, fitted_voice, pace, spelled_texts

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
    fitted, symbols, found = fitted_voice(base, start, store), {" "}, []
    for text, frames in spelled_texts(store, partial(spell, lowercase=base.lowercase)):
        symbols |= set(text)
        found.append(frames)
    stride, longest = pace(
        store.folder, found, (start.frames_per_symbol, start.max_frames_per_symbol) if start else None
    )
    known = start.symbols if start else ()
    return replace(fitted, symbols=appended(known, symbols), frames_per_symbol=stride, max_frames_per_symbol=longest)


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
        for kind in ("mark", "symbol", "speaker"):
            known = rows[old[kind].start : old[kind].end]
            missing = new[kind].size - old[kind].size
            filler = known.mean(dim=0, keepdim=True) if len(known) else rows.mean(dim=0, keepdim=True)
            parts += [known, filler.expand(missing, -1)]
        grown[name] = torch.cat(parts).contiguous()
    return grown
