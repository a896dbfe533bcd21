"""What a language model of speech knows: pairs of which one is right (ZeroSpeech 2021, 2011.11588).

sWUGGY pairs a word with a word that does not exist, sBLIMP a sentence with an ungrammatical one; a model is right
where it gives the right one the higher probability.
"""

from collections.abc import Sequence


def pair_accuracy(right: Sequence[float], wrong: Sequence[float]) -> float:
    """Share of pairs whose right member has the higher score; a tie counts half, so knowing nothing gives 0.5.

    Raises ValueError when the pairs are incomplete or there are none.
    """
    if len(right) != len(wrong) or not right:
        raise ValueError(f"{len(right)} right and {len(wrong)} wrong scores: whole pairs are wanted, and at least one")
    won = sum(1.0 if a > b else 0.5 if a == b else 0.0 for a, b in zip(right, wrong, strict=True))
    return won / len(right)
