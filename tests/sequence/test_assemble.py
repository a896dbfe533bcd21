"""Pieces laid out into padded streams."""

import numpy as np
import torch

from voder.sequence.assemble import Piece, assemble


def test_pieces_keep_their_own_positions_and_segments() -> None:
    prompt, target = Piece(np.array([5, 6]), -10.0, 1.0, 1), Piece(np.array([7, 8, 9]), 0.0, 2.5, 0)
    stream = assemble([[prompt, target]])
    assert stream.ids[0].tolist() == [5, 6, 7, 8, 9]
    assert stream.positions[0].tolist() == [-10.0, -9.0, 0.0, 2.5, 5.0]
    assert stream.segments[0].tolist() == [1, 1, 0, 0, 0]
    assert stream.valid.all()


def test_reading_predicts_the_next_code_and_the_end() -> None:
    piece = Piece.reading(np.array([4, 5]), begin=9, end=8)
    assert piece.ids.tolist() == [9, 4, 5]
    assert piece.targets is not None
    assert piece.targets.tolist() == [4, 5, 8]


def test_the_end_carries_loss_and_padding_never_even_where_ids_are_equal() -> None:
    end = 0  # the id that padding has, too
    stream = assemble(
        [[Piece.reading(np.array([4, 5]), begin=9, end=end)], [Piece.reading(np.array([], int), begin=9, end=end)]]
    )
    assert stream.targets.tolist() == [[4, 5, end], [end, 0, 0]]
    assert stream.loss.tolist() == [[True, True, True], [True, False, False]]
    assert stream.valid.tolist() == [[True, True, True], [True, False, False]]


def test_a_piece_read_without_loss_carries_none() -> None:
    prompt = Piece.reading(np.array([1]), begin=9, end=8, loss=False)
    stream = assemble([[prompt, Piece.reading(np.array([2]), begin=9, end=8)]])
    assert stream.loss.tolist() == [[False, False, True, True]]


def test_padding_goes_to_a_multiple_and_head_cuts_it_again() -> None:
    stream = assemble([[Piece(np.arange(3))], [Piece(np.arange(20))]], multiple=8)
    assert stream.ids.shape == (2, 24)
    head = stream.head(1)
    assert head.ids.shape == (1, 8)
    assert torch.equal(head.ids[0, :3], torch.arange(3))
