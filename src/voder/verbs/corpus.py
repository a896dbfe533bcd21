"""Recordings in: prepare, tokenize."""

import argparse

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
            copies=args.copies,
            strict=args.strict,
        )
    print(report.summary())
    return 0
