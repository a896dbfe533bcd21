"""What a codec's codes say about its codebooks."""

import math

import numpy as np
from jaxtyping import Float, Int

CodeArray = Int[np.ndarray, "codebook frame"]


def usage(codes: CodeArray, codebook_size: int) -> Float[np.ndarray, " codebook"]:
    """Share of every codebook's entries that occur."""
    return (_counts(codes, codebook_size) > 0).mean(axis=1)


def perplexity(codes: CodeArray, codebook_size: int) -> Float[np.ndarray, " codebook"]:
    """exp(entropy) of every codebook: 1 when one entry does all the work, `codebook_size` when all share it."""
    counts = _counts(codes, codebook_size)
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    entropy = -(share * np.log(np.where(share > 0, share, 1.0))).sum(axis=1)
    return np.exp(entropy)


def bitrate_bps(frame_rate_hz: float, num_codebooks: int, codebook_size: int) -> float:
    """Bits per second of plain codes, without entropy coding."""
    return frame_rate_hz * num_codebooks * math.log2(codebook_size)


def _counts(codes: CodeArray, codebook_size: int) -> np.ndarray:
    if codes.size and not 0 <= codes.min() <= codes.max() < codebook_size:
        raise ValueError(f"codes run from {codes.min()} to {codes.max()}; allowed are 0 to {codebook_size - 1}")
    return np.stack([np.bincount(book, minlength=codebook_size) for book in codes]).astype(np.float64)
