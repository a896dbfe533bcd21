"""`voder prepare`: a folder or table of recordings becomes train.jsonl, valid.jsonl and test.jsonl.

Every recording is decoded once. Its id is the hash of its samples and where it begins, so renaming files or adding
others changes no id, and the same recording twice is seen. Sound files stay where they are. What cannot be used is
listed with its reason in skipped.jsonl; prepare.json holds the report.
"""

import hashlib
import json
import os
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from voder.audio.io import AudioFacts, probe_audio, scan_audio
from voder.corpus.progress import track
from voder.corpus.report import SPLITS, PrepareReport, make_report
from voder.corpus.sources import Candidate, Rejected, find_recordings
from voder.corpus.split import Item, assign_splits
from voder.data.manifest import Utterance, json_line, write_manifest
from voder.errors import AudioError, ConfigError, InputError
from voder.files import only_writer, remove_leftovers, write_text
from voder.text.normalize import normalize_words

_CHUNK = 256
_SLACK_S = 0.1
"""Tables round durations; what differs by less is the same."""


@dataclass(frozen=True, kw_only=True)
class _Options:
    strict: bool
    seed: int
    valid_fraction: float
    test_fraction: float
    require_text: bool
    min_duration_s: float
    max_duration_s: float | None
    language: str | None
    licence: str | None
    source: str | None

    def __post_init__(self) -> None:
        for name in ("valid_fraction", "test_fraction"):
            if not 0 <= getattr(self, name) < 1:
                raise ConfigError(f"{name} must lie in [0, 1), but is {getattr(self, name)}")
        if self.valid_fraction + self.test_fraction >= 1:
            raise ConfigError("valid_fraction and test_fraction together must leave something to train on")
        if self.max_duration_s is not None and self.max_duration_s <= self.min_duration_s:
            raise ConfigError(f"max_duration_s {self.max_duration_s} must exceed min_duration_s {self.min_duration_s}")


@dataclass(frozen=True, kw_only=True)
class _Kept:
    utterance: Utterance
    digest: str
    where: str
    split: str | None
    contradicted: bool
    """whether the table gave another duration"""


def prepare_corpus(
    folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    strict: bool = False,
    seed: int = 0,
    valid_fraction: float = 0.05,
    test_fraction: float = 0.05,
    require_text: bool = False,
    min_duration_s: float = 0.05,
    max_duration_s: float | None = None,
    folder_speakers: bool = True,
    language: str | None = None,
    licence: str | None = None,
    source: str | None = None,
    workers: int | None = None,
) -> PrepareReport:
    """Check a corpus, split it, and write its manifests to `output`.

    `folder` is a folder of recordings or a table. `language`, `licence` and `source` fill what the corpus leaves out.
    With `strict` the first recording that cannot be used stops the run.
    Raises InputError when nothing usable is found, when `output` holds another corpus, and with `strict`.
    """
    options = _Options(
        strict=strict,
        seed=seed,
        valid_fraction=valid_fraction,
        test_fraction=test_fraction,
        require_text=require_text,
        min_duration_s=min_duration_s,
        max_duration_s=max_duration_s,
        language=language,
        licence=licence,
        source=source,
    )
    folder, output = Path(os.path.abspath(folder)), Path(os.path.abspath(output))
    _check_output(folder, output)
    found = find_recordings(folder, exclude=output, folder_speakers=folder_speakers)
    if strict and found.rejected:
        raise InputError(f"{found.rejected[0].where}: {found.rejected[0].reason}")
    kept, rejected = _examine_all(found.candidates, folder, options, workers)
    kept, duplicates = _drop_duplicates(kept)
    rejected = found.rejected + rejected + duplicates
    if not kept:
        first = f"; the first: {rejected[0].where}: {rejected[0].reason}" if rejected else ""
        raise InputError(f"{folder} holds no recording that can be used, of {len(rejected)}{first}")
    with only_writer(output, ".prepare.lock"):
        remove_leftovers(output)
        return _write(folder, output, kept, rejected, found.notes, options)


def _check_output(folder: Path, output: Path) -> None:
    if output == folder or (folder.is_file() and output == folder.parent):
        raise InputError(f"the output folder {output} must not be the corpus itself: name another one")
    try:
        made_from = json.loads((output / "prepare.json").read_bytes())["folder"]
    except FileNotFoundError:
        return
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError(f"{output / 'prepare.json'} is damaged ({error}): delete it or name another output") from error
    if made_from != folder.as_posix():
        raise InputError(f"{output} was prepared from {made_from}: name another output folder for {folder}")


def _examine_all(
    candidates: Sequence[Candidate], folder: Path, options: _Options, workers: int | None
) -> tuple[list[_Kept], list[Rejected]]:
    kept: list[_Kept] = []
    rejected: list[Rejected] = []
    source = options.source or (folder.parent if folder.is_file() else folder).name or None
    options = replace(options, source=source)
    results = track(_in_order(candidates, options, workers), len(candidates), "reading recordings")
    for result in results:
        if isinstance(result, _Kept):
            kept.append(result)
        elif options.strict:
            raise InputError(f"{result.where}: {result.reason}")
        else:
            rejected.append(result)
    return kept, rejected


def _in_order(candidates: Sequence[Candidate], options: _Options, workers: int | None) -> Iterator["_Kept | Rejected"]:
    """Examine recordings in threads (decoding and hashing release the interpreter), results in order."""
    with ThreadPoolExecutor(workers or min(4, os.cpu_count() or 1)) as pool:
        for start in range(0, len(candidates), _CHUNK):
            yield from pool.map(lambda each: _examine(each, options), candidates[start : start + _CHUNK])


