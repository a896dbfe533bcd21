"""Token shards: a corpus as codec tokens, written once, read through memory maps.

    tokens.json                   format, tokenizer, splits; written last, so a store is whole or says that it is not
    tokenizer/                    a copy of the codec's checkpoint
    silence.safetensors           codes of one second of digital silence
    train-00000.safetensors       codes [codebook, all frames], offsets [recordings + 1]
    train-00000.jsonl             the recordings, one manifest line each
    train-00000.skipped.jsonl     recordings that could not be read, where there are any

A codec gives its tokens their meaning, so a store carries its codec's identity and `TokenStore.require` refuses
another's.
"""

import json
import os
import shutil
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, NamedTuple, TypeVar

import numpy as np
from jaxtyping import Int, Int64
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from voder.data.manifest import Manifest, Utterance, json_line, load_object, write_manifest
from voder.errors import FittedPartMismatch, ManifestError, ResourceError, TokensError
from voder.files import atomic_path, folder_written_atomically, only_writer, remove_leftovers, write_text

FORMAT = "voder-tokens/1"
_OPEN_SHARDS = 16

ItemCodes = Int[np.ndarray, "codebook _"]
T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class TokenizerInfo:
    """The codec that tokens belong to."""

    system: str
    """its system's name"""
    identity: str
    """what `checkpoint.identity` says of its folder"""
    num_codebooks: int
    """codes per frame"""
    codebook_size: int
    """codes are 0 … codebook_size - 1"""
    frame_rate_hz: float
    """frames per second"""
    sample_rate_hz: int
    """rate of the audio it takes"""
    hop: int
    """samples per frame"""


class Skipped(NamedTuple):
    """A recording that could not be used."""

    id: str
    audio: str
    reason: str


class TokenSplit:
    """The recordings of one split: `lengths` in memory, codes and texts on disk."""

    def __init__(self, folder: Path, name: str, shards: Sequence[str], info: TokenizerInfo) -> None:
        self.name, self.codebook_size = name, info.codebook_size
        self._folder, self._shards = folder, tuple(shards)
        self._offsets = [_read_offsets(folder / f"{shard}.safetensors", info) for shard in shards]
        counts = [len(offsets) - 1 for offsets in self._offsets]
        self._starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        lengths = [np.diff(offsets) for offsets in self._offsets]
        self.lengths: Int64[np.ndarray, " item"] = np.concatenate([np.zeros(0, np.int64), *lengths])
        """frames of each recording"""
        self._handles: _Recent[Any] = _Recent(lambda shard: _open_shard(self._path(shard, ".safetensors")))
        self._manifests: _Recent[Manifest] = _Recent(self._open_manifest)

    def __len__(self) -> int:
        return len(self.lengths)

    def codes(self, index: int) -> Int64[np.ndarray, "codebook frame"]:
        """Return the codes of one recording. Raises TokensError where the shard is damaged."""
        shard, item = self._locate(index)
        start, stop = self._offsets[shard][item : item + 2]
        try:
            codes = self._handles.get(shard).get_slice("codes")[:, int(start) : int(stop)]
        except SafetensorError as error:
            raise TokensError(f"{self._path(shard, '.safetensors')} is damaged ({error}); tokenize again") from error
        codes = codes.astype(np.int64)
        if codes.size and not (codes.min() >= 0 and codes.max() < self.codebook_size):
            raise TokensError(
                f"{self._path(shard, '.safetensors')} holds codes {codes.min()} to {codes.max()}, but the "
                f"codebook has 0 to {self.codebook_size - 1}; tokenize again"
            )
        return codes

    def utterance(self, index: int) -> Utterance:
        """Return who said what in one recording."""
        shard, item = self._locate(index)
        return self._manifests.get(shard)[item]

    def speakers(self) -> tuple[str, ...]:
        """Return the names of all speakers, sorted."""
        names: set[str] = set()
        for shard in range(len(self._shards)):
            names.update(self._manifests.get(shard).speakers())
        return tuple(sorted(names))

    def _locate(self, index: int) -> tuple[int, int]:
        if not -len(self) <= index < len(self):
            raise IndexError(f"split {self.name} has {len(self)} recordings, there is no number {index}")
        index %= len(self)
        shard = int(np.searchsorted(self._starts, index, side="right")) - 1
        return shard, index - int(self._starts[shard])

    def _path(self, shard: int, suffix: str) -> Path:
        return self._folder / f"{self._shards[shard]}{suffix}"

    def _open_manifest(self, shard: int) -> Manifest:
        manifest = Manifest.open(self._path(shard, ".jsonl"))
        wanted = len(self._offsets[shard]) - 1
        if len(manifest) != wanted:
            raise TokensError(f"{manifest.path} has {len(manifest)} recordings, its shard {wanted}; tokenize again")
        return manifest


