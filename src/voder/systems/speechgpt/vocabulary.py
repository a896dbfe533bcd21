"""The ids of SpeechGPT: the language model's own, the units, their two marks, and from the second stage four markers.

With Llama's 32,000 ids that makes 33,002 after the first stage and 33,006 after the second. `[ta]`, `[ua]` and `<eoa>`
are ordinary text.
"""

from collections.abc import Sequence

from voder.sequence.spans import SpanKind, SpanLayout

UNITS = "speech"
MARKERS = ("[Human]", "[SpeechGPT]", "<eoh>", "<eos>")
"""Ids behind the units, in this order, from the second stage on."""


def grown_size(text_size: int, num_units: int, *, markers: bool) -> int:
    """Ids of the grown vocabulary."""
    return text_size + num_units + 2 + (len(MARKERS) if markers else 0)


class SpeechGptVocabulary:
    """Which id is what."""

    def __init__(self, text_size: int, num_units: int, *, markers: bool = True) -> None:
        self.text_size, self.num_units = text_size, num_units
        self.size = grown_size(text_size, num_units, markers=markers)
        start = text_size + num_units
        kind = SpanKind(name=UNITS, first=text_size, size=num_units, start=start, end=start + 1)
        self.layout = SpanLayout([kind], self.size)
        self.markers = {name: start + 2 + number for number, name in enumerate(MARKERS if markers else ())}

    @property
    def units(self) -> SpanKind:
        """The stretch of units."""
        return self.layout[UNITS]

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the added ids are called in the published tokenizer, in the order of their ids."""
        return (*(f"<{unit}>" for unit in range(self.num_units)), "<sosp>", "<eosp>", *self.markers)

    def spell(self, ids: Sequence[int]) -> str:
        """Units and marks as the authors write them."""
        return "".join(self.tokens[id_ - self.text_size] for id_ in ids if id_ >= self.text_size)
