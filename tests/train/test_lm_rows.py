"""Rows of language models: labels decide what carries loss, packs are never split."""

import pytest
import torch
from torch import nn

from voder.train.lm_rows import IGNORED, Row, RowBatch, blocks, next_id_loss, pack


class Table(nn.Module):
    """Logits that depend on the id alone."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.table = nn.Embedding(10, 10)

    def forward(self, ids, valid):
        return self.table(ids)


def test_an_end_that_shares_its_id_with_padding_carries_loss_and_padding_does_not():
    end = 0  # RowBatch pads with 0
    row, other = Row.behind([1, 2, 3, end], 2), Row.behind([1, 4, 5, 6, 7, end], 1)
    batch = RowBatch.of([row, other])
    assert batch.labels.tolist() == [[IGNORED, IGNORED, 3, 0, IGNORED, IGNORED], [IGNORED, 4, 5, 6, 7, 0]]
    assert batch.row(0) == row
    model = Table()
    together = next_id_loss(model, batch)
    apart = [next_id_loss(model, RowBatch.of([each])) for each in (row, other)]
    assert together.weight == 7
    mean = sum(float(each.value.detach()) * each.weight for each in apart) / 7
    assert float(together.value.detach()) == pytest.approx(mean, rel=1e-5)


def test_a_row_without_labels_has_a_loss_of_zero_and_no_weight():
    loss = next_id_loss(Table(), RowBatch.of([Row.behind([1, 2], 5)]))
    assert (float(loss.value.detach()), loss.weight) == (0.0, 0.0)


def test_blocks_drop_the_rest_and_packs_never_split():
    assert blocks([[1, 2, 3], [4, 5]], 2) == [[1, 2], [3, 4]]
    rows = [Row.behind(list(range(count)), 0) for count in (5, 3, 4, 12, 1)]
    packs = pack(rows, 8)
    assert [len(each.ids) for each in packs] == [8, 4, 12, 1]
    assert sum(len(each.ids) for each in packs) == 25
    assert pack([], 8) == []