def _examine(candidate: Candidate, options: _Options) -> "_Kept | Rejected":
    """Decode one recording and decide whether it can be used."""
    try:
        facts, start = _scan(candidate)
    except AudioError as error:
        kind = "missing file" if not os.path.exists(candidate.audio) else "unreadable audio"
        return Rejected(where=candidate.where, kind=kind, reason=str(error))
    trouble = _trouble(candidate, facts, options)
    if trouble is not None:
        return Rejected(where=candidate.where, kind=trouble[0], reason=trouble[1])
    utterance = Utterance(
        id=f"{facts.digest[:16]}-{start}",
        audio=candidate.audio,
        duration_s=facts.duration_s,
        num_samples=facts.num_samples,
        sample_rate_hz=facts.sample_rate_hz,
        channels=facts.channels,
        start_sample=start,
        text=candidate.text,
        speaker=candidate.speaker,
        language=candidate.language or options.language,
        licence=candidate.licence or options.licence,
        source=candidate.source or options.source,
    )
    claimed = candidate.duration_s
    contradicted = claimed is not None and abs(claimed - facts.duration_s) > _SLACK_S
    return _Kept(
        utterance=utterance,
        digest=facts.digest,
        where=candidate.where,
        split=candidate.split,
        contradicted=contradicted,
    )


def _scan(candidate: Candidate) -> tuple[AudioFacts, int]:
    """Return what decoding the file, or the stretch of it that is meant, tells, and where it begins."""
    if not candidate.start_s:
        facts = scan_audio(candidate.audio)
        whole = candidate.start_s is None or candidate.duration_s is None
        if whole or facts.duration_s < (candidate.duration_s or 0.0) + _SLACK_S:
            return facts, 0
    rate, _ = probe_audio(candidate.audio)
    start, count = round((candidate.start_s or 0.0) * rate), round((candidate.duration_s or 0.0) * rate)
    return scan_audio(candidate.audio, start_sample=start, num_samples=count), start


def _trouble(candidate: Candidate, facts: AudioFacts, options: _Options) -> tuple[str, str] | None:
    """Return the kind and the reason why a decoded recording is not used, or None."""
    seconds = facts.duration_s
    if candidate.start_s and candidate.duration_s is not None and seconds < candidate.duration_s - _SLACK_S:
        return "stretch beyond the file", f"{candidate.duration_s:g} s are asked for, the file ends after {seconds:g} s"
    if seconds < options.min_duration_s:
        return "too short", f"it lasts {seconds:g} s, less than min_duration_s={options.min_duration_s:g}"
    if options.max_duration_s is not None and seconds > options.max_duration_s:
        return "too long", f"it lasts {seconds:g} s, more than max_duration_s={options.max_duration_s:g}"
    if facts.peak == 0:
        return "digital silence", "every sample is zero"
    if options.require_text and candidate.text is None:
        return "no transcript", "it has no transcript and require_text is set"
    return None


def _drop_duplicates(kept: list[_Kept]) -> tuple[list[_Kept], list[Rejected]]:
    """Keep one of equal recordings: one that the corpus holds out before one to train on, else the first."""
    best: dict[str, _Kept] = {}
    for each in kept:
        other = best.get(each.digest)
        if other is None or _rank(each) > _rank(other):
            best[each.digest] = each
    unique = [each for each in kept if best[each.digest] is each]
    return unique, [_duplicate(each, best[each.digest]) for each in kept if best[each.digest] is not each]


def _rank(kept: _Kept) -> int:
    return (None, "train", "valid", "test").index(kept.split)


def _duplicate(each: _Kept, other: _Kept) -> Rejected:
    same = _words(each.utterance) == _words(other.utterance)
    reason = f"the same recording as {other.where}" + ("" if same else ", with another transcript")
    return Rejected(where=each.where, kind="duplicate", reason=reason)


def _words(utterance: Utterance) -> str | None:
    return None if utterance.text is None else normalize_words(utterance.text)


def _item(kept: _Kept) -> Item:
    words = _words(kept.utterance)
    text = None if words is None else int.from_bytes(hashlib.sha256(words.encode()).digest()[:8], "big")
    digest = int(kept.digest[:16], 16)
    return Item(digest=digest, text=text, speaker=kept.utterance.speaker, split=kept.split)


def _write(
    folder: Path, output: Path, kept: list[_Kept], rejected: list[Rejected], notes: list[str], options: _Options
) -> PrepareReport:
    items = [_item(each) for each in kept]
    splitting = assign_splits(
        items, valid_fraction=options.valid_fraction, test_fraction=options.test_fraction, seed=options.seed
    )
    contradicted = sum(each.contradicted for each in kept)
    if contradicted:
        notes = [*notes, f"{contradicted} durations in the table differ from what was decoded; the decoded ones count"]
    utterances = [each.utterance for each in kept]
    report = make_report(
        folder=folder,
        output=output,
        total=len(kept) + len(rejected),
        skipped=dict(Counter(each.kind for each in rejected).most_common()),
        utterances=utterances,
        items=items,
        splits=splitting.splits,
        split_by=splitting.by,
        seed=options.seed,
        notes=[*notes, *splitting.notes],
    )
    for name in SPLITS:
        chosen = zip(utterances, splitting.splits, strict=True)
        write_manifest(output / f"{name}.jsonl", (utterance for utterance, split in chosen if split == name))
    write_text(output / "skipped.jsonl", "".join(json_line(asdict(each)) for each in rejected))
    write_text(output / "prepare.json", json.dumps(report.to_dict(), indent=1) + "\n")
    return report
