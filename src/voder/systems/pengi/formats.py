"""Pengi's triples, read into dialogues and written from them.

A line is `{"audio": "a.wav", "prompt": "generate audio caption", "text": "a dog barks"}`, the path relative to the
file. The prompts are the paper's eight templates, one for each kind of data.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from voder.data.dialogue import Dialogue, DialogueTurn, Media, content_id, resolve_path, text_field
from voder.errors import ManifestError
from voder.files import relative_to_folder

PROMPTS = {
    "caption": "generate audio caption",
    "metadata": "generate metadata",
    "sound": "this is a sound of",
    "scene": "this acoustic scene is",
    "emotion": "this emotion is",
    "question": "question:",
    "note": "this music note is",
    "sentiment": "this sentiment is",
}
"""By kind of data. The first three are those of the published code; the others are recalled from the paper."""
DESCRIBING = ("caption", "metadata", "sound")
"""Prompts that the authors' `describe` asks one after the other."""


def read_triple(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """Read one line."""
    audio, prompt, text = (text_field(row, key, required=True) for key in ("audio", "prompt", "text"))
    if not audio or not (prompt or "").strip() or not (text or "").strip():
        raise ManifestError("audio, prompt and text must not be empty")
    heard = Media(kind="audio", path=resolve_path(folder, audio))
    return Dialogue(
        id=text_field(row, "id") or content_id(row),
        turns=(
            DialogueTurn(role="user", parts=(heard, str(prompt))),
            DialogueTurn(role="assistant", parts=(str(text),)),
        ),
    )


def write_triple(dialogue: Dialogue, folder: Path) -> Mapping[str, Any]:
    """Write one line.

    Raises:
        ManifestError: the dialogue is not one recording with one prompt and one answer.
    """
    roles = tuple(turn.role for turn in dialogue.turns)
    parts = dialogue.turns[0].parts
    heard = parts[0]
    fits = roles == ("user", "assistant") and len(parts) == 2 and isinstance(parts[1], str)
    if not fits or not isinstance(heard, Media) or heard.kind != "audio":
        raise ManifestError("a triple is one recording with one prompt, and one answer")
    if heard.start_s is not None or heard.end_s is not None:
        raise ManifestError("a triple has whole files, no stretches of them")
    if not all(isinstance(part, str) for part in dialogue.turns[1].parts):
        raise ManifestError("the answer of a triple is text alone")
    return {
        "id": dialogue.id,
        "audio": relative_to_folder(heard.path, folder),
        "prompt": parts[1],
        "text": dialogue.turns[1].text,
    }
