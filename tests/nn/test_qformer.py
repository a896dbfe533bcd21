import pytest
import torch

from voder.nn.qformer import QueryLayer


@pytest.mark.parametrize("memory_width", [None, 6])
def test_queries_see_each_other_and_a_memory_where_there_is_one(memory_width):
    torch.manual_seed(0)
    layer = QueryLayer(8, 2, 16, memory_width).eval()
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    whole = layer(x, memory)
    assert whole.shape == x.shape
    changed = x.clone()
    changed[:, 2] += 1.0
    assert not torch.allclose(layer(changed, memory)[:, 0], whole[:, 0])
    assert torch.allclose(layer(x, memory + 1.0), whole) == (memory_width is None)
    assert torch.allclose(whole.mean(dim=-1), torch.zeros(2, 3), atol=1e-5)  # normed behind the last branch


def test_dropout_acts_in_training_alone() -> None:
    torch.manual_seed(0)
    layer, plain = QueryLayer(8, 2, 16, 6, dropout=0.5), QueryLayer(8, 2, 16, 6)
    plain.load_state_dict(layer.state_dict())
    x, memory = torch.randn(2, 3, 8), torch.randn(2, 5, 6)
    assert not torch.equal(layer(x, memory), plain(x, memory))
    assert torch.equal(layer.eval()(x, memory), plain(x, memory))
