import pytest

from voder.metrics.translation import bleu, chrf, sentence_bleu, ter

SAID = ["the cat sat on the mat", "it is raining today again"]


def test_a_perfect_translation_has_the_best_scores():
    found = bleu(SAID, SAID)
    assert (found.score, found.brevity_penalty) == (pytest.approx(100), 1.0)
    assert found.counts == found.totals
    assert chrf(SAID, SAID) == pytest.approx(100)
    assert ter(SAID, SAID) == 0
    assert sentence_bleu(SAID[0], SAID[0]) == pytest.approx(100)


def test_short_hypotheses_pay_for_brevity():
    found = bleu(["the cat sat on"], SAID[:1])
    assert found.brevity_penalty < 1
    assert (found.hypothesis_length, found.reference_length) == (4, 6)


def test_capitals_count_unless_told_otherwise():
    shouted = [text.upper() for text in SAID]
    assert bleu(shouted, SAID).score == 0
    assert bleu(shouted, SAID, lowercase=True).score == pytest.approx(100)


def test_words_without_blanks_are_cut_by_characters():
    pair = ["我喜欢学习语音"], ["我喜欢研究语音"]
    assert bleu(*pair).score < bleu(*pair, tokenize="char").score


def test_unequal_numbers_are_refused():
    with pytest.raises(ValueError, match="2 hypotheses and 1 references"):
        bleu(SAID, SAID[:1])
    with pytest.raises(ValueError, match="at least one"):
        ter([], [])
