"""How close translations are to their references: BLEU, chrF and TER over a corpus, by sacrebleu."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

BleuTokenizer = Literal["13a", "intl", "zh", "char", "none"]
"""How sacrebleu cuts words: 13a for European languages, zh or char for those written without blanks."""


@dataclass(frozen=True, kw_only=True)
class Bleu:
    """BLEU of a corpus (Papineni et al., 2002), and what it is made of."""

    score: float
    """0 to 100."""
    precisions: tuple[float, ...]
    """Percentages of n-grams of 1 to 4 words that the reference has."""
    brevity_penalty: float
    """Below 1 when the hypotheses are shorter than the references."""
    hypothesis_length: int
    reference_length: int
    counts: tuple[int, ...]
    """n-grams that were found in the reference."""
    totals: tuple[int, ...]
    """n-grams of the hypotheses."""


def bleu(
    hypotheses: Sequence[str],
    references: Sequence[str],
    *,
    tokenize: BleuTokenizer = "13a",
    lowercase: bool = False,
) -> Bleu:
    """BLEU of a corpus with one reference each, exponentially smoothed (sacrebleu's defaults, Post, 1804.08771)."""
    from sacrebleu.metrics.bleu import BLEU

    found = BLEU(tokenize=tokenize, lowercase=lowercase).corpus_score(*_corpus(hypotheses, references))
    return Bleu(
        score=float(found.score),
        precisions=tuple(map(float, found.precisions)),
        brevity_penalty=float(found.bp),
        hypothesis_length=int(found.sys_len),
        reference_length=int(found.ref_len),
        counts=tuple(map(int, found.counts)),
        totals=tuple(map(int, found.totals)),
    )


def sentence_bleu(hypothesis: str, reference: str, *, tokenize: BleuTokenizer = "13a") -> float:
    """BLEU of one sentence over the n-gram orders that it has (effective order)."""
    from sacrebleu.metrics.bleu import BLEU

    return float(BLEU(tokenize=tokenize, effective_order=True).sentence_score(hypothesis, [reference]).score)


def chrf(hypotheses: Sequence[str], references: Sequence[str], *, word_order: int = 0) -> float:
    """F-score of character n-grams (Popović, 2015), 0 to 100; with `word_order` 2 it is chrF++."""
    from sacrebleu.metrics.chrf import CHRF

    return float(CHRF(word_order=word_order).corpus_score(*_corpus(hypotheses, references)).score)


def ter(hypotheses: Sequence[str], references: Sequence[str]) -> float:
    """Translation edit rate (Snover et al., 2006) in percent: edits and shifts per reference word."""
    from sacrebleu.metrics.ter import TER

    return float(TER().corpus_score(*_corpus(hypotheses, references)).score)


def _corpus(hypotheses: Sequence[str], references: Sequence[str]) -> tuple[list[str], list[list[str]]]:
    if len(hypotheses) != len(references) or not hypotheses:
        raise ValueError(
            f"{len(hypotheses)} hypotheses and {len(references)} references: one reference each is wanted, and at "
            "least one pair"
        )
    return list(hypotheses), [list(references)]
