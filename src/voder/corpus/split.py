"""Which recording goes to train, valid and test.

Groups that must stay together are never parted: whole speakers where at least ten are known; else recordings of the
same text where texts are mostly unique; else single recordings. Groups are taken in the order of a hash of (seed,
group), so the choice depends on content, not on file names or order; where few speakers are known, each speaker's
recordings are divided.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from voder.data.randomness import fold

MIN_SPEAKERS = 10
"""With fewer speakers, holding out whole ones would leave too little to train on."""
_MOSTLY_UNIQUE = 0.5
_OVERSHOOT = 1.5
HELD_OUT = ("test", "valid")


@dataclass(frozen=True, kw_only=True)
class Item:
    """What splitting looks at."""

    digest: int
    """hash of the recording"""
    text: int | None
    """hash of the normalised text"""
    speaker: str | None
    split: str | None
    """what the corpus itself says"""


@dataclass(frozen=True, kw_only=True)
class Splitting:
    """A split for every item, and how it was made."""

    splits: list[str]
    by: str
    """speaker, text or recording"""
    notes: list[str]


def texts_are_unique(items: Sequence[Item]) -> bool:
    """Say whether at least half of the texts are said once."""
    texts = [item.text for item in items if item.text is not None]
    return bool(texts) and len(set(texts)) >= _MOSTLY_UNIQUE * len(texts)


def assign_splits(items: Sequence[Item], *, valid_fraction: float, test_fraction: float, seed: int) -> Splitting:
    """Give every item a split. A corpus's own splits stand; a missing valid or test is carved out of train."""
    splits = [item.split or "train" for item in items]
    given = {item.split for item in items if item.split}
    notes = [f"the corpus's own split kept ({', '.join(sorted(given))})"] if given else []
    fractions = {"test": test_fraction, "valid": valid_fraction}
    wanted = {name: fraction for name, fraction in fractions.items() if name not in given and fraction > 0}
    pool = [index for index, split in enumerate(splits) if split == "train"]
    by, groups = _groups(items, pool)
    notes += _explain(by, items, pool, wanted)
    for name, chosen in _choose(items, groups, by, wanted, len(pool), seed).items():
        for index in chosen:
            splits[index] = name
    return Splitting(splits=splits, by=by, notes=notes)


def _groups(items: Sequence[Item], pool: Sequence[int]) -> tuple[str, dict[str, list[int]]]:
    """Return what groups are made by, and their members. Unknown speakers are in no group: they stay in train."""
    speakers = {items[index].speaker for index in pool} - {None}
    groups: dict[str, list[int]] = defaultdict(list)
    if len(speakers) >= MIN_SPEAKERS:
        for index in pool:
            if items[index].speaker is not None:
                groups[f"speaker {items[index].speaker}"].append(index)
        return "speaker", groups
    by = "text" if texts_are_unique([items[index] for index in pool]) else "recording"
    if len({items[index].text for index in pool}) < 3:
        by = "recording"  # two texts cannot fill three splits
    for index in pool:
        text = items[index].text if by == "text" else None
        groups[f"recording {items[index].digest}" if text is None else f"text {text}"].append(index)
    return by, groups


def _explain(by: str, items: Sequence[Item], pool: Sequence[int], wanted: dict[str, float]) -> list[str]:
    speakers = {items[index].speaker for index in pool}
    notes: list[str] = []
    if not wanted:
        return notes
    if by == "speaker" and None in speakers:
        unknown = sum(items[index].speaker is None for index in pool)
        notes.append(f"{unknown} recordings of unknown speakers stay in train: one of them could be held out")
    if by != "speaker" and speakers - {None}:
        notes.append(
            f"{len(speakers - {None})} speakers are fewer than {MIN_SPEAKERS}: each one's recordings were divided, "
            "so held-out recordings are of speakers heard in training"
        )
    if by == "recording" and any(items[index].text is not None for index in pool):
        notes.append("texts repeat too much to keep them apart: held-out recordings say texts heard in training")
    return notes


def _choose(
    items: Sequence[Item], groups: dict[str, list[int]], by: str, wanted: dict[str, float], total: int, seed: int
) -> dict[str, list[int]]:
    """Choose the members of each wanted split, stratum by stratum (a speaker, unless speakers are the groups)."""
    strata: dict[str, list[list[int]]] = defaultdict(list)
    for name in sorted(groups, key=lambda name: (fold(seed, "split", name), name)):
        members = groups[name]
        strata["" if by == "speaker" else items[members[0]].speaker or ""].append(members)
    chosen: dict[str, list[int]] = {name: [] for name in wanted}
    for stratum in sorted(strata):
        left = strata[stratum]
        size = total if by == "speaker" else sum(len(members) for members in left)
        for name, fraction in wanted.items():
            taken = _take(left, round(fraction * size))
            chosen[name] += [index for members in taken for index in members]
    for name in wanted:  # a corpus so small that every share was rounded to nothing
        if not chosen[name]:
            chosen[name] = _take_smallest(strata)
    return chosen


def _take(left: list[list[int]], target: int) -> list[list[int]]:
    """Remove groups of about `target` items from `left`, which keeps at least one group."""
    taken: list[list[int]] = []
    count = 0
    for members in list(left):
        if count >= target or len(left) == 1:
            break
        if count + len(members) <= max(target * _OVERSHOOT, 1):
            left.remove(members)
            taken.append(members)
            count += len(members)
    return taken


def _take_smallest(strata: dict[str, list[list[int]]]) -> list[int]:
    """Remove the smallest group of the richest stratum (no speaker is held out whole); a last group stays."""
    if sum(len(groups) for groups in strata.values()) < 2:
        return []
    groups = max(strata.values(), key=len)
    smallest = min(groups, key=len)
    groups.remove(smallest)
    return smallest
