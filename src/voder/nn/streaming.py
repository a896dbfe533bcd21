"""Causal networks piece by piece: what leaves is what the whole signal gives.

A layer keeps what its next piece needs: a convolution the samples under its kernel, a transposed convolution the
overlap that is still to be added, an LSTM its state. Nothing looks ahead, so nothing is ever corrected. Reflection at
the start of a signal reads a few samples of it, so the first piece must be as long as `first_length` says.
"""

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from voder.nn.conv import PaddedConv1d, PaddedConvTranspose1d, ResidualLSTM, Signal, TimeGroupNorm, pad
from voder.nn.seanet import ResidualUnit


def streams(network: nn.Module) -> bool:
    """True when a network can run piece by piece: causal, with norms that do not look at the whole signal."""
    for module in network.modules():
        if isinstance(module, TimeGroupNorm) or (isinstance(module, ResidualLSTM) and module.lstm.bidirectional):
            return False
        if isinstance(module, PaddedConv1d) and module.right:
            return False
        if isinstance(module, PaddedConvTranspose1d) and module.left:
            return False
    return True


def first_length(network: nn.Module) -> int:
    """Positions of the deepest rate (frames) that the first piece must have for reflection to be as in the whole."""
    longest, layers = 1.0, list(_convolutions(network))
    rate = float(math.prod(layer.stride for layer in layers if isinstance(layer, PaddedConv1d)))  # positions a frame
    for layer in layers:
        if isinstance(layer, PaddedConvTranspose1d):
            rate *= layer.stride
            continue
        if layer.pad_mode == "reflect" and layer.left:
            longest = max(longest, (layer.left + 1) / rate)
        rate /= layer.stride
    return math.ceil(longest)


def _convolutions(network: nn.Module) -> Iterator[PaddedConv1d | PaddedConvTranspose1d]:
    for module in network.modules():
        if isinstance(module, PaddedConv1d | PaddedConvTranspose1d):
            yield module


class Streamed:
    """A network that streams, with what its layers have kept so far. One signal; for another, make another."""

    def __init__(self, network: nn.Sequential) -> None:
        if not streams(network):
            raise ValueError("only causal networks without norms over time run piece by piece")
        self.network = network
        self._kept: dict[int, Any] = {}

    @torch.no_grad()
    def push(self, x: Signal, *, last: bool = False) -> Tensor:
        """Run the next piece. All but the last one must be whole frames; the last one may end anywhere."""
        return self._run(self.network, x, last)

    def _run(self, module: nn.Module, x: Tensor, last: bool) -> Tensor:
        if isinstance(module, PaddedConv1d):
            return self._convolve(module, x, last)
        if isinstance(module, PaddedConvTranspose1d):
            return self._spread(module, x)
        if isinstance(module, ResidualLSTM):
            return self._remember(module, x)
        if isinstance(module, ResidualUnit):
            return self._run(module.shortcut, x, last) + self._run(module.block, x, last)
        if isinstance(module, nn.Sequential):
            for layer in module:
                x = self._run(layer, x, last)
            return x
        y: Tensor = module(x)  # activations: position by position
        return y

    def _convolve(self, layer: PaddedConv1d, x: Tensor, last: bool) -> Tensor:
        kept, seen = self._kept.get(id(layer), (None, 0))
        seen += x.shape[-1]
        waiting = pad(x, layer.left, 0, layer.pad_mode) if kept is None else torch.cat([kept, x], dim=-1)
        if last:
            waiting = pad(waiting, 0, -seen % layer.stride, layer.pad_mode)
        reach = layer.left + layer.stride  # of a causal layer
        count = (waiting.shape[-1] - reach) // layer.stride + 1
        self._kept[id(layer)] = (waiting[..., count * layer.stride :], seen)
        y: Tensor = layer.conv(waiting[..., : (count - 1) * layer.stride + reach])
        return y

    def _spread(self, layer: PaddedConvTranspose1d, x: Tensor) -> Tensor:
        conv: Any = layer.conv
        y = F.conv_transpose1d(x, conv.weight, None, stride=conv.stride)
        overlap = self._kept.get(id(layer))
        if overlap is not None:
            y[..., : overlap.shape[-1]] += overlap
        length = x.shape[-1] * conv.stride[0]
        self._kept[id(layer)] = y[..., length:]
        return y[..., :length] if conv.bias is None else y[..., :length] + conv.bias[:, None]

    def _remember(self, layer: ResidualLSTM, x: Tensor) -> Tensor:
        y, self._kept[id(layer)] = layer.lstm(x.permute(2, 0, 1), self._kept.get(id(layer)))
        return y.permute(1, 2, 0) + x
