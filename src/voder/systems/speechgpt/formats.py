"""SpeechInstruct, the authors' data: JSON lines of `prefix` and `plain_text`, read into dialogues and written back.

In a dialogue the human's speech is a part of codes. In the chain of modality (task `chain`) what was said stands
behind it as text; in the cross-modal part (task `instruct`) text in front of it, or alone, is the instruction.
"""

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from voder.data.dialogue import Codes, Dialogue, DialogueTurn, Part, content_id, text_field
from voder.errors import ManifestError
from voder.systems.speechgpt.prompt import END_OF_ANSWER, TEXT_ANSWER, UNIT_ANSWER

_LINE = re.compile(r"\[Human\]: (?P<question>.*?) ?<eoh>(?P<dot>\.?) \[SpeechGPT\]: (?P<answer>.*)", re.DOTALL)
_SPEECH = re.compile(r"<sosp>((?:<\d+>)*)<eosp>")


def read_record(row: Mapping[str, Any], folder: Path) -> Dialogue:
    """One line of SpeechInstruct.

    Raises:
        ManifestError: not of that form, or a stretch of units that does not end.
    """
    line = text_field(row, "plain_text", required=True) or ""
    found = _LINE.fullmatch(line)
    if found is None:
        raise ManifestError("plain_text must read [Human]: … <eoh> [SpeechGPT]: …")
    answer = found["answer"].rstrip(" ").removesuffix(".").removesuffix(END_OF_ANSWER)
    if END_OF_ANSWER not in found["answer"]:
        raise ManifestError(f"plain_text does not end with {END_OF_ANSWER}")
    chain = bool(found["dot"])
    question = _parts(found["question"])
    if chain and isinstance(question[0], Codes):
        transcript, tag, answer = answer.partition(TEXT_ANSWER)
        if not tag:
            raise ManifestError(f"the answer to speech lacks {TEXT_ANSWER.strip()}")
        question = [*question, transcript]
    turns = [DialogueTurn(role="user", parts=tuple(question))]
    said = _parts(answer.replace(UNIT_ANSWER, "") if chain else answer)
    turns.append(DialogueTurn(role="assistant", parts=tuple(said)))
    if prefix := text_field(row, "prefix"):
        turns.insert(0, DialogueTurn(role="system", parts=(prefix,)))
    return Dialogue(
        id=text_field(row, "id") or content_id(row),
        turns=tuple(turns),
        task="chain" if chain else "instruct",
        source="SpeechInstruct",
    )


def write_record(dialogue: Dialogue, folder: Path) -> dict[str, Any]:
    """One line of SpeechInstruct.

    Raises:
        ManifestError: more than one exchange, or parts that are neither text nor speech codes.
    """
    turns = list(dialogue.turns)
    prefix = turns.pop(0).text if turns[0].role == "system" else ""
    if [turn.role for turn in turns] != ["user", "assistant"]:
        raise ManifestError("SpeechInstruct holds one question and one answer a line")
    question, answer = (list(turn.parts) for turn in turns)
    chain = dialogue.task == "chain"
    transcript = ""
    if chain and isinstance(question[0], Codes):
        transcript, question = f"{' '.join(map(str, question[1:]))}{TEXT_ANSWER}", question[:1]
    asked = _spelled(question)
    blank = " " if chain and not isinstance(question[-1], Codes) else ""
    tag = UNIT_ANSWER if chain and len(answer) > 1 else ""
    said = transcript + tag.join(_spelled([part]) for part in answer)
    middle, end = (".", ".") if chain else ("", " ")
    text = f"[Human]: {asked}{blank}<eoh>{middle} [SpeechGPT]: {said}{END_OF_ANSWER}{end}"
    return {"prefix": prefix, "plain_text": text}


def _parts(text: str) -> list[Part]:
    parts: list[Part] = []
    for number, piece in enumerate(_SPEECH.split(text)):
        if number % 2:
            units = tuple(int(unit) for unit in re.findall(r"\d+", piece))
            parts.append(Codes(modality="speech", codes=units))
        elif "<sosp>" in piece or "<eosp>" in piece:
            raise ManifestError("a stretch of units has no end, no start, or something else in it")
        elif piece:
            parts.append(piece)
    if not parts:
        raise ManifestError("a question or an answer is empty")
    return parts


def _spelled(parts: Sequence[Part]) -> str:
    said = ""
    for part in parts:
        if isinstance(part, str):
            said += part
        elif isinstance(part, Codes) and part.modality == "speech":
            said += "<sosp>" + "".join(f"<{unit}>" for unit in part.codes) + "<eosp>"
        else:
            raise ManifestError("SpeechInstruct holds text and speech units alone; encode recordings first")
    return said
