"""Pickles of other projects, read without running anything in them.

A pickle is a program. Here every class it names becomes an inert record of what it was given, except plain numbers:
numpy arrays and numeric dtypes, torch tensors, dictionaries and lists. Enough for two kinds of published files:
cluster centres (scikit-learn objects written by joblib) and fairseq checkpoints (weights beside omegaconf objects).
"""

import gzip
import io
import pickle
import re
import zlib
from collections import OrderedDict
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from voder.errors import CheckpointError

_NUMERIC = re.compile(r"[<>|=]?[biuf][0-9]{1,2}")
_TORCH = {"_rebuild_tensor_v2", "_rebuild_tensor", "_rebuild_parameter"}


class Inert:
    """Stands for an object of a class that is not loaded: its name, arguments and state, nothing that runs."""

    def __new__(cls, *args: Any, **kwargs: Any) -> "Inert":
        made = super().__new__(cls)
        made.arguments, made.state, made.items = args, None, []
        return made

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.arguments: tuple[Any, ...]
        self.state: Any
        self.items: list[Any]

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        self.items.append((key, value))

    def append(self, value: Any) -> None:
        self.items.append(value)

    def extend(self, values: Any) -> None:
        self.items.extend(values)

    def __hash__(self) -> int:
        return id(self)


class _Dtype(Inert):
    """A numpy dtype: its code and byte order. numpy itself takes its state on trust, and crashes on a damaged one."""

    def value(self) -> np.dtype:
        code = self.arguments[0] if self.arguments else None
        if not isinstance(code, str) or not _NUMERIC.fullmatch(code):
            raise pickle.UnpicklingError(f"dtype {code!r} is not a number")
        order: Any = self.state[1] if isinstance(self.state, tuple) and len(self.state) > 1 else "="
        if order not in ("<", ">", "=", "|"):
            raise pickle.UnpicklingError(f"byte order {order!r}")
        return np.dtype(code).newbyteorder(order)


class _Array(Inert):
    """A numpy array inside the pickle: its state has shape, dtype, order and bytes."""

    def value(self) -> np.ndarray:
        _, shape, dtype, fortran, data = self.state
        return _to_array(bytes(data), dtype, tuple(shape), fortran)


class _JoblibArray(Inert):
    """joblib's mark before the raw bytes of an array."""

    def read(self, file: io.BytesIO) -> np.ndarray:
        state: dict[str, Any] = self.state
        dtype, shape = _plain(state["dtype"]), tuple(int(size) for size in state["shape"])
        if state.get("numpy_array_alignment_bytes") is not None:
            file.read(file.read(1)[0])
        count = int(np.prod(shape, dtype=np.int64))
        if count < 0 or any(size < 0 for size in shape):
            raise pickle.UnpicklingError(f"an array of shape {shape}")
        return _to_array(file.read(count * dtype.itemsize), dtype, shape, state.get("order") == "F")


def _plain(dtype: Any) -> np.dtype:
    if not isinstance(dtype, _Dtype):
        raise pickle.UnpicklingError("an array of objects")
    return dtype.value()


def _to_array(data: bytes, dtype: Any, shape: tuple[int, ...], fortran: bool) -> np.ndarray:
    flat = np.frombuffer(data, dtype=dtype if isinstance(dtype, np.dtype) else _plain(dtype))
    return flat.reshape(shape[::-1]).T if fortran else flat.reshape(shape)


def _from_buffer(data: Any, dtype: Any, shape: Any, order: Any) -> np.ndarray:
    """How protocol 5 spells an array."""
    return _to_array(bytes(data), dtype, tuple(shape), order == "F")


