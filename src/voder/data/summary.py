"""What a run's description says of the recordings it was made from."""

import hashlib
from typing import Any

from voder.data.manifest import Manifest


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