class TokenStore:
    """A folder of token shards, opened for reading."""

    def __init__(self, folder: Path, tokenizer: TokenizerInfo, splits: Mapping[str, Sequence[str]]) -> None:
        self.folder, self.tokenizer = folder, tokenizer
        self._shards = splits
        self._splits: dict[str, TokenSplit] = {}
        self._silence: Int64[np.ndarray, "codebook frame"] | None = None

    @classmethod
    def open(cls, folder: str | os.PathLike[str]) -> "TokenStore":
        """Open a store. Raises TokensError when it is missing, unfinished, damaged or of another format."""
        folder = Path(folder)
        record = _read_record(folder)
        if record is None:
            raise TokensError(f"{folder} holds no tokens.json: make one with `voder tokenize DATA -o {folder}`")
        if not record["complete"]:
            raise TokensError(f"{folder} is unfinished: run the same `voder tokenize` again, it goes on where it was")
        splits = {name: split["shards"] for name, split in record["splits"].items()}
        return cls(folder, record["tokenizer"], splits)

    @property
    def tokenizer_folder(self) -> Path:
        """The copy of the codec's checkpoint."""
        return self.folder / "tokenizer"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits."""
        return tuple(self._shards)

    @property
    def silence(self) -> Int64[np.ndarray, "codebook frame"]:
        """Codes of about one second of digital silence."""
        if self._silence is None:
            with _open_shard(self.folder / "silence.safetensors") as file:
                self._silence = file.get_tensor("codes").astype(np.int64)
        return self._silence

    def split(self, name: str) -> TokenSplit:
        """Return one split. Raises TokensError for a name that the store does not have."""
        if name not in self._shards:
            raise TokensError(f"{self.folder} has no split {name!r}; it has {', '.join(self._shards) or 'none'}")
        if name not in self._splits:
            self._splits[name] = TokenSplit(self.folder, name, self._shards[name], self.tokenizer)
        return self._splits[name]

    def require(self, identity: str) -> None:
        """Raise FittedPartMismatch unless these tokens belong to the codec of that identity."""
        if identity != self.tokenizer.identity:
            raise FittedPartMismatch(
                f"{self.folder} holds tokens of codec {self.tokenizer.system} {self.tokenizer.identity[:16]}, but "
                f"{identity[:16]} is needed: tokenize again with that codec, or use the one in {self.tokenizer_folder}"
            )


class TokenWriter:
    """Writes a store shard by shard. Every file is whole or absent; shards that stand are reused, never overwritten.

    Use as a context manager: it holds the folder against a second writer (ResourceError). Raises FittedPartMismatch
    when the folder holds tokens of another codec, and TokensError when a shard stands for other recordings.
    """

    def __init__(self, folder: str | os.PathLike[str], *, tokenizer: TokenizerInfo, tokenizer_folder: Path) -> None:
        self.folder, self.tokenizer = Path(folder), tokenizer
        self._tokenizer_folder = Path(tokenizer_folder)
        self._lock = only_writer(self.folder)

    def __enter__(self) -> "TokenWriter":
        self._lock.__enter__()
        try:
            self._begin()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def __exit__(self, *error: Any) -> None:
        self._lock.__exit__(None, None, None)

    def has_shard(self, name: str, key: str) -> bool:
        """Say whether shard `name` (train-00000) stands, made from the recordings and settings that `key` names."""
        path = self.folder / f"{name}.safetensors"
        if not path.exists():
            return False
        with _open_shard(path) as file:
            found = (file.metadata() or {}).get("key")
        if found != key:
            raise TokensError(
                f"{path} was made from other recordings or settings: choose another output folder or delete this one"
            )
        return True

    def write_shard(
        self,
        name: str,
        key: str,
        utterances: Sequence[Utterance],
        codes: Sequence[ItemCodes],
        skipped: Iterable[Skipped] = (),
    ) -> None:
        """Write one shard; its .safetensors comes last and makes it count."""
        for item in codes:
            self._check(name, item)
        dtype = np.int16 if self.tokenizer.codebook_size <= 2**15 else np.int32
        joined = np.concatenate([np.zeros((self.tokenizer.num_codebooks, 0), dtype), *codes], axis=1).astype(dtype)
        offsets = np.cumsum([0, *(item.shape[1] for item in codes)]).astype(np.int64)
        write_manifest(self.folder / f"{name}.jsonl", utterances)
        lines = [json_line(entry._asdict()) for entry in skipped]
        (self.folder / f"{name}.skipped.jsonl").unlink(missing_ok=True)
        if lines:
            write_text(self.folder / f"{name}.skipped.jsonl", "".join(lines))
        with atomic_path(self.folder / f"{name}.safetensors") as temporary:
            _save(temporary, {"codes": joined, "offsets": offsets}, {"key": key})

    def write_silence(self, codes: ItemCodes) -> None:
        """Store the codes of one second of digital silence."""
        self._check("silence", codes)
        with atomic_path(self.folder / "silence.safetensors") as temporary:
            _save(temporary, {"codes": codes.astype(np.int32)}, {})

    def finish(self, splits: Mapping[str, Sequence[str]]) -> TokenStore:
        """Declare the store whole: split name -> shard names, all of them written. Returns it opened."""
        summary = {}
        for split, shards in splits.items():
            offsets = [_read_offsets(self.folder / f"{shard}.safetensors", self.tokenizer) for shard in shards]
            summary[split] = {
                "shards": list(shards),
                "recordings": sum(len(each) - 1 for each in offsets),
                "frames": sum(int(each[-1]) for each in offsets),
            }
        self._write_record(complete=True, splits=summary)
        return TokenStore.open(self.folder)

    def skipped(self, names: Iterable[str]) -> list[Skipped]:
        """Return what the shards of these names left out, in order."""
        paths = (self.folder / f"{name}.skipped.jsonl" for name in names)
        rows = (load_object(line) for path in paths if path.exists() for line in path.read_bytes().splitlines())
        return [Skipped(**row) for row in rows]

    def _begin(self) -> None:
        remove_leftovers(self.folder)
        record = _read_record(self.folder)
        if record is None:
            strangers = [path.name for path in self.folder.iterdir() if path.name != ".lock"]
            if strangers:
                names = ", ".join(sorted(strangers)[:3])
                raise TokensError(f"{self.folder} holds other files ({names}): choose an empty output folder")
            self._write_record(complete=False, splits={})
        elif record["tokenizer"] != self.tokenizer:
            TokenStore(self.folder, record["tokenizer"], {}).require(self.tokenizer.identity)
            raise FittedPartMismatch(f"{self.folder} describes its codec otherwise: choose another output folder")
        if not (self.folder / "tokenizer").exists():
            with folder_written_atomically(self.folder / "tokenizer") as temporary:
                shutil.copytree(self._tokenizer_folder, temporary, dirs_exist_ok=True)

    def _write_record(self, *, complete: bool, splits: Mapping[str, Any]) -> None:
        record = {"format": FORMAT, "complete": complete, "tokenizer": asdict(self.tokenizer), "splits": dict(splits)}
        write_text(self.folder / "tokens.json", json.dumps(record, indent=1) + "\n")

    def _check(self, name: str, codes: ItemCodes) -> None:
        if codes.ndim != 2 or codes.shape[0] != self.tokenizer.num_codebooks:
            raise ValueError(
                f"codes for {name} must be [{self.tokenizer.num_codebooks}, frames], but are {codes.shape}"
            )
        if codes.size and not (codes.min() >= 0 and codes.max() < self.tokenizer.codebook_size):
            largest = self.tokenizer.codebook_size - 1
            raise ValueError(f"codes for {name} must be 0 to {largest}, but reach {codes.min()} to {codes.max()}")


class _Recent(Generic[T]):
    """The few things opened last, by number; training and evaluation may ask from two threads."""

    def __init__(self, make: Callable[[int], T]) -> None:
        self._make = make
        self._kept: OrderedDict[int, T] = OrderedDict()
        self._lock = threading.Lock()

    def get(self, number: int) -> T:
        with self._lock:
            if number not in self._kept:
                self._kept[number] = self._make(number)
            self._kept.move_to_end(number)
            if len(self._kept) > _OPEN_SHARDS:
                self._kept.popitem(last=False)
            return self._kept[number]


def _save(path: Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]) -> None:
    try:
        save_file(tensors, path, metadata=metadata)
    except SafetensorError as error:  # safetensors hides the OSError of a full disk in its own exception
        raise ResourceError(f"cannot write {path.parent}: {error}; free space or change the folder") from error


def _open_shard(path: Path) -> Any:
    try:
        return safe_open(path, framework="np")
    except (SafetensorError, OSError, ValueError) as error:
        raise TokensError(f"{path} is missing or damaged ({error}); run `voder tokenize` again") from error


def _read_offsets(path: Path, info: TokenizerInfo) -> Int64[np.ndarray, " edge"]:
    """Read where each recording begins in a shard, checked against the shard's codes."""
    try:
        with _open_shard(path) as file:
            offsets = file.get_tensor("offsets")
            rows, frames = file.get_slice("codes").get_shape()
    except (SafetensorError, ValueError) as error:
        raise TokensError(f"{path} is damaged ({error}); delete it and run `voder tokenize` again") from error
    good = offsets.dtype == np.int64 and offsets.ndim == 1 and len(offsets) >= 1
    if not good or offsets[0] != 0 or offsets[-1] != frames or (np.diff(offsets) < 0).any():
        raise TokensError(
            f"{path} is damaged: its offsets do not fit its codes; delete it and run `voder tokenize` again"
        )
    if rows != info.num_codebooks:
        raise TokensError(f"{path} has {rows} codebooks, but tokens.json says {info.num_codebooks}")
    return offsets


