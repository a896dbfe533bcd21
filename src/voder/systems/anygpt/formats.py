"""The authors' data: pairs of the first stage and conversations of the second, read into dialogues and written back.

pairs           {"text": "…", "speech": "<sosp>…<eosp>"}      also image, music, audio; codes spelled out
conversations   {"id": …, "conversation": [[{"role": "user", "message": "…"},
                                            {"role": "assistant", "message": "…"}], …]}
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

from voder.data.dialogue import Codes, Dialogue, DialogueTurn, Part, content_id, text_field
from voder.errors import ManifestError
from voder.systems.anygpt.vocabulary import MARKS, SPELLING, STRETCH, read_stretch

KINDS = tuple(SPELLING)


def read_pair(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """One pair: what is given as the user's, its text as the assistant's.

    Raises:
        ManifestError: no text, or not exactly one stretch of codes.
    """
    text = text_field(row, "text", required=True)
    given = [kind for kind in KINDS if row.get(kind)]
    if len(given) != 1:
        raise ManifestError(f"a pair has a text and one of {', '.join(KINDS)}; found {', '.join(given) or 'none'}")
    parts = _parts(text_field(row, given[0]) or "")
    if len(parts) != 1 or not isinstance(parts[0], Codes) or parts[0].modality != given[0]:
        raise ManifestError(f"{given[0]} must be one whole stretch of its codes")
    turns = (DialogueTurn(role="user", parts=tuple(parts)), DialogueTurn(role="assistant", parts=(text or "",)))
    return Dialogue(id=text_field(row, "id") or content_id(row), turns=turns, task="pair", source="AnyGPT")


def write_pair(dialogue: Dialogue, folder: Path) -> dict[str, Any]:
    """One pair.

    Raises:
        ManifestError: the dialogue is no pair of codes and text.
    """
    turns = dialogue.turns
    if [turn.role for turn in turns] != ["user", "assistant"] or len(turns[0].parts) != 1 or len(turns[1].parts) != 1:
        raise ManifestError("a pair is one stretch of codes and one text")
    given, text = turns[0].parts[0], turns[1].parts[0]
    if not isinstance(given, Codes) or not isinstance(text, str):
        raise ManifestError("a pair is one stretch of codes and one text; encode recordings and images first")
    return {"text": text, given.modality: _spelled([given])}


def read_conversation(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """One conversation.

    Raises:
        ManifestError: not of that form, or a stretch that does not end.
    """
    rounds = row.get("conversation")
    if not isinstance(rounds, list) or not rounds:
        raise ManifestError("conversation must be a list of exchanges, and not empty")
    turns = []
    for number, messages in enumerate(rounds, 1):
        if not isinstance(messages, list):
            raise ManifestError(f"exchange {number} must be a list of messages")
        for said in messages:
            role: Any = said.get("role") if isinstance(said, Mapping) else None
            if role not in ("user", "assistant"):
                raise ManifestError(f"exchange {number} has the role {role!r}; user and assistant are allowed")
            turns.append(DialogueTurn(role=role, parts=tuple(_parts(text_field(said, "message", required=True) or ""))))
    return Dialogue(id=text_field(row, "id") or content_id(row), turns=tuple(turns), task="chat", source="AnyGPT")


def write_conversation(dialogue: Dialogue, folder: Path) -> dict[str, Any]:
    """One conversation, two messages an exchange.

    Raises:
        ManifestError: the two do not take turns, or parts are neither text nor codes.
    """
    roles = [turn.role for turn in dialogue.turns]
    wanted: Sequence[Literal["user", "assistant"]] = ("user", "assistant")
    if len(roles) % 2 or roles != [*wanted] * (len(roles) // 2):
        raise ManifestError("user and assistant must take turns, without a system turn")
    messages = [{"role": turn.role, "message": _spelled(turn.parts)} for turn in dialogue.turns]
    return {"id": dialogue.id, "conversation": [messages[at : at + 2] for at in range(0, len(messages), 2)]}


def _parts(text: str) -> list[Part]:
    parts: list[Part] = []
    at = 0
    for found in STRETCH.finditer(text):
        parts += _plain(text[at : found.start()])
        stretch = read_stretch(found[0])
        if stretch is None:
            raise ManifestError(f"a stretch holds something else than its codes: {found[0][:40]}")
        kind: Any = stretch[0]
        if not stretch[1]:
            raise ManifestError(f"a stretch of {kind} is empty")
        parts.append(Codes(modality=kind, codes=stretch[1]))
        at = found.end()
    parts += _plain(text[at:])
    if not parts:
        raise ManifestError("a message is empty")
    return parts


def _plain(text: str) -> list[Part]:
    if any(mark in text for mark in MARKS):
        raise ManifestError(f"a stretch has no start or no end: {text[:40]}")
    return [text] if text else []


def _spelled(parts: Sequence[Part]) -> str:
    said = ""
    for part in parts:
        if isinstance(part, str):
            said += part
        elif isinstance(part, Codes):
            prefix, start, end = SPELLING[part.modality]
            said += start + "".join(f"<{prefix}{code}>" for code in part.codes) + end
        else:
            raise ManifestError("AnyGPT's data holds text and codes alone; encode recordings and images first")
    return said
