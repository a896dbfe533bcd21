"""Closed-ended evaluation from what was said: which of several labels a free answer means.

The authors compare an answer with every label by stems and sentence embeddings. Here words count by their stems; an
answer that says a label word for word means it.
"""

import re
from collections.abc import Sequence

from voder.errors import TextError
from voder.text.normalize import normalize_words

_ENDINGS = re.compile(r"(?<=\w{3})(ing|ed|es|s|er|ers|ly)$")


def stems(text: str) -> frozenset[str]:
    """Words without their common English endings."""
    return frozenset(_ENDINGS.sub("", word) for word in normalize_words(text.replace("_", " ")).split())


def match_label(answer: str, labels: Sequence[str]) -> str | None:
    """The label whose stems the answer shares most (by Jaccard index); None where it shares none with any.

    Raises:
        TextError: no label.
    """
    if not labels:
        raise TextError("there are no labels to match an answer with")
    said, plain = stems(answer), normalize_words(answer)

    def nearness(label: str) -> tuple[float, float, int]:
        words = stems(label)
        whole = normalize_words(label.replace("_", " "))
        spoken = bool(whole) and f" {whole} " in f" {plain} "
        shared = len(said & words) / max(1, len(said | words))
        return float(whole == plain), float(spoken) + shared, len(whole)

    best = max(labels, key=nearness)
    return best if nearness(best)[:2] > (0.0, 0.0) else None
