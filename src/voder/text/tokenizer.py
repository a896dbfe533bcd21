"""A tokenizer of symbols: every character, or every word, is one id."""

from collections.abc import Iterable, Sequence
from typing import Literal

from voder.errors import TextError
from voder.text.normalize import spell

Unit = Literal["characters", "words"]


class SymbolTokenizer:
    """Ids from 0 in the order of `symbols`. Words are parted by white space."""

    def __init__(self, symbols: Sequence[str], unit: Unit = "characters") -> None:
        if len(set(symbols)) != len(symbols):
            raise ValueError(f"symbols repeat: {sorted({s for s in symbols if list(symbols).count(s) > 1})}")
        self.symbols = tuple(symbols)
        self.unit = unit
        self._ids = {symbol: number for number, symbol in enumerate(self.symbols)}

    @classmethod
    def fit(cls, texts: Iterable[str], unit: Unit = "characters") -> "SymbolTokenizer":
        """Collect the symbols of texts, sorted."""
        found: set[str] = set()
        for text in texts:
            found.update(split(text, unit))
        return cls(sorted(found), unit)

    def __len__(self) -> int:
        return len(self.symbols)

    def encode(self, text: str) -> list[int]:
        """Ids of a text.

        Raises:
            TextError: characters or words that nobody has taught; names them.
        """
        pieces = split(text, self.unit)
        unknown = sorted({piece for piece in pieces if piece not in self._ids})
        if unknown:
            shown = ", ".join(repr(piece) for piece in unknown[:10]) + (", …" if len(unknown) > 10 else "")
            known = ", ".join(repr(symbol) for symbol in self.symbols[:40]) + (", …" if len(self) > 40 else "")
            raise TextError(f"{text[:60]!r} has {self.unit} that this model does not know: {shown}; it knows {known}")
        return [self._ids[piece] for piece in pieces]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of ids."""
        return ("" if self.unit == "characters" else " ").join(self.symbols[i] for i in ids)


def split(text: str, unit: Unit) -> list[str]:
    """The symbols of a text."""
    clean = spell(text)
    return list(clean) if unit == "characters" else clean.split()
