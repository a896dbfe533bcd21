"""What verbs share: notes to stderr, the machine that was asked for, results that are cut short."""

import argparse
import contextlib
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voder import exits
from voder.errors import ConfigError

ROLES: dict[str, tuple[str, ...]] = {
    "say": ("Speaker",),
    "transcribe": ("Transcriber",),
    "units": ("UnitTokenizer",),
    "resynthesize": ("Generator",),
    "continue": ("Continuer",),
    "ask": ("Listener",),
    "chat": ("Chatter",),
    "tokenize": ("Codec", "UnitTokenizer"),
    "eval": ("Codec", "Transcriber", "Speaker"),
}
"""What a model must be for a verb to work with it: any of these."""


def load_for(verb: str, model: str | Path, device: Any) -> Any:
    """Load a model that a verb works with.

    Raises:
        CheckpointError: nothing trained is there, or something else; says what is wanted, and how it can be had.
    """
    from voder import hub

    return hub.load_any(model, ROLES[verb], device=device)


def note(text: str) -> None:
    """Tell the user something beside the result."""
    print(f"voder: {text}", file=sys.stderr, flush=True)


@contextlib.contextmanager
def machine(args: argparse.Namespace) -> Iterator[Any]:
    """The device that was asked for, with threads and precision set while the verb works."""
    import torch

    from voder.devices import autocast, check_precision, resolve_device

    device = resolve_device(args.device)
    check_precision(device, args.precision)
    threads = torch.get_num_threads()
    if args.threads:
        torch.set_num_threads(args.threads)
    try:
        with torch.no_grad(), autocast(device, args.precision):
            yield device
    finally:
        torch.set_num_threads(threads)


def audio_file(name: str) -> Path:
    """The file to write, refused before minutes of work if its suffix is none that can be written."""
    from voder.audio.io import check_writable_name

    output = Path(name)
    check_writable_name(output)
    return output


def write_speech(output: Path, clip: Any, *, truncated: bool, stop_reason: str) -> int:
    """Write what a model said, marked as synthetic, and say how long it is and whether it was cut."""
    from voder.audio.io import write_audio

    write_audio(output, clip, synthetic=True)
    print(f"{output}: {clip.duration_s:.2f} s")
    return cut_short(str(output), stop_reason) if truncated else 0


def cut_short(what: str, stop_reason: str) -> int:
    """Say that a result is partial, and why (`limit`, or in words); the exit code."""
    reason = "the longest length was reached before the end" if stop_reason == "limit" else stop_reason
    note(f"{what} is cut short: {reason}")
    return exits.PARTIAL


def sampling_of(args: argparse.Namespace) -> dict[str, Any]:
    """The sampling options that were given, as a model's verbs take them.

    Raises:
        ConfigError: --greedy beside options that it leaves without a part.
    """
    given = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    given = {key: value for key, value in given.items() if value is not None}
    if args.greedy and given:
        raise ConfigError(f"--greedy leaves nothing for {', '.join(given)} to choose; give one or the other")
    return {"greedy": True} if args.greedy else given
