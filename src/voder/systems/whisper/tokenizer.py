"""Whisper's vocabulary: byte pairs by published rank, then the special ids in a fixed order.

    ranks, <|endoftext|>, <|startoftranscript|>, languages, <|translate|>, <|transcribe|>, <|startoflm|>,
    <|startofprev|>, <|nospeech|>, <|notimestamps|>, <|0.00|> to <|30.00|> in steps of 20 ms

English-only models use GPT-2's ranks, the others ranks of their own. The tables in `tables/` are OpenAI's, under the
MIT licence beside them. Merging (Sennrich et al., 1508.07909) is done here; no tokenizer library is loaded.
"""

import base64
import gzip
import string
from collections.abc import Iterable, Sequence
from functools import cached_property, lru_cache
from itertools import pairwise
from pathlib import Path
from typing import Literal

from voder.config import nearest
from voder.errors import ConfigError, TextError
from voder.systems.whisper.languages import CODES, NAMES, UNSPACED

TABLES = Path(__file__).parent / "tables"
SECONDS_PER_TIMESTAMP = 0.02
NUM_TIMESTAMPS = 1501
# contractions, words, numbers and symbols with one space before them, and white space: GPT-2's way to cut text
_PIECES = r"'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_NOTES = "♩♪♫♬♭♮♯"
_UNSPOKEN = (
    *'"#()*+/:;<=>@[\\]^_`{|}~「」『』',
    *("<<", ">>", "<<<", ">>>", "--", "---", "-(", "-[", "('", '("', "((", "))", "(((", ")))", "[[", "]]", "{{", "}}"),
    *("♪♪", "♪♪♪"),
    *_NOTES,
)


@lru_cache(maxsize=2)
def read_ranks(name: Literal["gpt2", "multilingual"]) -> dict[bytes, int]:
    """The published table: a byte string and its rank on each line."""
    lines = gzip.decompress((TABLES / f"{name}.tiktoken.gz").read_bytes()).splitlines()
    return {base64.b64decode(token): int(rank) for token, rank in (line.split() for line in lines if line)}


def merge(piece: bytes, ranks: dict[bytes, int]) -> list[int]:
    """Join the neighbours of lowest rank until none can be joined."""
    if piece in ranks:
        return [ranks[piece]]
    parts = [piece[i : i + 1] for i in range(len(piece))]
    while len(parts) > 1:
        pairs = [ranks.get(a + b, 1 << 30) for a, b in pairwise(parts)]
        best = min(range(len(pairs)), key=pairs.__getitem__)
        if pairs[best] == 1 << 30:
            break
        parts[best : best + 2] = [parts[best] + parts[best + 1]]
    return [ranks[part] for part in parts]


