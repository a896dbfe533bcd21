"""Whole tensors and the pieces that each process has of them, where a run is sharded; else whole ones stay as they are.

torch's sharded tensors take a second to import, so only a tensor that is no plain one is asked.
"""

from collections.abc import Mapping
from typing import Any

from torch import Tensor, nn


def is_cut(tensor: Tensor) -> bool:
    """True where this process has only a piece."""
    if type(tensor) in (Tensor, nn.Parameter, nn.Buffer):
        return False
    from torch.distributed.tensor import DTensor

    return isinstance(tensor, DTensor)


def local(tensor: Tensor) -> Tensor:
    """This process's piece of a tensor, or the whole one."""
    return tensor.to_local() if is_cut(tensor) else tensor  # type: ignore[attr-defined]


def like(whole: Tensor, reference: Tensor) -> Tensor:
    """Cut a whole tensor as `reference` is cut; itself where that is whole."""
    if not is_cut(reference):
        return whole
    from torch.distributed.tensor import DTensor, distribute_tensor

    assert isinstance(reference, DTensor)
    whole = whole.to(reference.device)
    return distribute_tensor(whole, reference.device_mesh, reference.placements, src_data_rank=None)


def together(value: Any, *, keep: bool) -> Any:
    """Put the pieces in a nest of dicts and lists together on the CPU; all ranks must call it.

    Ranks that do not `keep` them get None in their places.
    """
    if isinstance(value, Tensor):
        return _full(value, keep) if is_cut(value) else value
    if isinstance(value, Mapping):
        return {key: together(item, keep=keep) for key, item in value.items()}
    return [together(item, keep=keep) for item in value] if isinstance(value, list) else value


def _full(piece: Any, keep: bool) -> Tensor | None:
    whole: Tensor = piece.detach().full_tensor()
    return whole.cpu() if keep else None
