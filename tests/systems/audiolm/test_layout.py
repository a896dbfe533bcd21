"""Marks collide with nothing, numbers out of range are refused, and only what should be learned carries loss."""

import numpy as np
import pytest

from voder.errors import ConfigError, TokensError
from voder.sequence.assemble import assemble
from voder.systems.audiolm.config import PRESETS
from voder.systems.audiolm.layout import Layout, merged


def test_repeats_are_merged():
    assert merged(np.array([3, 3, 1, 1, 1, 3])).tolist() == [3, 1, 3]
    assert merged(np.array([], np.int64)).tolist() == []


@pytest.mark.parametrize("preset", PRESETS)
def test_ends_and_begins_collide_with_no_token(preset):
    layout = Layout(PRESETS[preset]().model)
    config = layout.config
    codes = np.full((config.num_codebooks, 1), config.codebook_size - 1)
    units = np.array([config.num_units - 1])
    for ids, pieces in (
        (layout.semantic_ids, layout.semantic(units, ended=True)),
        (layout.coarse_ids, layout.coarse(units, codes, ended=True)),
    ):
        marks = {ids[name].start for name in ("begin", "end")}
        assert len(marks) == 2
        tokens = {int(i) for piece in pieces for i in piece.ids} - {ids["begin"].start}
        assert not marks & tokens
        assert max(tokens) < min(marks)


def test_the_last_token_carries_the_end_only_where_the_recording_ends(digits):
    layout = Layout(digits())
    units, codes = np.array([1, 2, 3]), np.arange(8).reshape(2, 4)
    ended, cut = (assemble([layout.semantic(units, ended=flag)]) for flag in (True, False))
    end = layout.semantic_ids["end"].start
    assert ended.targets[0].tolist() == [1, 2, 3, end]
    assert cut.targets[0].tolist() == [1, 2, 3]
    assert bool(ended.loss.all())
    stream = assemble([layout.coarse(units, codes, ended=True)])
    assert stream.loss[0].tolist() == [False] * 3 + [True] * 5
    assert stream.targets[0, 3:].tolist() == [8, 9, 10, 11, layout.coarse_ids["end"].start]


def test_a_chunk_is_predicted_from_its_last_coarse_code_on_and_has_no_end(digits):
    layout = Layout(digits(num_codebooks=3, coarse_codebooks=1))
    stream = assemble([layout.fine(np.array([[1, 2], [3, 4], [5, 6]]))])
    assert stream.ids[0].tolist() == [1, 2, 8 + 3, 16 + 5, 8 + 4]
    assert stream.loss[0].tolist() == [False, True, True, True, True]
    assert stream.targets[0, 1:].tolist() == [8 + 3, 16 + 5, 8 + 4, 16 + 6]


def test_numbers_of_another_tokenizer_are_refused(digits):
    layout = Layout(digits())
    with pytest.raises(TokensError, match="units reach 8 to 8, but this model knows 0 to 7"):
        layout.semantic(np.array([8]), ended=True)
    with pytest.raises(TokensError, match="codes reach 9 to 9"):
        layout.coarse(np.array([1]), np.array([[9], [0]]), ended=True)
    with pytest.raises(TokensError, match="another codec"):
        layout.fine(np.array([[1], [-1]]))


def test_impossible_stretches_are_refused(digits):
    with pytest.raises(ConfigError, match="less than one frame"):
        digits(fine_chunk_s=0.01)
    with pytest.raises(ConfigError, match="stage 1 must reach"):
        digits(max_semantic_s=1.0)
    with pytest.raises(ConfigError, match="coarse_codebooks"):
        digits(coarse_codebooks=0)
