"""The vectorised rules against the rules as one would say them, row by row."""

import pytest
import torch

from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.rules import Rules, suppressed_ids
from voder.systems.whisper.tokenizer import WhisperTokenizer

TOKENIZER = WhisperTokenizer(51_865)
FIRST, EOT, SIZE = TOKENIZER.timestamp_begin, TOKENIZER.eot, TOKENIZER.vocabulary_size


def forbidden(said, listen):
    """Ids that may not follow `said`, apart from forced timestamps."""
    no = set(suppressed_ids(TOKENIZER, listen))
    if not said and listen.suppress_blank:
        no |= {*TOKENIZER.encode(" "), EOT}
    if not listen.timestamps:
        return no
    no.add(TOKENIZER.no_timestamps)
    if not said:
        last = FIRST + round(listen.max_initial_timestamp_s / 0.02) if listen.max_initial_timestamp_s else SIZE
        return no | set(range(FIRST)) | set(range(last + 1, SIZE))
    stamps = [i for i in said if i >= FIRST]
    paired = len(said) < 2 or said[-2] >= FIRST
    if said[-1] >= FIRST:
        no |= set(range(FIRST, SIZE)) if paired else set(range(EOT))
    if stamps:
        no |= set(range(FIRST, stamps[-1] + (0 if said[-1] >= FIRST and not paired else 1)))
    return no


@pytest.mark.parametrize(
    "listen",
    [
        ListenConfig(),
        ListenConfig(suppress_tokens=(), suppress_blank=False, max_initial_timestamp_s=None),
        ListenConfig(timestamps=False, suppress_tokens=(100, 200)),
    ],
    ids=["default", "permissive", "text only"],
)
def test_rows_of_a_batch_follow_the_rules_each_by_itself(listen):
    generator = torch.Generator().manual_seed(3)
    rules = Rules(TOKENIZER, listen, 4, torch.device("cpu"))
    said = [[] for _ in range(4)]
    for step in range(7):
        logits = torch.randn(4, SIZE, generator=generator) - 8.0 * (torch.arange(SIZE) >= FIRST)
        logits[step % 4, FIRST:] += 9.0  # one row is drawn to timestamps
        got = torch.isinf(rules.apply(logits))
        for row in range(4):
            no = torch.zeros(SIZE, dtype=torch.bool)
            no[sorted(forbidden(said[row], listen))] = True
            rest = logits[row].masked_fill(no, -torch.inf)
            if listen.timestamps and rest[FIRST:].exp().sum() > rest[:FIRST].max().exp():
                no[:FIRST] = True
            assert torch.equal(got[row], no), (step, row, said[row])
        chosen = rules.apply(logits).argmax(dim=1)
        for row in range(4):
            said[row].append(int(chosen[row]))
        rules.observe(chosen)
        if step == 4:  # beams change places
            order = torch.tensor([2, 0, 0, 3])
            rules.select(order)
            said = [list(said[i]) for i in order.tolist()]
