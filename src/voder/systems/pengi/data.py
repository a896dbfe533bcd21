"""What Pengi is trained on: recordings with a prompt and an answer, of any of three kinds of files."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from voder.audio.io import AudioClip
from voder.data.dialogue import Dialogue, Dialogues, Media, read_record, read_recording
from voder.data.manifest import Manifest
from voder.errors import ManifestError
from voder.systems.pengi.config import Records
from voder.systems.pengi.formats import read_triple


@dataclass(frozen=True, kw_only=True)
class Example:
    """One recording, what is asked about it, and the answer."""

    id: str
    prompt: str
    answer: str
    read: Callable[[], AudioClip]
    """The recording."""


class Examples(Sequence[Example]):
    """The examples of a file; parsed when asked for."""

    def __init__(self, file: Path, records: Records, prompt: str) -> None:
        """Raises ManifestError when the file is missing or has bad lines."""
        self.prompt = prompt
        self.manifest = Manifest.open(file) if records == "recordings" else None
        reader = read_triple if records == "triples" else read_record
        self.dialogues = None if records == "recordings" else Dialogues.open(file, reader=reader)
        self._places = list(self._found())

    def _found(self) -> Iterator[tuple[int, int]]:
        """Number of the record, and of the turn in it that is answered."""
        if self.manifest is not None:
            yield from ((number, 0) for number, utterance in enumerate(self.manifest) if utterance.text)
        for number, dialogue in enumerate(self.dialogues or ()):
            yield from ((number, turn) for turn in range(len(dialogue.turns) - 1) if _is_example(dialogue, turn))

    def __len__(self) -> int:
        return len(self._places)

    def __getitem__(self, index: int) -> Example:  # type: ignore[override]
        number, turn = self._places[index]
        if self.manifest is not None:
            utterance = self.manifest[number]
            return Example(id=utterance.id, prompt=self.prompt, answer=utterance.text or "", read=utterance.read)
        assert self.dialogues is not None
        dialogue: Dialogue = self.dialogues[number]
        heard = next(part for part in dialogue.turns[turn].parts if isinstance(part, Media))
        return Example(
            id=dialogue.id,
            prompt=dialogue.turns[turn].text,
            answer=dialogue.turns[turn + 1].text,
            read=lambda: read_recording(heard),
        )


def _is_example(dialogue: Dialogue, turn: int) -> bool:
    """One recording and a prompt, then an answer of text."""
    asked, answered = dialogue.turns[turn], dialogue.turns[turn + 1]
    heard = [part for part in asked.parts if isinstance(part, Media)]
    plain = all(isinstance(part, str) for part in answered.parts)
    alone = len(heard) == 1 and heard[0].kind == "audio"
    return asked.role == "user" and answered.role == "assistant" and alone and bool(asked.text.strip()) and plain


def open_examples(folder: Path, split: str, records: Records, prompt: str) -> Examples:
    """The examples of a split.

    Raises:
        ManifestError: the training split has none.
    """
    found = Examples(folder / f"{split}.jsonl", records, prompt)
    if split == "train" and not len(found):
        raise ManifestError(
            f"{folder / 'train.jsonl'} has nothing to learn from as task.records={records}: recordings need a text, "
            "dialogues one recording with a prompt and an answer of text"
        )
    return found
