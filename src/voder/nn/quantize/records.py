"""What every quantizer returns."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from voder.shapes import Codes, Latents, Scalar


@dataclass(frozen=True, kw_only=True)
class Quantized:
    """A latent after quantisation."""

    values: Latents
    """Quantised vectors; gradients pass straight through to the latent."""
    codes: Codes
    """One id per codebook and frame. All zero while a residual quantizer warms up (nothing is quantised
    then)."""
    commitment: Scalar
    """Mean squared distance between what enters each codebook and what leaves it, times its weight."""
    perplexity: Float[Tensor, " stage"]
    """exp(entropy) of how often each code is used: 1 is collapse, the codebook size is uniform use."""
