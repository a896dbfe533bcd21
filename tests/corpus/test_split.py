"""Splits: nothing that belongs together is parted, and every recording goes somewhere."""

from collections import Counter, defaultdict

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from voder.corpus.split import Item, assign_splits


def items(count, *, speakers=0, texts=0, split=None):
    return [
        Item(
            digest=number,
            text=number % texts if texts else None,
            speaker=f"s{number % speakers}" if speakers else None,
            split=split,
        )
        for number in range(count)
    ]


def assign(recordings, valid=0.05, test=0.05, seed=0):
    return assign_splits(recordings, valid_fraction=valid, test_fraction=test, seed=seed)


def members(recordings, splitting, attribute):
    found = defaultdict(set)
    for item, split in zip(recordings, splitting.splits, strict=True):
        found[split].add(getattr(item, attribute))
    return found


def test_whole_speakers_are_held_out_where_ten_are_known():
    recordings = items(400, speakers=20, texts=400)
    splitting = assign(recordings)
    assert splitting.by == "speaker"
    assert Counter(splitting.splits) == {"train": 360, "valid": 20, "test": 20}
    speakers = members(recordings, splitting, "speaker")
    assert not speakers["train"] & (speakers["valid"] | speakers["test"])
    assert not speakers["valid"] & speakers["test"]


def test_a_speaker_who_says_nearly_everything_is_not_held_out():
    big = [Item(digest=k, text=k, speaker="big", split=None) for k in range(900)]
    small = [Item(digest=1_000 + k, text=1_000 + k, speaker=f"s{k % 12}", split=None) for k in range(100)]
    for seed in range(5):
        assert set(assign(big + small, seed=seed).splits[:900]) == {"train"}


def test_unknown_speakers_stay_in_train():
    recordings = items(200, speakers=20) + items(50)
    splitting = assign(recordings)
    assert set(splitting.splits[200:]) == {"train"}
    assert "50 recordings of unknown speakers stay in train: one of them could be held out" in splitting.notes


def test_few_speakers_are_divided_and_said_so():
    recordings = items(300, speakers=3, texts=10)
    splitting = assign(recordings)
    assert splitting.by == "recording"
    speakers = members(recordings, splitting, "speaker")
    assert speakers["train"] == speakers["valid"] == speakers["test"] == {"s0", "s1", "s2"}
    assert Counter(splitting.splits) == {"train": 270, "valid": 15, "test": 15}
    assert any("3 speakers are fewer than 10" in note for note in splitting.notes)
    assert any("texts repeat too much" in note for note in splitting.notes)


def test_the_same_text_is_never_parted_where_texts_are_mostly_unique():
    recordings = items(300, texts=200)
    for seed in range(5):
        splitting = assign(recordings, valid=0.2, test=0.2, seed=seed)
        assert splitting.by == "text"
        texts = members(recordings, splitting, "text")
        assert not texts["train"] & texts["valid"]
        assert not texts["train"] & texts["test"]
        assert not texts["valid"] & texts["test"]


def test_the_corpus_own_split_stands_and_valid_is_carved_out_of_train():
    recordings = items(100, split="train") + items(20, split="test")
    splitting = assign(recordings)
    assert splitting.splits[100:] == ["test"] * 20
    assert Counter(splitting.splits[:100]) == {"train": 95, "valid": 5}
    assert "the corpus's own split kept (test, train)" in splitting.notes
    whole = items(5, split="train") + items(5, split="valid") + items(5, split="test")
    assert assign(whole).splits == ["train"] * 5 + ["valid"] * 5 + ["test"] * 5


def test_recordings_without_a_split_are_trained_on_where_others_have_one():
    splitting = assign(items(50) + items(10, split="test") + items(10, split="valid"))
    assert set(splitting.splits[:50]) == {"train"}


def test_the_choice_depends_on_content_and_seed_not_on_order():
    recordings = items(200, speakers=2, texts=5)

    def chosen(order, seed):
        found = assign([recordings[k] for k in order], seed=seed).splits
        return {(recordings[k].digest, split) for k, split in zip(order, found, strict=True)}

    assert chosen(range(200), 0) == chosen(range(199, -1, -1), 0)
    assert chosen(range(200), 0) != chosen(range(200), 1)


@pytest.mark.parametrize("fractions", [(0.0, 0.1), (0.1, 0.0), (0.0, 0.0)])
def test_a_fraction_of_zero_makes_no_split(fractions):
    valid, test = fractions
    found = set(assign(items(100), valid=valid, test=test).splits)
    assert ("valid" in found, "test" in found) == (valid > 0, test > 0)


@settings(max_examples=50, deadline=None)
@given(
    st.lists(
        st.tuples(
            st.none() | st.integers(0, 4),
            st.none() | st.sampled_from("ab"),
            st.none() | st.sampled_from(["train", "test"]),
        ),
        min_size=1,
        max_size=12,
    )
)
def test_three_recordings_make_three_splits_and_one_is_trained_on(rows):
    recordings = [Item(digest=k, text=t, speaker=s, split=p) for k, (t, s, p) in enumerate(rows)]
    splits = Counter(assign(recordings).splits)
    assert splits.total() == len(rows)
    trainable = sum(split != "test" for _, _, split in rows)
    given_test = trainable < len(rows)
    assert splits["train"] > 0 or trainable == 0
    if trainable >= (2 if given_test else 3):
        assert set(splits) == {"train", "valid", "test"}
