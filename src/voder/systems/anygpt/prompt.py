"""How AnyGPT lays pairs and conversations out in ids.

    [Human]: instruction <soim>…<eoim><eoh> [MMGPT]: text<eos>                        a pair, read
    [Human]: instruction This is input: text<eoh> [MMGPT]: <soim>…<eoim><eos>         a pair, made
    SYSTEM\\n[Human]: …<eoh>\\n[MMGPT]: <-Ins-> transcript\\n <-Res-> text <sosp>…<eosp><eos>\\n[Human]: …

Blanks beside markers are kept, as the tokenizer of the published checkpoints (transformers 4.34 and later) keeps them.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import groupby

from voder.sequence.spans import Exchange, Piece
from voder.systems.anygpt.vocabulary import AnyGptVocabulary
from voder.train.lm_rows import IGNORED, Row

Encode = Callable[[str], list[int]]

SYSTEM = (
    "You are an AI assistant named MMGPT who can understand and generate multimodal content, including text, speech, "
    "images and audio."
)
"""What the published chat model expects at the beginning, word for word."""
INPUT = "This is input: "
READ = {
    "speech": ("Write down what is said.", "Which words do you hear?", "Turn this speech into text."),
    "image": ("Describe this picture.", "What can be seen here?", "Put this image into words."),
    "music": ("Describe this music.", "What does this piece sound like?", "Which style of music is this?"),
    "audio": ("Describe this sound.", "What can be heard here?", "Where could this sound come from?"),
}
"""Ways to ask for text of something; the first one of each is used when the model works."""
MAKE = {
    "speech": ("Read this text aloud.", "Say the following sentence.", "Let me hear these words."),
    "image": ("Draw what the text says.", "Make a picture of this.", "Show me this scene."),
    "music": ("Play music like this.", "Compose a piece of this kind.", "Make music that fits the words."),
    "audio": ("Make this sound.", "Let me hear this.", "Produce the sound that is described."),
}
"""Ways to ask for something made of a text; the first one of each is used when the model works."""


def pair_question(kind: str, instruction: str, given: Sequence[int] | str) -> list[Piece]:
    """What is asked for of codes (read) or of a text (made)."""
    if isinstance(given, str):
        return [f"{instruction} {INPUT}{given}"]
    return [f"{instruction} ", (kind, tuple(given))]


def pair(vocabulary: AnyGptVocabulary, question: Sequence[Piece], answer: Sequence[Piece] | None) -> list[Piece]:
    """A pair as the first stage reads it; without an answer, up to where it begins."""
    marks = vocabulary.markers
    begun: list[Piece] = [marks["[Human]"], ": ", *question, marks["<eoh>"], " ", marks["[MMGPT]"], ":"]
    return begun if answer is None else [*begun, " ", *answer, marks["<eos>"]]


def chain(vocabulary: AnyGptVocabulary, transcript: str, text: str, units: Sequence[int] | None) -> list[Piece]:
    """An answer to speech: what was heard, the answer as text and, where there is any, as speech."""
    marks = vocabulary.markers
    pieces: list[Piece] = [marks["<-Ins->"], f" {transcript}\n ", marks["<-Res->"], f" {text}"]
    return pieces if units is None else [*pieces, " ", ("speech", tuple(units))]


def conversation(vocabulary: AnyGptVocabulary, exchanges: Sequence[Exchange], system: str = SYSTEM) -> list[Piece]:
    """A conversation as the second stage reads it; the last answer may be missing."""
    marks = vocabulary.markers
    pieces: list[Piece] = [f"{system}\n"]
    for number, (question, answer) in enumerate(exchanges):
        pieces += ["\n"] if number else []
        pieces += [marks["[Human]"], ": ", *question, marks["<eoh>"], "\n", marks["[MMGPT]"], ":"]
        if answer is not None:
            pieces += [" ", *answer, marks["<eos>"]]
    return pieces


def answers_only(ids: Sequence[int], vocabulary: AnyGptVocabulary, encode: Encode) -> Row:
    """A conversation whose answers carry loss, their ends included, and nothing else."""
    marks, colon = vocabulary.markers, len(encode(":"))
    labels, at = [IGNORED] * len(ids), 0
    while marks["[MMGPT]"] in ids[at:]:
        begin = ids.index(marks["[MMGPT]"], at) + 1 + colon
        end = ids.index(marks["<eos>"], begin) + 1 if marks["<eos>"] in ids[begin:] else len(ids)
        end = len(ids) if end == len(ids) - 1 and marks["[MMGPT]"] not in ids[end:] else end  # the end of text too
        labels[begin:end] = ids[begin:end]
        at = end
    return Row(ids=list(ids), labels=labels)


@dataclass(frozen=True, kw_only=True)
class AnyAnswer:
    """An answer taken apart."""

    transcript: str
    """What the model says it heard."""
    text: str
    """Its answer as text."""
    stretches: tuple[tuple[str, tuple[int, ...]], ...]
    """Kinds and codes of what it made, those that are whole."""


def read_answer(ids: Sequence[int], vocabulary: AnyGptVocabulary, decode: Callable[[Sequence[int]], str]) -> AnyAnswer:
    """Take the ids of an answer apart."""
    places = {"<-Ins->": "transcript", "<-Res->": "text"}
    begins = {vocabulary.markers[mark]: place for mark, place in places.items() if mark in vocabulary.markers}
    said: dict[str, list[str]] = {"transcript": [], "text": []}
    stretches = []
    place = "text"
    for segment in vocabulary.layout.segments(ids):
        if segment.kind is not None:
            stretches += [(segment.kind, segment.ids)] if segment.closed and segment.ids else []
            continue
        for is_text, found in groupby(segment.ids, lambda id_: id_ < vocabulary.text_size):
            run = list(found)
            if is_text:
                said[place].append(decode(run))
            else:
                place = next((begins[id_] for id_ in reversed(run) if id_ in begins), place)
    words = {name: " ".join(part.strip() for part in parts if part.strip()) for name, parts in said.items()}
    return AnyAnswer(transcript=words["transcript"], text=words["text"], stretches=tuple(stretches))


def published_pieces(text: str, vocabulary: AnyGptVocabulary) -> list[Piece]:
    """A text of the authors, in which markers and codes are spelled out, as pieces."""
    names = vocabulary.named()
    return [names.get(part, part) for part in re.split(rf"({_spelled(vocabulary)})", text) if part]


def _spelled(vocabulary: AnyGptVocabulary) -> str:
    fixed = [token for token in vocabulary.tokens if not re.search(r"\d>$", token)]
    return "|".join((*map(re.escape, fixed), r"<[^<>a-zA-Z\s\d]+\d+>"))
