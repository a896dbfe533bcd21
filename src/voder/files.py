"""Files that are either whole or absent: atomic replacement, and one writer per folder.

A name here never shows half a file: writing goes to a hidden sibling that replaces the target at the end, so a full
disk, Ctrl-C or kill -9 leaves what stood before.
"""

import ctypes
import fcntl
import glob
import itertools
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from voder.errors import ResourceError

_COUNTER = itertools.count()
_AT_FDCWD, _RENAME_EXCHANGE = -100, 2
LINKED_BYTES = 1 << 20
"""Files from this size on are linked rather than copied by `link_tree`; smaller ones may be edited by hand."""


@contextmanager
def atomic_path(path: str | os.PathLike[str]) -> Iterator[Path]:
    """Yield a temporary sibling of `path` to write; it replaces `path` on success and is removed on failure.

    Parent folders are made. Raises ResourceError when the disk is full or the folder cannot be written.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}-{next(_COUNTER)}.tmp")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        yield temporary
        with open(temporary, "rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    except OSError as error:
        raise ResourceError(
            f"cannot write {path}: {error.strerror or error}; free space or change the folder"
        ) from error
    finally:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)


def write_text(path: str | os.PathLike[str], text: str) -> None:
    """Write `text` (UTF-8, newlines as given) to `path`, whole or not at all."""
    with atomic_path(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))


@contextmanager
def named_os_errors(path: Path) -> Iterator[None]:
    """Turn a full disk, a missing permission and the like into one sentence."""
    try:
        yield
    except OSError as error:
        reason = error.strerror or str(error)
        raise ResourceError(f"cannot write {path}: {reason}; free space or choose another folder with -o") from error


@contextmanager
def folder_written_atomically(folder: Path) -> Iterator[Path]:
    """Yield a temporary sibling that becomes `folder` when the block ends well, and vanishes when it does not.

    A folder that stood there is exchanged in one step, so that its name is never absent. Where the system cannot
    exchange, a kill between the two renames leaves `.NAME.PID.old`, which `standing` finds.
    """
    temporary = folder.with_name(f".{folder.name}.{os.getpid()}.tmp")
    with named_os_errors(folder):
        shutil.rmtree(temporary, ignore_errors=True)  # of a killed process that had our id
        temporary.mkdir(parents=True)
    try:
        with named_os_errors(folder):
            yield temporary
            if not folder.exists():
                os.rename(temporary, folder)
            elif not exchange(temporary, folder):
                displaced = folder.with_name(f".{folder.name}.{os.getpid()}.old")
                os.rename(folder, displaced)
                os.rename(temporary, folder)
                shutil.rmtree(displaced, ignore_errors=True)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def exchange(first: Path, second: Path) -> bool:
    """Let two names change places in one step (Linux `renameat2`); False where the system or file system cannot."""
    try:
        rename = ctypes.CDLL(None, use_errno=True).renameat2
    except (AttributeError, OSError):
        return False
    return bool(rename(_AT_FDCWD, os.fsencode(first), _AT_FDCWD, os.fsencode(second), _RENAME_EXCHANGE) == 0)


def standing(folder: Path) -> Path:
    """Return `folder`, or what a killed writer had moved aside from it a moment before the new one came."""
    if not folder.exists() and folder.parent.is_dir():
        return max(folder.parent.glob(f".{glob.escape(folder.name)}.*.old"), default=folder)
    return folder


def remove_folder(folder: Path) -> None:
    """Delete a folder that readers may look for: it is whole until its name is gone."""
    hidden = folder.with_name(f".{folder.name}.{os.getpid()}-{next(_COUNTER)}.tmp")
    with named_os_errors(folder):
        os.rename(folder, hidden)
    shutil.rmtree(hidden, ignore_errors=True)


def link_tree(source: Path, target: Path) -> None:
    """Copy a folder; its large files share their bytes with the source by hard links where the disk is the same.

    Nothing here writes into a file that stands, so what is shared never changes under its other names.
    """
    shutil.copytree(source, target, copy_function=_link_or_copy)


def _link_or_copy(source: str | os.PathLike[str], target: str | os.PathLike[str]) -> None:
    real = os.path.realpath(source)  # caches keep links to files, and a link to a link is not bytes
    if os.path.getsize(real) >= LINKED_BYTES:
        with suppress(OSError):  # another disk, a disk without links, or a file of somebody else's
            os.link(real, target)
            return
    shutil.copy2(real, target)


def remove_leftovers(folder: Path) -> None:
    """Delete what interrupted writers left behind, and restore a folder that was being replaced."""
    if not folder.is_dir():
        return
    for path in folder.glob(".*.old"):
        target = folder / path.name[1:].rsplit(".", 2)[0]
        if not target.exists():
            os.rename(path, target)
    for pattern in (".*.tmp", ".*.old"):
        for path in folder.glob(pattern):
            shutil.rmtree(path) if path.is_dir() else path.unlink()


@contextmanager
def only_writer(folder: str | os.PathLike[str], name: str = ".lock") -> Iterator[None]:
    """Hold `folder` for this process; a second writer gets ResourceError naming the first one's process id.

    The kernel drops the lock with the process, so what a killed writer leaves behind never blocks the next one.
    """
    lock = Path(folder) / name
    descriptor = _acquire(lock)
    try:
        yield
    finally:
        with suppress(OSError):
            lock.unlink()
        os.close(descriptor)


def _acquire(lock: Path) -> int:
    while True:
        try:
            lock.parent.mkdir(parents=True, exist_ok=True)
            descriptor = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            raise ResourceError(f"cannot write {lock.parent}: {error.strerror}; change the folder") from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.pread(descriptor, 64, 0).decode(errors="replace").strip() or "unknown"
            os.close(descriptor)
            raise ResourceError(
                f"{lock.parent} is being written by another process (id {holder}): wait for it or choose another folder"
            ) from error
        if _still_named(lock, descriptor):
            os.ftruncate(descriptor, 0)
            os.pwrite(descriptor, str(os.getpid()).encode(), 0)
            return descriptor
        os.close(descriptor)  # the previous holder removed this file between our open and our lock


def _still_named(lock: Path, descriptor: int) -> bool:
    try:
        return os.stat(lock).st_ino == os.fstat(descriptor).st_ino
    except FileNotFoundError:
        return False


def relative_to_folder(path: Path, folder: Path) -> str:
    """Return `path` as seen from `folder` where the two share more than the root, else absolute (POSIX style)."""
    path, folder = Path(os.path.abspath(path)), Path(os.path.abspath(folder))
    common = Path(os.path.commonpath([path, folder]))
    if common == Path(common.anchor):
        return path.as_posix()
    return Path(os.path.relpath(path, folder)).as_posix()