class WhisperTokenizer:
    """Text and ids of one vocabulary, for one language and task."""

    def __init__(
        self,
        vocabulary_size: int,
        *,
        language: str | None = None,
        task: Literal["transcribe", "translate"] | None = None,
    ) -> None:
        """`language` is a code or a name; multilingual vocabularies take English and transcription if not told.

        Raises:
            ConfigError: a language or task that the vocabulary does not have; the nearest language is offered.
        """
        multilingual = vocabulary_size > 51_864
        if not multilingual and (task == "translate" or (language or "en").lower() not in ("en", "english")):
            raise ConfigError(
                f"an English-only Whisper was asked for language {language!r} and task {task!r}; "
                "it only transcribes English"
            )
        self.multilingual, self.vocabulary_size = multilingual, vocabulary_size
        self.ranks = read_ranks("multilingual" if multilingual else "gpt2")
        self.codes = CODES[: vocabulary_size - 51_765 - int(multilingual)]
        self.language = self.find_language(language or "en") if multilingual else None
        self.task: str | None = (task or "transcribe") if multilingual else None
        first = len(self.ranks)
        self.eot, self.sot = first, first + 1
        after = first + 2 + len(self.codes)
        self.translate, self.transcribe, self.sot_lm, self.sot_prev = range(after, after + 4)
        self.no_speech, self.no_timestamps, self.timestamp_begin = range(after + 4, after + 7)
        names = ("translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps")
        self.specials = ["endoftext", "startoftranscript", *self.codes, *names]

    def find_language(self, name: str) -> str:
        """The code of a language given by code or English name."""
        code = NAMES.get(name.lower(), name.lower())
        if code not in self.codes:
            raise ConfigError(f"this Whisper knows no language {name!r}{nearest(code, [*self.codes, *NAMES])}")
        return code

    @property
    def language_ids(self) -> tuple[int, ...]:
        """Ids of the languages, in the order of `codes`."""
        return tuple(range(self.sot + 1, self.sot + 1 + len(self.codes)))

    @property
    def prompt(self) -> tuple[int, ...]:
        """What every answer begins with: start, language, task."""
        if self.language is None:
            return (self.sot,)
        task = self.translate if self.task == "translate" else self.transcribe
        return (self.sot, self.language_ids[self.codes.index(self.language)], task)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            TextError: the text spells a special token: it would be taken for an instruction.
        """
        import regex  # type: ignore[import-untyped]

        if "<|" in text and (found := next((s for s in self.specials if f"<|{s}|>" in text), None)):
            raise TextError(f"the text holds the special token <|{found}|>; take it out")
        ids: list[int] = []
        for piece in regex.findall(_PIECES, text):
            ids += _merged(piece.encode(), self.multilingual)
        return ids

    def decode(self, ids: Sequence[int]) -> str:
        """Text of ids; timestamps are left out, broken characters become U+FFFD."""
        return self._bytes(i for i in ids if i < self.timestamp_begin).decode("utf-8", errors="replace")

    def decode_with_timestamps(self, ids: Sequence[int]) -> str:
        """Text of ids with timestamps spelt `<|1.54|>`."""
        return self._bytes(ids).decode("utf-8", errors="replace")

    def _bytes(self, ids: Iterable[int]) -> bytes:
        return b"".join(self._token(int(i)) for i in ids)

    def _token(self, id_: int) -> bytes:
        if id_ < self.eot:
            return self._tokens[id_]
        if id_ < self.timestamp_begin:
            return f"<|{self.specials[id_ - self.eot]}|>".encode()
        return f"<|{(id_ - self.timestamp_begin) * SECONDS_PER_TIMESTAMP:.2f}|>".encode()

    @cached_property
    def _tokens(self) -> list[bytes]:
        return sorted(self.ranks, key=self.ranks.__getitem__)

    @cached_property
    def unspoken_ids(self) -> tuple[int, ...]:
        """Ids of symbols that nobody says: annotations of a caption, not words. A hyphen or apostrophe inside a word
        stays allowed; of a musical note the first byte pair is enough."""
        found = {self.encode(" -")[0], self.encode(" '")[0]}
        for symbol in _UNSPOKEN:
            for ids in (self.encode(symbol), self.encode(" " + symbol)):
                if len(ids) == 1 or symbol in _NOTES:
                    found.add(ids[0])
        return tuple(sorted(found))

    def split_words(self, ids: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """Words and the ids of each: at spaces and punctuation, or at every character where words have no spaces."""
        texts, groups = self._split_characters(ids)
        if self.language in UNSPACED:
            return texts, groups
        words: list[str] = []
        word_ids: list[list[int]] = []
        for text, group in zip(texts, groups, strict=True):
            stands_alone = group[0] >= self.eot or text.startswith(" ") or text.strip() in string.punctuation
            if stands_alone or not words:
                words.append(text)
                word_ids.append(list(group))
            else:
                words[-1] += text
                word_ids[-1] += group
        return words, word_ids

    def _split_characters(self, ids: Sequence[int]) -> tuple[list[str], list[list[int]]]:
        """The shortest runs of ids that spell whole characters."""
        whole = self.decode_with_timestamps(ids)
        texts: list[str] = []
        groups: list[list[int]] = []
        run: list[int] = []
        offset = 0
        for id_ in ids:
            run.append(id_)
            text = self.decode_with_timestamps(run)
            broken = text.find("\ufffd")
            if broken < 0 or whole[offset + broken : offset + broken + 1] == "\ufffd":
                texts.append(text)
                groups.append(run)
                offset += len(text)
                run = []
        return texts, groups


@lru_cache(maxsize=65_536)
def _merged(piece: bytes, multilingual: bool) -> tuple[int, ...]:
    return tuple(merge(piece, read_ranks("multilingual" if multilingual else "gpt2")))
