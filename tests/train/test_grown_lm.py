"""Training of grown language models: whose tokenizer is read."""

import pytest

from voder.errors import ConfigError
from voder.train.grown_lm import text_tokenizer


def test_a_tokenizer_that_is_not_at_hand_is_asked_for():
    assert len(text_tokenizer(None, "bytes")) == 261
    with pytest.raises(ConfigError, match=r"task\.lm"):
        text_tokenizer(None, "0123456789abcdef")
