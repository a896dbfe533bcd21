"""Error rates of transcripts: edit counts pooled over a corpus, with confidence intervals."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import jiwer
import numpy as np

from voder.text.normalize import normalize_words


@dataclass(frozen=True, kw_only=True)
class EditCounts:
    """How a hypothesis differs from its reference."""

    hits: int = 0
    substitutions: int = 0
    deletions: int = 0
    insertions: int = 0

    @property
    def reference_length(self) -> int:
        """Words or characters of the reference."""
        return self.hits + self.substitutions + self.deletions

    @property
    def errors(self) -> int:
        """Edits that are needed."""
        return self.substitutions + self.deletions + self.insertions

    @property
    def rate(self) -> float:
        """Errors per word or character of the reference; insertions can bring it above 1. NaN without a reference."""
        return self.errors / self.reference_length if self.reference_length else float("nan")

    @property
    def hypothesis_length(self) -> int:
        """Words or characters of the hypothesis."""
        return self.hits + self.substitutions + self.insertions

    @property
    def match_error_rate(self) -> float:
        """Errors per aligned word (Morris et al., 2004): never above 1. NaN of two empty texts."""
        aligned = self.hits + self.errors
        return self.errors / aligned if aligned else float("nan")

    @property
    def information_preserved(self) -> float:
        """Share of the reference that is right times that of the hypothesis (WIP, Morris et al., 2004)."""
        product = self.reference_length * self.hypothesis_length
        return self.hits**2 / product if product else 0.0

    @property
    def information_lost(self) -> float:
        """1 minus what is preserved (WIL)."""
        return 1 - self.information_preserved

    def __add__(self, other: "EditCounts") -> "EditCounts":
        return EditCounts(
            hits=self.hits + other.hits,
            substitutions=self.substitutions + other.substitutions,
            deletions=self.deletions + other.deletions,
            insertions=self.insertions + other.insertions,
        )


def count_edits(
    reference: str, hypothesis: str, *, unit: Literal["words", "characters"] = "words", normalize: bool = True
) -> EditCounts:
    """Align one hypothesis with its reference (Levenshtein, by jiwer). With an empty one, all words are put in."""
    if normalize:
        reference, hypothesis = normalize_words(reference), normalize_words(hypothesis)
    if not reference:
        count = len(hypothesis.split()) if unit == "words" else len(hypothesis)
        return EditCounts(insertions=count)
    align = jiwer.process_words if unit == "words" else jiwer.process_characters
    made = align(reference, hypothesis)
    return EditCounts(
        hits=made.hits, substitutions=made.substitutions, deletions=made.deletions, insertions=made.insertions
    )


def corpus_edits(
    references: Sequence[str],
    hypotheses: Sequence[str],
    *,
    unit: Literal["words", "characters"] = "words",
    normalize: bool = True,
) -> list[EditCounts]:
    """Edit counts of every pair."""
    return [
        count_edits(reference, hypothesis, unit=unit, normalize=normalize)
        for reference, hypothesis in zip(references, hypotheses, strict=True)
    ]


def pooled(counts: Sequence[EditCounts]) -> EditCounts:
    """The sum of all counts: its `rate` is the corpus error rate."""
    return sum(counts, EditCounts())


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A bootstrap confidence interval."""

    low: float
    high: float


def bootstrap_rate(
    counts: Sequence[EditCounts], *, confidence: float = 0.95, rounds: int = 1000, seed: int = 0
) -> Interval:
    """Percentile interval of the corpus error rate when utterances are drawn again with replacement."""
    if not counts:
        raise ValueError("an interval needs at least one utterance")
    errors = np.array([c.errors for c in counts], dtype=np.float64)
    lengths = np.array([c.reference_length for c in counts], dtype=np.float64)
    drawn = np.random.default_rng(seed).integers(len(counts), size=(rounds, len(counts)))
    rates = errors[drawn].sum(1) / np.maximum(lengths[drawn].sum(1), 1.0)
    low, high = np.quantile(rates, [(1 - confidence) / 2, (1 + confidence) / 2])
    return Interval(low=float(low), high=float(high))


def shuffled_rate(references: Sequence[str], hypotheses: Sequence[str], *, seed: int = 0) -> float:
    """Word error rate when every hypothesis is held against another one's reference: what not listening costs."""
    if len(references) < 2:
        return float("nan")
    order = np.random.default_rng(seed).permutation(len(references))
    shuffled = {int(a): references[int(b)] for a, b in zip(order, np.roll(order, 1), strict=True)}
    return pooled(corpus_edits([shuffled[i] for i in range(len(references))], hypotheses)).rate


def random_rate(references: Sequence[str], *, seed: int = 0) -> float:
    """Word error rate of random words of the right number, drawn from the words of the references."""
    words = sorted({word for text in references for word in normalize_words(text).split()})
    if not words:
        return float("nan")
    rng = np.random.default_rng(seed)
    guesses = [
        " ".join(words[i] for i in rng.integers(len(words), size=len(normalize_words(text).split())))
        for text in references
    ]
    return pooled(corpus_edits(references, guesses)).rate
