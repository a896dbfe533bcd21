"""fairseq's lists of recordings, read and written.

train.tsv   a folder, then one `file<tab>samples` per line
train.km    one line of labels per recording, in the order of the .tsv
train.wrd   what is said, one line per recording
train.ltr   the same in letters: `H I | Y O U |`
dict.km.txt, dict.ltr.txt   the labels or letters that there are, each with a count
"""

from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from voder.audio.io import probe_audio
from voder.data.manifest import Utterance
from voder.errors import ManifestError
from voder.files import write_text

WORD_END = "|"
MAX_LABEL = 2**31 - 1


@dataclass(frozen=True, kw_only=True)
class Listed:
    """One line of a .tsv, with what the files beside it say of it."""

    audio: Path
    num_samples: int
    """At the file's own rate."""
    text: str | None = None
    """From .wrd, else from .ltr."""


def read_tsv(file: Path) -> list[Listed]:
    """Read a .tsv and the .wrd or .ltr beside it; a relative folder in it is one below the file's own.

    Raises:
        ManifestError: not such a list, or another number of lines beside it; says where.
    """
    root, *rows = _lines(file)
    if not root.strip() or "\t" in root:
        raise ManifestError(f"{file}: the first line must be the folder of the recordings, not {root[:60]!r}")
    texts = _texts_beside(file, len(rows))
    listed = []
    for number, (row, text) in enumerate(zip(rows, texts, strict=True), 2):
        name, tab, count = row.partition("\t")
        if not tab or not name or not count.strip().isdecimal() or len(count) > 18:
            raise ManifestError(
                f"{file} line {number}: a file, a tab and a number of samples are wanted, not {row[:60]!r}"
            )
        audio = file.parent / root.strip() / name
        listed.append(Listed(audio=audio, num_samples=int(count), text=text or None))
    return listed


def read_utterances(file: Path) -> Iterator[Utterance]:
    """Yield the recordings of a .tsv as manifests hold them; rates and channels are read from the sound files.

    Raises:
        ManifestError: as `read_tsv`.
        AudioError: a sound file is missing or damaged.
    """
    for listed in read_tsv(file):
        rate, channels = probe_audio(listed.audio)
        yield Utterance(
            id=listed.audio.stem,
            audio=listed.audio,
            duration_s=listed.num_samples / rate,
            num_samples=listed.num_samples,
            sample_rate_hz=rate,
            channels=channels,
            text=listed.text,
        )


def read_km(file: Path) -> list[np.ndarray]:
    """Read labels, int32 `[frame]` per line.

    Raises:
        ManifestError: a label that is no whole number from 0; says where.
    """
    read = []
    for number, line in enumerate(_lines(file), 1):
        try:
            labels = np.array(line.split(), dtype=np.int64)
        except (ValueError, OverflowError):
            raise ManifestError(f"{file} line {number}: labels are whole numbers with blanks between") from None
        if labels.size and not 0 <= labels.min() <= labels.max() <= MAX_LABEL:
            raise ManifestError(f"{file} line {number}: labels must lie from 0 to {MAX_LABEL}")
        read.append(labels.astype(np.int32))
    return read


def write_km(file: Path, labels: Iterable[Sequence[int] | np.ndarray]) -> None:
    """Write labels, one line per recording."""
    lines = (" ".join(map(str, np.asarray(each, dtype=np.int64).tolist())) for each in labels)
    write_text(file, "".join(f"{line}\n" for line in lines))


def write_dict(file: Path, num_labels: int) -> None:
    """Write `dict.km.txt`: every label there is, each counted once, as fairseq's recipe does."""
    write_text(file, "".join(f"{label} 1\n" for label in range(num_labels)))


def write_tsv(file: Path, utterances: Iterable[Utterance]) -> None:
    """Write a .tsv, and .wrd and .ltr beside it if every recording has a text.

    Raises:
        ManifestError: a recording is a stretch of a longer file, which this format cannot say, or its text has `|`.
    """
    rows = list(utterances)
    if not rows:
        raise ManifestError(f"{file} would be empty: there are no recordings to list")
    for row in rows:
        if row.start_sample:
            raise ManifestError(f"{row.id} begins inside {row.audio}; fairseq lists whole files only: cut it out first")
    folders = [row.audio.resolve().parent for row in rows]
    root = folders[0]
    while not all(folder.is_relative_to(root) for folder in folders):
        root = root.parent
    listed = "".join(f"{row.audio.resolve().relative_to(root).as_posix()}\t{row.num_samples}\n" for row in rows)
    write_text(file, f"{root}\n{listed}")
    texts = [row.text for row in rows]
    said = [" ".join(text.split()) for text in texts if text is not None]
    if len(said) < len(rows):
        return
    write_text(file.with_suffix(".wrd"), "".join(f"{text}\n" for text in said))
    letters = [to_letters(text) for text in said]
    write_text(file.with_suffix(".ltr"), "".join(f"{line}\n" for line in letters))
    counts = Counter(letter for line in letters for letter in line.split())
    known = "".join(f"{letter} {count}\n" for letter, count in counts.most_common())
    write_text(file.parent / "dict.ltr.txt", known)


def to_letters(text: str) -> str:
    """`HI YOU` as `H I | Y O U |`.

    Raises:
        ManifestError: the text has a `|`.
    """
    if WORD_END in text:
        raise ManifestError(f"{text[:60]!r} holds {WORD_END}, which ends words in fairseq's .ltr: take it out")
    return " ".join([*"|".join(text.split()), WORD_END])


def from_letters(line: str) -> str:
    """The text of a line of letters."""
    return " ".join("".join(line.split()).replace(WORD_END, " ").split())


def _texts_beside(file: Path, count: int) -> list[str]:
    for suffix, read in ((".wrd", str.strip), (".ltr", from_letters)):
        beside = file.with_suffix(suffix)
        if beside.is_file():
            texts = [read(line) for line in _lines(beside)]
            if len(texts) != count:
                raise ManifestError(f"{beside} has {len(texts)} lines, but {file.name} lists {count} recordings")
            return texts
    return [""] * count


def _lines(file: Path) -> list[str]:
    try:
        lines = file.read_text(encoding="utf-8").split("\n")
    except OSError as error:
        raise ManifestError(f"{file} cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise ManifestError(f"{file} is not UTF-8 at byte {error.start}") from error
    if lines and not lines[-1]:
        lines.pop()
    if not lines:
        raise ManifestError(f"{file} is empty")
    return [line.rstrip("\r") for line in lines]
