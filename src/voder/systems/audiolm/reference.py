"""How to run the reference vectors of AudioLM: the token layout as the paper defines it."""

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voder.fixtures import Case, Runner
from voder.roles import Units
from voder.systems.audiolm.config import AudioLmConfig
from voder.systems.audiolm.layout import Layout


def token_layout_paper(case: Case) -> Mapping[str, Any]:
    """Merge, flatten, join and cut the recorded tokens."""
    args = case.args
    layout = Layout(
        AudioLmConfig(
            num_units=args["semantic_vocab"],
            num_codebooks=args["num_books"],
            coarse_codebooks=args["coarse_books"],
            codebook_size=args["codebook_size"],
            frame_rate_hz=1.0,
            fine_chunk_s=float(args["chunk_frames"]),
        )
    )
    raw = case.inputs["semantic"].numpy()
    units = Units(units=raw, durations=np.ones_like(raw)).deduplicated()
    codes = np.ascontiguousarray(case.inputs["acoustic"].numpy().T)
    num_coarse = layout.config.num_coarse
    first = layout.flat(codes[:num_coarse])
    fine_start = layout.fine_ids["fine"].start if layout.config.num_fine else 0
    out: dict[str, Tensor] = {
        "semantic_dedup": torch.from_numpy(units.units),
        "semantic_runs": torch.from_numpy(units.durations),
        "coarse_flat": torch.from_numpy(first),
        "fine_flat": torch.from_numpy(layout.flat(codes[num_coarse:]) + fine_start),
        "stage2": _ids(layout.coarse_prompt(units.units, codes), without=layout.coarse_ids["begin"].start),
        "unflat": torch.from_numpy(layout.unflat(first, num_coarse).T),
    }
    for number, chunk in enumerate(layout.chunks(codes)):
        out[f"stage3_chunk{number}"] = _ids(layout.fine_prompt(chunk, chunk.shape[1]))
    return out


def _ids(pieces: list[Any], without: int = -1) -> Tensor:
    """All ids of a sequence, without our own mark between units and codes."""
    ids = np.concatenate([piece.ids for piece in pieces])
    return torch.from_numpy(ids[ids != without])


KINDS: dict[str, Runner] = {"audiolm/token_layout_paper": token_layout_paper}