def _read_record(folder: Path) -> dict[str, Any] | None:
    """Read and check tokens.json; None where there is none."""
    path = folder / "tokens.json"
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        raise TokensError(f"{path} cannot be read: {error.strerror}") from error
    try:
        record = load_object(raw)
        if record.get("format") != FORMAT:
            raise TokensError(f"{path} has format {record.get('format')!r}, but {FORMAT!r} is read; tokenize again")
        record["tokenizer"] = _tokenizer_info(record["tokenizer"])
        for name, split in record["splits"].items():
            _check_split(name, split["shards"])
        record["complete"] = record["complete"] is True
    except (ManifestError, KeyError, TypeError, ValueError, AttributeError) as error:
        raise TokensError(f"{path} is damaged ({error}); tokenize again") from error
    return record


def _tokenizer_info(row: Any) -> TokenizerInfo:
    kinds: dict[Any, tuple[type, ...]] = {str: (str,), int: (int,), float: (int, float)}
    wanted = {field.name: kinds[field.type] for field in fields(TokenizerInfo)}
    if set(row) != set(wanted):
        raise ValueError(f"tokenizer has the keys {', '.join(row)}, not {', '.join(wanted)}")
    for name, value in row.items():
        right = isinstance(value, wanted[name]) and not isinstance(value, bool)
        if not right or (not isinstance(value, str) and not value > 0):
            raise ValueError(f"tokenizer.{name} is {value!r}")
    return TokenizerInfo(**row)


def _check_split(name: str, shards: Any) -> None:
    for shard in shards:
        number = shard.removeprefix(f"{name}-")
        if not (name.isalnum() and number.isdigit() and shard == f"{name}-{number}"):
            raise ValueError(f"split {name!r} names the shard {shard!r}")
