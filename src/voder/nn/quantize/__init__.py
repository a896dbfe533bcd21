"""Quantizers: residual vectors with learned codebooks, and finite scalars on a fixed grid."""

from voder.nn.quantize.fsq import FiniteScalarQuantizer, FSQConfig, ResidualFSQ, ScalarGrid, build_fsq
from voder.nn.quantize.records import Quantized
from voder.nn.quantize.rvq import ResidualVectorQuantizer, RVQConfig

__all__ = [
    "FSQConfig",
    "FiniteScalarQuantizer",
    "Quantized",
    "RVQConfig",
    "ResidualFSQ",
    "ResidualVectorQuantizer",
    "ScalarGrid",
    "build_fsq",
]
