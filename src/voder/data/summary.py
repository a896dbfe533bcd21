"""What a run's description says of the recordings it was made from."""

import hashlib
from pathlib import Path
from typing import Any

from voder.data.manifest import Manifest
from voder.data.shards import TokenStore


def summarize(manifest: Manifest) -> dict[str, Any]:
    """Size, hash of the list, licences and sources of a manifest."""
    licences, sources = set[str](), set[str]()
    for utterance in manifest:
        licences.add(utterance.licence or "not stated")
        sources.add(utterance.source or "not stated")
    return {
        "recordings": len(manifest),
        "hours": round(float(manifest.durations_s.sum()) / 3600, 4),
        "sha256": hashlib.sha256(manifest.path.read_bytes()).hexdigest(),
        "licences": sorted(licences),
        "sources": sorted(sources),
    }


def summarize_tokens(store: TokenStore) -> dict[str, Any]:
    """Size, hash and licences of a token store's training split."""
    split = store.split("train")
    licences = {split.utterance(index).licence or "not stated" for index in range(len(split))}
    record = (store.folder / "tokens.json").read_bytes()
    return {
        "recordings": len(split),
        "frames": int(split.lengths.sum()),
        "sha256": hashlib.sha256(record).hexdigest(),
        "licences": sorted(licences),
    }


def summarize_splits(folder: Path, *, recordings: bool) -> dict[str, Any]:
    """What train.jsonl and valid.jsonl hold: recordings, or dialogues and authors' records."""
    files = {split: folder / f"{split}.jsonl" for split in ("train", "valid")}
    if recordings:
        return {split: summarize(Manifest.open(file)) for split, file in files.items()}
    return {split: summarize_dialogues(file) for split, file in files.items()}


def summarize_dialogues(file: Path) -> dict[str, Any]:
    """Size and hash of a file of dialogues or of an authors' records."""
    content = file.read_bytes()
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
