"""NExT-GPT's losses beside cross-entropy: how far projected signals are from a caption, and weights of noise losses."""

import torch
from jaxtyping import Float, Int
from torch import Tensor

MIN_SNR = 5.0
"""The bound of Min-SNR weighting (2303.09556)."""


def caption_distance(
    projected: Float[Tensor, "batch vector channel"], wanted: Float[Tensor, "batch vector channel"]
) -> Float[Tensor, "batch vector"]:
    """Euclidean distance of each vector from what a generator's text encoder made of the caption.

    The authors log its mean as "mse". Its gradient at distance 0 is taken as 0.
    """
    squares = (projected.float() - wanted.float()).square().sum(dim=-1)
    reached = squares == 0
    return squares.masked_fill(reached, 1.0).sqrt().masked_fill(reached, 0.0)


def signal_to_noise(alphas_cumprod: Float[Tensor, " step"], timesteps: Int[Tensor, " item"]) -> Float[Tensor, " item"]:
    """Signal energy over noise energy at steps of a diffusion schedule."""
    alphas = alphas_cumprod[timesteps]
    return alphas / (1 - alphas)


def min_snr_weights(
    alphas_cumprod: Float[Tensor, " step"], timesteps: Int[Tensor, " item"], bound: float = MIN_SNR
) -> Float[Tensor, " item"]:
    """Weights of the noise loss: steps with little noise count less."""
    ratio = signal_to_noise(alphas_cumprod, timesteps)
    return torch.clamp(ratio, max=bound) / ratio
