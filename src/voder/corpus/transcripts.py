"""Transcripts beside recordings."""

from pathlib import Path

from voder.errors import InputError

_SUFFIXES = (".normalized.txt", ".txt", ".lab")
_LISTS = ".trans.txt"
_MAX_BYTES = 2**20


class Transcripts:
    """The transcripts of one folder at a time: one file per recording, or LibriSpeech's list of `id text` lines."""

    def __init__(self) -> None:
        self.unused: list[str] = []
        self._here: dict[str, Path] = {}
        self._listed: dict[str, str] = {}
        self._folder = Path()
        self._stems: set[str] = set()

    def enter(self, folder: Path, files: list[str]) -> None:
        """Look at the files of the next folder."""
        self._folder, self._here, self._listed = folder, {}, {}
        texts = [name for name in sorted(files) if name.lower().endswith(_SUFFIXES) and not name.startswith(".")]
        stems = {Path(name).stem for name in files if not name.lower().endswith(_SUFFIXES)}
        for name in texts:
            if name.lower().endswith(_LISTS):
                self._listed.update(_read_list(folder / name))
                continue
            suffix = next(suffix for suffix in _SUFFIXES if name.lower().endswith(suffix))
            stem = name[: -len(suffix)]
            if stem in stems:
                self._here[stem + suffix] = folder / name
            else:
                self.unused.append(name)

    def of(self, recording: Path) -> str | None:
        """Return what is said in a recording of this folder, white space collapsed; None where nothing says it.

        Raises InputError for a transcript that is not UTF-8 text.
        """
        for suffix in _SUFFIXES:
            path = self._here.get(recording.stem + suffix)
            if path is not None:
                return _collapse(_read(path))
        return self._listed.get(recording.stem)


def _read_list(path: Path) -> dict[str, str]:
    rows = (line.split(maxsplit=1) for line in _read(path).splitlines())
    return {row[0]: text for row in rows if len(row) == 2 and (text := _collapse(row[1]))}


def _collapse(text: str) -> str | None:
    return " ".join(text.split()) or None


def _read(path: Path) -> str:
    try:
        with open(path, "rb") as file:
            raw = file.read(_MAX_BYTES + 1)
        text = raw.decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text at byte {error.start}") from error
    if len(raw) > _MAX_BYTES or "\0" in text:
        raise InputError(f"{path} is no transcript: it is longer than {_MAX_BYTES} bytes or holds zero characters")
    return text
