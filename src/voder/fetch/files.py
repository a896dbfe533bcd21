"""Files on their way: written under another name, compared with what was promised, then renamed."""

import errno
import hashlib
import os
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from voder.errors import CheckpointError, ResourceError

Progress = Callable[[int], None]
"""Called with the number of bytes that have come so far."""
_BLOCK = 1 << 20


def after(progress: Progress, before: int) -> Progress:
    """Count on from `before`."""
    return lambda count: progress(before + count)


def blocks_of(file: Path) -> Iterator[bytes]:
    """A file in pieces of 1 MiB."""
    with open(file, "rb") as opened:
        while block := opened.read(_BLOCK):
            yield block


def sha256_of(file: Path) -> str:
    """Of a file's content."""
    digest = hashlib.sha256()
    for block in blocks_of(file):
        digest.update(block)
    return digest.hexdigest()


def write_checked(target: Path, blocks: Iterable[bytes], *, num_bytes: int, sha256: str, origin: str) -> None:
    """Write blocks to `target`, which appears only if size and sum are those promised.

    Raises:
        CheckpointError: another size or sum than promised; says which.
        ResourceError: the disk is full or not writable.
    """
    part = target.with_name(target.name + ".part")
    digest, count = hashlib.sha256(), 0
    try:
        with no_room_named(target):
            part.parent.mkdir(parents=True, exist_ok=True)
            with open(part, "wb") as out:
                for block in blocks:
                    out.write(block)
                    digest.update(block)
                    count += len(block)
        if count != num_bytes:
            raise CheckpointError(
                f"{target.name} from {origin} has {count} bytes instead of {num_bytes}: what is published there has "
                "changed, so it is not used"
            )
        _compare(target.name, digest.hexdigest(), sha256, origin)
        os.replace(part, target)
    finally:
        part.unlink(missing_ok=True)


def check_sum(file: Path, sha256: str, origin: str) -> None:
    """Compare a file that is already there.

    Raises:
        CheckpointError: it has another sum.
    """
    _compare(file.name, sha256_of(file), sha256, origin)


def _compare(name: str, found: str, wanted: str, origin: str) -> None:
    if found != wanted:
        raise CheckpointError(
            f"{name} from {origin} has the sha256 {found[:16]}… instead of {wanted[:16]}…: it was damaged on its way "
            "or has changed, so it is not used; fetch it again, or from another source with --via"
        )


@contextmanager
def no_room_named(where: Path) -> Iterator[None]:
    """Say in one sentence that the disk is full or may not be written."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        raise ResourceError(
            f"cannot write {where}: {'the disk is full' if full else error.strerror or error}; free space, or name "
            "another folder in VODER_HOME"
        ) from error
