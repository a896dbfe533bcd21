"""How well a speaker encoder tells voices apart: the equal error rate over all pairs of recordings of a manifest.

    python scripts/measure_voices.py MODEL MANIFEST [--join N] [--halves]

`--join N` makes recordings of N different ones of a speaker (digits are too short alone), each used once; `--halves`
compares the halves of recordings, for corpora with one recording a speaker: that is within a recording, and easier.
"""

import argparse
import json
from collections import defaultdict
from dataclasses import asdict
from pathlib import Path

import numpy as np

from voder import hub
from voder.audio.io import AudioClip
from voder.data.manifest import Manifest
from voder.systems.ge2e.infer import embed_all, verification


def joined(samples: list[np.ndarray], rate: int, count: int) -> list[AudioClip]:
    """Groups of recordings, one behind the other."""
    groups = [samples[i : i + count] for i in range(0, len(samples) - count + 1, count)]
    return [AudioClip(np.concatenate(group)[None], rate) for group in groups]


def main() -> None:
    """Measure and print one line of JSON."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("model")
    parser.add_argument("manifest", type=Path)
    parser.add_argument("--join", type=int, default=1)
    parser.add_argument("--halves", action="store_true")
    parser.add_argument("--limit", type=int, default=40, help="recordings of a speaker, before joining")
    args = parser.parse_args()
    encoder = hub.load_role(args.model, "SpeakerEncoder")
    rate = encoder.sample_rate_hz
    of = defaultdict(list)
    for utterance in Manifest.open(args.manifest):
        if utterance.speaker and len(of[utterance.speaker]) < args.limit:
            of[utterance.speaker].append(utterance.read(sample_rate_hz=rate, channels=1).samples[0])
    clips, speakers = [], []
    for speaker, samples in of.items():
        parts = [half for s in samples for half in np.array_split(s, 2)] if args.halves else samples
        made = joined(parts, rate, args.join)
        clips += made
        speakers += [speaker] * len(made)
    found = verification(embed_all(encoder, clips), speakers)
    print(json.dumps({"recordings": len(clips), "speakers": len(of)} | (asdict(found) if found else {})))


if __name__ == "__main__":
    main()
