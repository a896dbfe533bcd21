"""The ids of SpeechGPT: the language model's own, the units, their two marks, and from the second stage four markers.

With Llama's 32,000 ids that makes 33,002 after the first stage and 33,006 after the second. `[ta]`, `[ua]` and `<eoa>`
are ordinary text.
"""

from voder.sequence.grown import GrownVocabulary
from voder.sequence.spans import SpanKind, SpanLayout

UNITS = "speech"
MARKERS = ("[Human]", "[SpeechGPT]", "<eoh>", "<eos>")
"""Ids behind the units, in this order, from the second stage on."""


class SpeechGptVocabulary(GrownVocabulary):
    """Which id is what."""

    def __init__(self, text_size: int, num_units: int, *, markers: bool = True) -> None:
        self.text_size, self.num_units = text_size, num_units
        start = text_size + num_units
        self.markers = {name: start + 2 + number for number, name in enumerate(MARKERS if markers else ())}
        self.size = start + 2 + len(self.markers)
        kind = SpanKind(name=UNITS, first=text_size, size=num_units, start=start, end=start + 1)
        self.layout = SpanLayout([kind], self.size)

    @property
    def units(self) -> SpanKind:
        """The stretch of units."""
        return self.layout[UNITS]

    @property
    def tokens(self) -> tuple[str, ...]:
        """What the added ids are called in the published tokenizer, in the order of their ids."""
        return (*(f"<{unit}>" for unit in range(self.num_units)), "<sosp>", "<eosp>", *self.markers)
