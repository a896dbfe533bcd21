"""The axis legend of the whole package: one name for one layout.

Shapes in public signatures are checked under pytest (jaxtyping with beartype) and cost nothing in production.
"""

from typing import TypeAlias

from jaxtyping import Bool, Float, Int
from torch import Tensor

Audio: TypeAlias = Float[Tensor, "batch channel sample"]
"""Waveforms in [-1, 1]."""
Mel: TypeAlias = Float[Tensor, "batch band frame"]
"""Mel spectrograms, log or power as the producer says."""
Codes: TypeAlias = Int[Tensor, "batch codebook frame"]
"""Codec tokens, one id per codebook and frame."""
Tokens: TypeAlias = Int[Tensor, "batch position"]
"""Ids of one flat sequence."""
Embeddings: TypeAlias = Float[Tensor, "batch position channel"]
"""Vectors of one sequence."""
Lengths: TypeAlias = Int[Tensor, " batch"]
"""Valid samples, frames or positions of each item."""
Mask: TypeAlias = Bool[Tensor, "batch position"]
"""True where a position is valid."""
Scalar: TypeAlias = Float[Tensor, ""]
"""One number."""
Latents: TypeAlias = Float[Tensor, "batch dim frame"]
"""Vectors between a codec's encoder and decoder."""