def _latin(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocols before 3 spell bytes."""
    if not isinstance(text, str) or encoding != "latin1":
        raise pickle.UnpicklingError("bytes in an unknown encoding")
    return text.encode("latin1")


def _make(cls: Any, *rest: Any) -> Any:
    """What copyreg does for old-style objects, for inert classes only."""
    if isinstance(cls, type) and issubclass(cls, Inert):
        return cls()
    raise pickle.UnpicklingError(f"an object of {cls!r}")


def _resolve(module: str, name: str) -> Any:
    top = module.partition(".")[0]
    if top == "numpy" and name == "dtype":
        return _Dtype
    if top == "numpy" and name == "_reconstruct":
        return _Array
    if top == "numpy" and name == "_frombuffer":
        return _from_buffer
    if (module, name) == ("_codecs", "encode"):
        return _latin
    if module == "joblib.numpy_pickle" and name == "NumpyArrayWrapper":
        return _JoblibArray
    if module in ("copy_reg", "copyreg") and name in ("_reconstructor", "__newobj__"):
        return _make
    if (module, name) == ("collections", "OrderedDict"):
        return OrderedDict
    if module == "torch._utils" and name in _TORCH:
        return getattr(torch._utils, name)
    return type(name, (Inert,), {"__module__": "voder.inert"})


class _Reader(pickle._Unpickler):
    """The unpickler in Python, whose steps can be replaced one by one."""

    dispatch: ClassVar[dict[int, Any]] = dict(pickle._Unpickler.dispatch)

    def __init__(self, file: io.BytesIO) -> None:
        super().__init__(file)
        self.file = file

    def find_class(self, module: str, name: str) -> Any:
        return _resolve(module, name)

    def load_build(self) -> None:
        super().load_build()  # type: ignore[misc]
        top = self.stack[-1]  # type: ignore[attr-defined]
        if isinstance(top, _JoblibArray):
            self.stack[-1] = top.read(self.file)  # type: ignore[attr-defined]
        elif isinstance(top, _Array):
            self.stack[-1] = top.value()  # type: ignore[attr-defined]

    dispatch[pickle.BUILD[0]] = load_build


class _TorchReader(pickle._Unpickler):
    """In Python too: the one in C makes room for as many remembered objects as a file says."""

    def find_class(self, module: str, name: str) -> Any:
        return _resolve(module, name)


def _torch_load(file: Any, **options: Any) -> Any:
    return _TorchReader(file, **options).load()


_TORCH_PICKLE = SimpleNamespace(Unpickler=_TorchReader, load=_torch_load, __name__="voder.inert")


def read_centers(file: Path) -> np.ndarray:
    """Cluster centres `[unit, channel]` of a `.bin` of fairseq (joblib), an `.npz`, `.npy` or `.pkl`.

    Raises:
        CheckpointError: missing, damaged, or without `cluster_centers_`.
    """
    try:
        data = file.read_bytes()
        if file.suffix in (".npz", ".npy"):
            loaded = np.load(io.BytesIO(data), allow_pickle=False)
            found = loaded if isinstance(loaded, np.ndarray) else _pick(loaded)
        else:
            found = _find(_Reader(io.BytesIO(_decompress(data))).load())
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    except Exception as error:  # a damaged pickle fails in any way
        raise CheckpointError(
            f"{file} holds no cluster centres that can be read ({error or type(error).__name__})"
        ) from error
    if not isinstance(found, np.ndarray) or found.ndim != 2 or found.dtype.kind != "f" or not np.isfinite(found).all():
        raise CheckpointError(f"{file} holds no cluster_centers_: a table of numbers, one row per unit")
    return np.array(found, dtype=np.float32, order="C")  # a copy: bytes of a file cannot be written to


def _pick(loaded: Any) -> np.ndarray | None:
    names = [name for name in ("cluster_centers_", "centers", "cluster_centers") if name in loaded.files]
    if not names and len(loaded.files) == 1:
        names = list(loaded.files)
    return loaded[names[0]] if names else None


def _find(top: Any) -> np.ndarray | None:
    state = top.state if isinstance(top, Inert) else top
    if isinstance(state, np.ndarray):
        return state
    found = state.get("cluster_centers_") if isinstance(state, Mapping) else None
    return found if isinstance(found, np.ndarray) else None


def _decompress(data: bytes) -> bytes:
    if data[:2] == b"\x1f\x8b":
        return gzip.decompress(data)
    return zlib.decompress(data) if data[:1] == b"\x78" and data[1:2] in b"\x01\x5e\x9c\xda" else data


def read_fairseq(file: Path) -> dict[str, Tensor]:
    """The weights of a fairseq `.pt` (its `model`), or of a flat file of tensors, as float32.

    Raises:
        CheckpointError: missing, damaged, or without weights.
    """
    try:
        loaded = torch.load(file, map_location="cpu", pickle_module=_TORCH_PICKLE, weights_only=False)
    except OSError as error:
        raise CheckpointError(f"{file} cannot be read ({error})") from error
    except Exception as error:
        raise CheckpointError(f"{file} is damaged or no torch file ({error or type(error).__name__})") from error
    for key in ("model", "model_state_dict", "generator"):
        if isinstance(loaded, Mapping) and isinstance(loaded.get(key), Mapping):
            loaded = loaded[key]
            break
    if not isinstance(loaded, Mapping):
        raise CheckpointError(f"{file} holds no table of weights")
    state = {str(name): value for name, value in loaded.items() if isinstance(value, Tensor)}
    if not state:
        raise CheckpointError(f"{file} holds no weights")
    return {name: value.float() if value.is_floating_point() else value for name, value in state.items()}
