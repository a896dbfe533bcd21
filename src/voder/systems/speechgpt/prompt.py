"""How SpeechGPT lays a conversation out in ids, and how its chain of modality is read off them.

    PREFIX [Human]: question <eoh>. [SpeechGPT]: transcript; [ta] answer; [ua] <sosp>…<eosp><eoa> </s>

Blanks beside a marker are dropped, as the tokenizer of the published checkpoints (transformers before 4.34) dropped
them, so that there is exactly one way to write a marker.
"""

import re
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from voder.sequence.spans import Piece, joined
from voder.systems.speechgpt.vocabulary import UNITS, SpeechGptVocabulary

Encode = Callable[[str], list[int]]

PREFIX = (
    "You are an AI assistant whose name is SpeechGPT.\n- SpeechGPT is a intrinsic cross-modal conversational language "
    "model that is developed by Fudan University.  SpeechGPT can understand and communicate fluently with human "
    "through speech or text chosen by the user.\n"
    "- It can perceive cross-modal inputs and generate cross-modal outputs.\n"
)
"""What the published checkpoints expect at the beginning, word for word."""
TEXT_ANSWER, UNIT_ANSWER, END_OF_ANSWER = "; [ta] ", "; [ua] ", "<eoa>"
RECOGNISE = (
    "Write down what is said here. This is input: ",
    "Please transcribe this recording. This is input: ",
    "Which words do you hear? This is input: ",
    "Turn the speech into text. This is input: ",
    "Note the spoken sentence. This is input: ",
)
"""Ways to ask for a transcript; the first one is used when the model works."""
SPEAK = (
    "Read this sentence aloud. This is input: ",
    "Say the following text. This is input: ",
    "Please turn these words into speech. This is input: ",
    "Let me hear this sentence. This is input: ",
    "Pronounce the text. This is input: ",
)
"""Ways to ask for speech; the first one is used when the model works."""


def lay(pieces: Iterable[Piece], vocabulary: SpeechGptVocabulary, encode: Encode) -> list[int]:
    """Ids of pieces, without the blanks beside markers and stretches."""
    whole = joined(pieces)
    last = len(whole) - 1
    trimmed: list[Piece] = []
    for number, piece in enumerate(whole):
        if isinstance(piece, str):
            piece = piece if number == 0 else piece.lstrip()
            piece = piece if number == last else piece.rstrip()
        trimmed.append(piece)
    return vocabulary.layout.lay(trimmed, encode)


def turn(vocabulary: SpeechGptVocabulary, question: Sequence[Piece], answer: Sequence[Piece] | None) -> list[Piece]:
    """One exchange; without an answer, up to where it begins."""
    marks = vocabulary.markers
    begun: list[Piece] = [marks["[Human]"], ": ", *question, " ", marks["<eoh>"], ". ", marks["[SpeechGPT]"], ": "]
    return begun if answer is None else [*begun, *answer, END_OF_ANSWER]


def speech(units: Sequence[int]) -> Piece:
    """A stretch of units."""
    return (UNITS, tuple(units))


def chain(*, text: str | None = None, transcript: str | None = None, units: Sequence[int] | None = None) -> list[Piece]:
    """An answer: what was heard, the answer as text, the answer as speech, as far as each is there."""
    if text is None:
        return [] if units is None else [speech(units)]
    pieces: list[Piece] = [text if transcript is None else f"{transcript}{TEXT_ANSWER}{text}"]
    return pieces if units is None else [*pieces, UNIT_ANSWER, speech(units)]


def told(pieces: Sequence[Piece]) -> list[Piece]:
    """An answer of the history as the model gives it: speech behind text has its tag."""
    found: list[Piece] = []
    for piece in pieces:
        if isinstance(piece, tuple) and found and isinstance(found[-1], str):
            found.append(UNIT_ANSWER)
        found.append(piece)
    return found


def published_pieces(text: str, vocabulary: SpeechGptVocabulary) -> list[Piece]:
    """A line of the authors' data, in which markers and units are spelled out, as pieces."""
    marks = {"<s>": 1, "</s>": 2, **vocabulary.markers}
    spelled = "|".join(re.escape(name) for name in ("<sosp>", "<eosp>", *marks))
    kind = vocabulary.units
    pieces: list[Piece] = []
    for part in re.split(rf"({spelled}|<\d+>)", text):
        if part in marks:
            pieces.append(marks[part])
        elif part in ("<sosp>", "<eosp>"):
            pieces.append(kind.start if part == "<sosp>" else kind.end)
        elif re.fullmatch(r"<(0|[1-9]\d*)>", part) and int(part[1:-1]) < kind.size:
            pieces.append(kind.first + int(part[1:-1]))
        elif part:
            pieces.append(part)
    return pieces


@dataclass(frozen=True, kw_only=True)
class ChainAnswer:
    """An answer taken apart."""

    question: str = ""
    """The human's part, units spelled out."""
    answer: str = ""
    """All of the answer, units spelled out."""
    transcript: str = ""
    """What was heard."""
    text: str = ""
    """The answer as text."""
    units: tuple[int, ...] | None = None
    """The answer as speech; None where there is none or it does not end."""


def read_answer(
    ids: Sequence[int], vocabulary: SpeechGptVocabulary, decode: Callable[[Sequence[int]], str]
) -> ChainAnswer:
    """Take the ids of an answer apart; tags are looked for in its text, speech in its ids."""
    said, units = "", None
    for segment in vocabulary.layout.segments(ids):
        if segment.kind is not None:
            said += "".join(f"<{unit}>" for unit in segment.ids).join(("<sosp>", "<eosp>" if segment.closed else ""))
            units = segment.ids if segment.closed and units is None else units
            continue
        said += decode([id_ for id_ in segment.ids if id_ < vocabulary.text_size])
        if END_OF_ANSWER in said:
            said = said.partition(END_OF_ANSWER)[0]
            break
    text_tag, unit_tag = TEXT_ANSWER.strip(), UNIT_ANSWER.strip()
    spoken = said.partition("<sosp>")[0].partition(unit_tag)[0]
    transcript, tagged, text = spoken.partition(text_tag)
    if not tagged:
        transcript, text = "", spoken
    return ChainAnswer(answer=said, transcript=transcript.strip(), text=text.strip(), units=units)


def read_turn(
    ids: Sequence[int], vocabulary: SpeechGptVocabulary, decode: Callable[[Sequence[int]], str]
) -> ChainAnswer:
    """The first whole exchange of a row of ids; empty where a marker is missing."""
    marks = vocabulary.markers
    try:
        human = ids.index(marks["[Human]"])
        end = ids.index(marks["<eoh>"], human)
        begin = ids.index(marks["[SpeechGPT]"], end)
    except ValueError:
        return ChainAnswer()
    found = read_answer(ids[begin + 1 :], vocabulary, decode)
    asked = ""
    for segment in vocabulary.layout.segments(ids[human + 1 : end]):
        codes = "".join(f"<{unit}>" for unit in segment.ids)
        asked += f"<sosp>{codes}<eosp>" if segment.kind else decode(segment.ids)
    without = {
        name: getattr(found, name).lstrip().removeprefix(":").strip() for name in ("answer", "transcript", "text")
    }
    return ChainAnswer(**{**vars(found), **without, "question": asked})
