"""What `prepare` found and did, as a record, a file and a page of text."""

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from voder.corpus.split import Item
from voder.data.manifest import Utterance

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class SplitFacts:
    """One split."""

    recordings: int
    hours: float
    speakers: int
    with_text: int
    speakers_in_train: int
    """how many of its speakers are heard in train as well (for train itself: 0)"""
    texts_in_train: float
    """share of its transcripts that are said in train as well (for train itself: 0)"""


@dataclass(frozen=True, kw_only=True)
class PrepareReport:
    """What became of a corpus."""

    folder: str
    """the folder or table it came from"""
    output: str
    """where train.jsonl, valid.jsonl, test.jsonl, skipped.jsonl and prepare.json lie"""
    total: int
    """recordings named by the corpus"""
    kept: int
    """recordings written"""
    skipped: dict[str, int]
    """how many were left out, by kind of trouble; each is listed in skipped.jsonl"""
    hours: float
    """length of what was kept"""
    splits: dict[str, SplitFacts]
    """train, valid, test"""
    split_by: str
    """what was never parted: speaker, text or recording"""
    recordings_in_two_splits: int
    """recordings whose samples lie in two splits"""
    speakers: int
    """different speakers"""
    with_speaker: int
    """recordings whose speaker is known"""
    with_text: int
    """recordings with a transcript"""
    different_texts: int
    """different transcripts, by words"""
    licences: dict[str, int]
    """recordings by licence"""
    languages: dict[str, int]
    """recordings by language"""
    sample_rates_hz: dict[str, int]
    """recordings by sample rate"""
    channels: dict[str, int]
    """recordings by channel count"""
    seed: int
    """seed of the split"""
    notes: tuple[str, ...]
    """what a reader should know"""

    def to_dict(self) -> dict[str, Any]:
        """Return what prepare.json holds."""
        return asdict(self)

    def summary(self) -> str:
        """Return the page that the command line prints."""
        lines = [f"kept {self.kept} of {self.total} recordings, {self.hours:.2f} hours, in {self.output}"]
        lines += [f"  skipped {count}: {kind}" for kind, count in self.skipped.items()]
        for name, facts in self.splits.items():
            line = f"  {name:5} {facts.recordings} recordings, {facts.hours:.2f} h, {facts.speakers} speakers"
            if name != "train" and facts.recordings:
                line += f"; {facts.speakers_in_train} of them in train; {facts.texts_in_train:.0%} of texts in train"
            lines.append(line)
        lines.append(f"  split by {self.split_by}; recordings in two splits: {self.recordings_in_two_splits}")
        lines.append(f"  transcripts: {self.with_text} of {self.kept}, {self.different_texts} different")
        lines.append(f"  speakers: {self.speakers}, known for {self.with_speaker} of {self.kept}")
        for label, counts in (("licences", self.licences), ("languages", self.languages)):
            lines.append(f"  {label}: " + ", ".join(f"{name} ({count})" for name, count in counts.items()))
        rates = ", ".join(f"{rate} Hz ({count})" for rate, count in self.sample_rates_hz.items())
        lines.append(f"  sample rates: {rates}; channels: {', '.join(self.channels)}")
        return "\n".join(lines + [f"  note: {note}" for note in self.notes])


def make_report(
    *,
    folder: Path,
    output: Path,
    total: int,
    skipped: Mapping[str, int],
    utterances: Sequence[Utterance],
    items: Sequence[Item],
    splits: Sequence[str],
    split_by: str,
    seed: int,
    notes: Sequence[str],
) -> PrepareReport:
    """Count what was kept."""
    members = {name: [index for index, split in enumerate(splits) if split == name] for name in SPLITS}
    facts = {name: _facts(name, members, utterances, items) for name in SPLITS}
    digests = [{items[index].digest for index in members[name]} for name in SPLITS]
    texts = [item.text for item in items if item.text is not None]
    return PrepareReport(
        folder=folder.as_posix(),
        output=output.as_posix(),
        total=total,
        kept=len(utterances),
        skipped=dict(skipped),
        hours=_hours(utterances),
        splits=facts,
        split_by=split_by,
        recordings_in_two_splits=sum(len(digest) for digest in digests) - len(set().union(*digests)),
        speakers=len({item.speaker for item in items} - {None}),
        with_speaker=sum(item.speaker is not None for item in items),
        with_text=len(texts),
        different_texts=len(set(texts)),
        licences=_count(utterance.licence or "not stated" for utterance in utterances),
        languages=_count(utterance.language or "not stated" for utterance in utterances),
        sample_rates_hz=_count(str(utterance.sample_rate_hz) for utterance in utterances),
        channels=_count(str(utterance.channels) for utterance in utterances),
        seed=seed,
        notes=tuple(notes),
    )


def _facts(
    name: str, members: Mapping[str, list[int]], utterances: Sequence[Utterance], items: Sequence[Item]
) -> SplitFacts:
    own = [items[index] for index in members[name]]
    train = [items[index] for index in members["train"]] if name != "train" else []
    speakers = {item.speaker for item in own} - {None}
    texts, train_texts = [item.text for item in own if item.text is not None], {item.text for item in train}
    return SplitFacts(
        recordings=len(own),
        hours=_hours([utterances[index] for index in members[name]]),
        speakers=len(speakers),
        with_text=len(texts),
        speakers_in_train=len(speakers & {item.speaker for item in train}),
        texts_in_train=round(sum(text in train_texts for text in texts) / len(texts), 4) if texts else 0.0,
    )


def _hours(utterances: Sequence[Utterance]) -> float:
    return round(sum(utterance.duration_s for utterance in utterances) / 3600, 4)


def _count(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())
