"""Batches: every item once per epoch, within the bounds, and a function of the step alone."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voder.data.batching import BucketedBatches, spread
from voder.errors import ConfigError, InputError

LENGTHS = st.lists(st.integers(1, 500), min_size=1, max_size=200).map(lambda values: np.array(values))


@settings(max_examples=60, deadline=None)
@given(LENGTHS, st.integers(500, 3_000), st.integers(1, 40), st.booleans(), st.integers(0, 3))
def test_an_epoch_holds_every_item_once_within_the_bounds(lengths, max_total, max_batch, shuffle, seed):
    batches = BucketedBatches(lengths, max_total=max_total, max_batch=max_batch, seed=seed, shuffle=shuffle)
    for epoch in (0, 1):
        steps = range(epoch * batches.batches_per_epoch, (epoch + 1) * batches.batches_per_epoch)
        items = [batches.indices(step) for step in steps]
        assert sorted(np.concatenate(items).tolist()) == list(range(len(lengths)))
        for batch in items:
            assert 1 <= len(batch) <= max_batch
            assert len(batch) * lengths[batch].max() <= max_total


def test_a_step_is_the_same_asked_first_or_last_or_in_another_process():
    lengths = np.random.default_rng(0).integers(10, 300, 500)
    one, other = (BucketedBatches(lengths, max_total=2_000, max_batch=16, seed=3) for _ in range(2))
    forwards = [one.indices(step).tolist() for step in range(200)]
    backwards = [other.indices(step).tolist() for step in reversed(range(200))]
    assert forwards == backwards[::-1]


def test_workers_share_the_global_batch():
    lengths = np.random.default_rng(0).integers(10, 300, 500)
    batches = BucketedBatches(lengths, max_total=2_000, max_batch=16, seed=3)
    for step in range(20):
        parts = [batches.indices(step, rank=rank, world=3) for rank in range(3)]
        assert sorted(np.concatenate(parts).tolist()) == sorted(batches.indices(step).tolist())
        assert max(map(len, parts)) - min(map(len, parts)) <= 1


def test_shuffling_differs_by_epoch_and_seed_and_can_be_left_out():
    lengths = np.random.default_rng(0).integers(10, 300, 500)

    def epoch(number, **options):
        batches = BucketedBatches(lengths, max_total=2_000, max_batch=16, **options)
        first = number * batches.batches_per_epoch
        return [batches.indices(first + k).tolist() for k in range(batches.batches_per_epoch)]

    assert epoch(0, seed=0) != epoch(1, seed=0)
    assert epoch(0, seed=0) != epoch(0, seed=1)
    assert epoch(0, seed=0, shuffle=False) == epoch(1, seed=5, shuffle=False)
    longest = [max(lengths[batch]) for batch in epoch(0, seed=0, shuffle=False)]
    assert longest == sorted(longest)


def test_lengths_within_a_batch_are_alike():
    lengths = np.random.default_rng(0).uniform(0.3, 20, 5_000)
    batches = BucketedBatches(lengths, max_total=160, max_batch=64, seed=0)
    items = [batches.indices(step) for step in range(batches.batches_per_epoch)]
    padded = sum(len(batch) * lengths[batch].max() for batch in items)
    assert lengths.sum() / padded > 0.9
    assert padded / len(items) > 0.75 * 160  # and batches are nearly full


def test_small_corpora_get_full_batches():
    batches = BucketedBatches(np.array([1.0, 5.0, 2.0, 4.0]), max_total=1_000, max_batch=16, seed=0)
    assert batches.batches_per_epoch == 1
    assert len(batches.indices(0)) == 4


def test_what_cannot_be_batched_is_said_by_name():
    with pytest.raises(ConfigError, match=r"item 1 is 9 long, more than a whole batch may be \(max_total=5\)"):
        BucketedBatches(np.array([1, 9]), max_total=5, max_batch=4, seed=0)
    with pytest.raises(InputError, match="the list of recordings is empty"):
        BucketedBatches(np.array([]), max_total=5, max_batch=4, seed=0)
    with pytest.raises(ConfigError, match="max_batch must be at least 1, but is 0"):
        BucketedBatches(np.array([1]), max_total=5, max_batch=0, seed=0)
    batches = BucketedBatches(np.array([1, 1, 1]), max_total=5, max_batch=4, seed=0)
    with pytest.raises(ConfigError, match="has 3 items for 4 workers: raise max_total or max_batch"):
        batches.indices(0, rank=0, world=4)
    with pytest.raises(ValueError, match="0 <= rank < world"):
        batches.indices(0, rank=2, world=2)


def test_nan_lengths_are_refused():
    with pytest.raises(ConfigError, match="item 1 is nan long"):
        BucketedBatches(np.array([1.0, np.nan]), max_total=5, max_batch=4, seed=0)


def test_items_to_judge_are_spread_evenly():
    assert spread("abcdefgh", 4) == ["a", "c", "e", "g"]
    assert spread("abc", 5) == ["a", "b", "c"]
    assert spread("", 5) == []
