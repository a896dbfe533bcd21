"""The ids of a language model whose vocabulary has grown: its own, and behind them markers and codes of stretches."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import groupby

from voder.sequence.spans import SpanLayout


class GrownVocabulary(ABC):
    """Which id is what; a system lays its own out."""

    text_size: int
    """Ids of the language model before it grew."""
    size: int
    """All ids."""
    layout: SpanLayout
    """The stretches of codes."""
    markers: Mapping[str, int]
    """Ids that are neither text nor of a stretch."""

    @property
    @abstractmethod
    def tokens(self) -> tuple[str, ...]:
        """What the added ids are called in the published tokenizer, in the order of their ids."""

    def named(self) -> dict[str, int]:
        """The added ids by their names."""
        return {token: self.text_size + number for number, token in enumerate(self.tokens)}

    def spell(self, ids: Iterable[int], decode: Callable[[Sequence[int]], str]) -> str:
        """A row as the authors write it: text decoded, codes and markers by name."""
        names, said = self.tokens, ""
        for is_text, found in groupby(ids, lambda id_: id_ < self.text_size):
            run = list(found)
            said += decode(run) if is_text else "".join(names[id_ - self.text_size] for id_ in run)
        return said
