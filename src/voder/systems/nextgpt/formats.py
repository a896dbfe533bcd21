"""The authors' records, old and new, read into dialogues and written from them; and instructions of our own.

Legacy: `{"audio_name": "a.wav", "caption": "…"}` for the first two stages, and for the third
`{"conversation": [{"from": "human", "value", "input_modality", "mm_name"}, {"from": "gpt", "value", "output_modality",
"caption", "mm_name"}]}`. New, to understand: `{"input_audio": "a.wav", "conversations": [{"from": "human", "value":
"<audio>\\n…"}, …]}`; and to generate: `{"output_audio", "audio_captions", "audio_caption_embeddings": "x.npy",
"conversations": [… "… <audio>"]}`. `image` and `video` stand where `audio` does.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

from voder.data.dialogue import (
    Dialogue,
    DialogueTurn,
    Media,
    MediaKind,
    Part,
    content_id,
    resolve_path,
    text_field,
)
from voder.errors import ManifestError
from voder.files import relative_to_folder
from voder.systems.nextgpt.config import KINDS

DESCRIBE = (
    "What do you hear?",
    "Describe this recording.",
    "Say in a sentence what is going on here.",
    "Write down what this recording holds.",
    "Please give a caption of this.",
)
"""Asked of recordings to be put into words."""
SHOW = (
    "Let me hear {}",
    "Please make a recording of this: {}",
    "I would like to listen to this: {}",
    "What does this sound like? {}",
)
"""Asked for captions to be made audible."""


def read_legacy(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """Read one record of the legacy line."""
    if "conversation" in row:
        turns = _list(row, "conversation")
        return Dialogue(
            id=text_field(row, "id") or content_id(row),
            turns=tuple(_legacy_turn(turn, number, folder) for number, turn in enumerate(turns, 1)),
        )
    kinds: list[MediaKind] = [kind for kind in KINDS if f"{kind}_name" in row]
    if len(kinds) != 1:
        raise ManifestError(
            "a record needs a conversation, or a caption with one of image_name, video_name, audio_name"
        )
    name, caption = (text_field(row, key, required=True) for key in (f"{kinds[0]}_name", "caption"))
    if not name or not caption:
        raise ManifestError("the medium's name and the caption must not be empty")
    heard = Media(kind=kinds[0], path=resolve_path(folder, name), caption=caption)
    turns_made = (DialogueTurn(role="user", parts=(heard,)), DialogueTurn(role="assistant", parts=(caption,)))
    return Dialogue(id=text_field(row, "id") or content_id(row), turns=turns_made, task="caption")


def _list(row: Mapping[str, Any], key: str) -> list[Any]:
    turns = row[key]
    if not isinstance(turns, list) or not turns:
        raise ManifestError(f"{key} must be a list of turns")
    return turns


def _role(turn: Any, number: int) -> Literal["user", "assistant"]:
    said = turn.get("from") if isinstance(turn, Mapping) else None
    if said not in ("human", "gpt"):
        raise ManifestError(f"turn {number} is from {said!r}; allowed are human and gpt")
    return "user" if said == "human" else "assistant"


def _legacy_turn(turn: Any, number: int, folder: Path) -> DialogueTurn:
    role = _role(turn, number)
    kind = text_field(turn, "input_modality" if role == "user" else "output_modality") or "text"
    value = text_field(turn, "value") or ""
    if kind != "text" and kind not in KINDS:
        raise ManifestError(f"turn {number} has the modality {kind!r}; allowed are text, {', '.join(KINDS)}")
    parts: list[Part] = [value] if value else []
    if kind != "text":
        name = text_field(turn, "mm_name")
        if not name:
            raise ManifestError(f"turn {number} has the modality {kind} but no mm_name")
        medium = Media(kind=kind, path=resolve_path(folder, name), caption=text_field(turn, "caption") or None)  # type: ignore[arg-type]
        parts = [medium, *parts] if role == "user" else [*parts, medium]
    return DialogueTurn(role=role, parts=tuple(parts))


def write_legacy(dialogue: Dialogue, folder: Path) -> Mapping[str, Any]:
    """Write one record of the legacy line.

    Raises:
        ManifestError: what it has no place for: codes, system turns, stretches, several media in a turn, vectors.
    """
    if dialogue.task == "caption" and len(dialogue.turns) == 2 and len(dialogue.turns[0].parts) == 1:
        medium = dialogue.turns[0].parts[0]
        if isinstance(medium, Media):
            name = _whole(medium, folder)
            return {"id": dialogue.id, f"{medium.kind}_name": name, "caption": dialogue.turns[1].text}
    return {"id": dialogue.id, "conversation": [_write_legacy_turn(turn, folder) for turn in dialogue.turns]}


def _write_legacy_turn(turn: DialogueTurn, folder: Path) -> dict[str, Any]:
    media = _media_of(turn)
    if len(media) > 1 or any(medium.embedding for medium in media):
        raise ManifestError("a legacy turn has at most one medium, and its caption's vectors lie elsewhere")
    side = "input_modality" if turn.role == "user" else "output_modality"
    row: dict[str, Any] = {"from": _from(turn), "value": turn.text, side: media[0].kind if media else "text"}
    if media:
        row["mm_name"] = _whole(media[0], folder)
        if media[0].caption:
            row["caption"] = media[0].caption
    return row


def _media_of(turn: DialogueTurn) -> list[Media]:
    if any(not isinstance(part, str | Media) for part in turn.parts):
        raise ManifestError("codes have no place in NExT-GPT's records")
    return [part for part in turn.parts if isinstance(part, Media)]


def _from(turn: DialogueTurn) -> str:
    if turn.role == "system":
        raise ManifestError("a system's turn has no place in NExT-GPT's records")
    return "human" if turn.role == "user" else "gpt"


def _whole(medium: Media, folder: Path) -> str:
    if medium.start_s is not None or medium.end_s is not None:
        raise ManifestError("NExT-GPT's records have whole files, no stretches of them")
    return relative_to_folder(medium.path, folder)


def read_new(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """Read one record of the rewritten line: media stand where `<audio>` and the like do, in order."""
    if "conversations" not in row:
        raise ManifestError("conversations are missing")
    given = _lists(row, "input_{}")
    made = _lists(row, "output_{}")
    captions = _lists(row, "{}_captions")
    vectors = _lists(row, "{}_caption_embeddings")
    turns = []
    for number, turn in enumerate(_list(row, "conversations"), 1):
        role = _role(turn, number)
        value = text_field(turn, "value", required=True) or ""
        files = given if role == "user" else made
        known = ({}, {}) if role == "user" else (captions, vectors)
        parts = _placed(value, files, known[0], known[1], number=number, folder=folder)
        turns.append(DialogueTurn(role=role, parts=parts))
    left = [f"{side}_{kind}" for side, files in (("input", given), ("output", made)) for kind in KINDS if files[kind]]
    if left:
        raise ManifestError(f"{', '.join(left)} stands in no turn: its place is marked by <{left[0].split('_')[1]}>")
    return Dialogue(id=text_field(row, "id") or content_id(row), turns=tuple(turns))


def _lists(row: Mapping[str, Any], key: str) -> dict[str, list[str]]:
    return {kind: _files(row, key.format(kind)) for kind in KINDS}


def _files(row: Mapping[str, Any], key: str) -> list[str]:
    value = row.get(key)
    values = [] if value is None else value if isinstance(value, list) else [value]
    if not all(isinstance(each, str) and each for each in values):
        raise ManifestError(f"{key} must be text, or a list of texts")
    return list(values)


def _placed(
    value: str,
    files: Mapping[str, list[str]],
    captions: Mapping[str, list[str]],
    vectors: Mapping[str, list[str]],
    *,
    number: int,
    folder: Path,
) -> tuple[Part, ...]:
    """Cut a text at the marks of media and put the media there; they are taken from the lists."""
    parts: list[Part] = []
    rest = value
    while True:
        places = [(place, kind) for kind in KINDS if (place := rest.find(f"<{kind}>")) >= 0]
        if not places:
            break
        place, kind = min(places)
        if not files[kind]:
            raise ManifestError(f"turn {number} has <{kind}>, but no file is named for it")
        before, rest = rest[:place].strip(), rest[place + len(kind) + 2 :]
        caption, embedding = (lists[kind].pop(0) if lists.get(kind) else None for lists in (captions, vectors))
        medium = Media(
            kind=kind,
            path=resolve_path(folder, files[kind].pop(0)),
            caption=caption,
            embedding=resolve_path(folder, embedding) if embedding else None,
        )
        parts += [before, medium] if before else [medium]
    if rest.strip():
        parts.append(rest.strip())
    return tuple(parts)


def write_new(dialogue: Dialogue, folder: Path) -> Mapping[str, Any]:
    """Write one record of the rewritten line.

    Raises:
        ManifestError: what it has no place for: codes, system turns, stretches, text that looks like a mark.
    """
    row: dict[str, Any] = {"id": dialogue.id}
    turns = []
    for turn in dialogue.turns:
        side = "input" if _from(turn) == "human" else "output"
        if any(f"<{kind}>" in turn.text for kind in KINDS):
            raise ManifestError("a text holds <image>, <video> or <audio>, which mark the places of media")
        words = []
        for part in turn.parts:
            if isinstance(part, str):
                words.append(part)
                continue
            medium = next(each for each in _media_of(turn) if each is part)
            words.append(f"<{medium.kind}>\n" if side == "input" else f"<{medium.kind}>")
            row.setdefault(f"{side}_{medium.kind}", []).append(_whole(medium, folder))
            if side == "output":
                _describe(row, medium, folder)
        turns.append({"from": _from(turn), "value": " ".join(words).replace("\n ", "\n").strip()})
    return {key: value[0] if isinstance(value, list) and len(value) == 1 else value for key, value in row.items()} | {
        "conversations": turns
    }


def _describe(row: dict[str, Any], medium: Media, folder: Path) -> None:
    for key, value in (
        (f"{medium.kind}_captions", medium.caption),
        (f"{medium.kind}_caption_embeddings", medium.embedding and relative_to_folder(medium.embedding, folder)),
    ):
        if value:
            row.setdefault(key, []).append(value)
