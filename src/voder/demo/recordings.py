"""The bundled recordings: spoken digits of five people, four known to the bundled checkpoints and one new."""

import shutil
import zipfile
from dataclasses import dataclass
from pathlib import Path

from voder.files import folder_written_atomically

ARCHIVE = Path(__file__).parent / "digits.zip"
WORDS = ("zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")


@dataclass(frozen=True, kw_only=True)
class Recordings:
    """Folders as a user would have them: audio and a manifest."""

    known: Path
    """Four speakers; what the checkpoints were trained on."""
    new: Path
    """One speaker whom the bundled checkpoints never heard."""
    everyone: Path
    """A table of all five."""
    credit: str
    """Who made the recordings, and under which licence."""


def unpack(folder: Path) -> Recordings:
    """Unpack the bundled recordings into `folder`, unless they are there."""
    if not folder.is_dir():
        folder.parent.mkdir(parents=True, exist_ok=True)
        with folder_written_atomically(folder) as temporary, zipfile.ZipFile(ARCHIVE) as archive:
            for member in archive.infolist():
                target = temporary / member.filename
                target.parent.mkdir(parents=True, exist_ok=True)
                with archive.open(member) as source, open(target, "wb") as copy:
                    shutil.copyfileobj(source, copy)
    credit = (folder / "CREDIT.txt").read_text(encoding="utf-8")
    return Recordings(known=folder / "known", new=folder / "new", everyone=folder / "everyone.jsonl", credit=credit)
