"""Recordings in: prepare, tokenize, cluster."""

import argparse
from pathlib import Path
from typing import Any

from voder.errors import ConfigError
from voder.verbs.common import load_for, machine


def run_prepare(args: argparse.Namespace, command: list[str]) -> int:
    """Check and split a corpus."""
    from voder.corpus.prepare import prepare_corpus

    report = prepare_corpus(
        args.folder,
        args.output,
        strict=args.strict,
        seed=args.seed,
        valid_fraction=args.valid,
        test_fraction=args.test,
        require_text=args.require_text,
        language=args.language,
        licence=args.licence,
        source=args.source,
        workers=args.workers,
        min_duration_s=args.min_duration,
        max_duration_s=args.max_duration,
    )
    print(report.summary())
    return 0


def run_tokenize(args: argparse.Namespace, command: list[str]) -> int:
    """Turn recordings into tokens."""
    from voder import hub
    from voder.corpus.tokenize import tokenize_corpus

    with machine(args) as device:
        folder = hub.locate(args.tokenizer)
        tokenizer = load_for("tokenize", folder, device)
        report = tokenize_corpus(
            args.data,
            tokenizer,
            folder,
            args.output,
            device=device,
            num_codebooks=args.num_codebooks,
            batch_duration_s=args.batch_duration,
            shard_recordings=args.shard_recordings,
            strict=args.strict,
        )
    print(report.summary())
    return 0


def run_cluster(args: argparse.Namespace, command: list[str]) -> int:
    """Cluster frames of recordings: into a unit tokenizer, or into labels beside the manifests."""
    from voder.systems.hubert.kmeans import learn_units
    from voder.systems.hubert.labels import label_corpus

    if (args.output is None) == (args.labels is None):
        raise ConfigError("give either -o DIR, for a unit tokenizer, or --labels, for labels beside the manifests")
    if args.output is not None and args.model is None:
        raise ConfigError("a unit tokenizer reads an encoder's frames: name it with --model")
    data = Path(args.data)
    how: dict[str, Any] = {"layer": args.layer, "num_frames": args.frames, "seed": args.seed}
    with machine(args) as device:
        if args.output is None:
            spread = label_corpus(
                data, num_labels=args.clusters, model=args.model, suffix=args.labels, device=device, **how
            )
            made = f"{data}/train.{args.labels} and those of the other splits"
        else:
            made = args.output
            spread = learn_units(data, args.model, Path(made), num_units=args.clusters, device=device, **how).inertia
    print(f"{made}: {args.clusters} clusters, mean squared distance {spread:.4g}")
    return 0
