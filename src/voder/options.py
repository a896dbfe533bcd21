"""The verbs of the command line, their options and help. Nothing heavy is imported here: help must come at once."""

import argparse
from collections.abc import Callable
from typing import NamedTuple

Adder = Callable[[argparse.ArgumentParser], None]


class Verb(NamedTuple):  # not a dataclass: importing `dataclasses` takes a tenth of the time that help may take
    """One verb of the command."""

    room: str
    """The module of `voder.verbs` that holds its `run_NAME`."""
    summary: str
    add: Adder
    """Adds its arguments to a parser."""
    example: str
    more: str = ""
    """What the help says beside the summary."""


def _device(parser: argparse.ArgumentParser, *, precision: str | None = "fp32") -> None:
    group = parser.add_argument_group("machine")
    group.add_argument("--device", default="auto", metavar="auto|cpu|cuda", help="where to work (default: auto)")
    shown = precision or "the preset's"
    group.add_argument("--precision", choices=("fp32", "bf16"), default=precision, help=f"default: {shown}")
    group.add_argument("--threads", type=_positive, metavar="N", help="processor threads (default: torch's choice)")


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{value} is below 1")
    return value


_positive.__name__ = "whole number from 1"


def _prepare(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="FOLDER", help="folder of recordings, or a CSV, TSV or JSONL table of them")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for train, valid and test.jsonl")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording instead of listing it")
    parser.add_argument("--require-text", action="store_true", help="leave out recordings without a transcript")
    parser.add_argument("--seed", type=int, default=0, help="seed of the split (default: 0)")
    parser.add_argument("--valid", type=float, default=0.05, metavar="SHARE", help="validation share (default: 0.05)")
    parser.add_argument("--test", type=float, default=0.05, metavar="SHARE", help="test share (default: 0.05)")
    for name in ("language", "licence", "source"):
        parser.add_argument(f"--{name}", metavar="TEXT", help=f"{name} of recordings that do not say theirs")
    parser.add_argument("--workers", type=_positive, metavar="N", help="processes that read (default: all processors)")


def _train(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", metavar="SYSTEM", help="a system of `voder list`, or system/preset")
    parser.add_argument("--data", metavar="DIR", help="folder of `voder prepare`, or of `voder tokenize`")
    parser.add_argument("-o", "--output", metavar="RUN", help="run folder; the same command goes on with what is there")
    parser.add_argument("--preset", metavar="P", help="named settings to start from (see `voder list SYSTEM`)")
    parser.add_argument("--from", dest="start", metavar="CHECKPOINT", help="fine-tune this checkpoint or run")
    parser.add_argument("--config", metavar="FILE", help="YAML settings over those of the preset")
    parser.add_argument("overrides", nargs="*", metavar="name=value", help="settings over all else, as loop.steps=500")
    parser.add_argument("--steps", type=int, metavar="N", help="optimiser steps; the same as loop.steps=N")
    parser.add_argument("--minutes", type=float, metavar="M", help="stop after M minutes, resumable; loop.minutes=M")
    parser.add_argument("--seed", type=int, default=0, metavar="S", help="seed of weights and data order (default: 0)")
    parser.add_argument("--fresh", action="store_true", help="delete the run that is in RUN and start over")
    parser.add_argument("--print-config", action="store_true", help="print the settings as YAML and stop")
    _device(parser, precision=None)


def _tokenize(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("data", metavar="DATA", help="folder of `voder prepare`")
    parser.add_argument("--tokenizer", required=True, metavar="RUN", help="codec: checkpoint, run or bundled name")
    parser.add_argument("-o", "--output", required=True, metavar="DIR", help="folder for the tokens")
    parser.add_argument("--num-codebooks", type=_positive, metavar="K", help="leading codebooks (default: all)")
    parser.add_argument("--strict", action="store_true", help="stop at the first bad recording instead of listing it")
    _device(parser)


def _say(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("text", metavar="TEXT", help="what to say")
    parser.add_argument("--model", required=True, metavar="RUN", help="voice: checkpoint, run or bundled name")
    parser.add_argument("-o", "--output", required=True, metavar="FILE", help=".wav, .flac, .ogg, .opus or .mp3")
    parser.add_argument("--voice", metavar="FILE|SPEAKER", help="1 to 3 s of a voice, or a speaker of the training")
    parser.add_argument("--voice-text", metavar="TEXT", help="what is said in the recording given with --voice")
    parser.add_argument("--seed", type=int, default=0, help="another seed says it another way (default: 0)")
    parser.add_argument("--greedy", action="store_true", help="always the likeliest; the options below have no part")
    parser.add_argument("--temperature", type=float, metavar="T", help="below 1 is safer, above 1 livelier")
    parser.add_argument("--top-k", type=int, metavar="K", help="choose among the K likeliest (0: all)")
    parser.add_argument("--top-p", type=float, metavar="P", help="choose among the likeliest that hold this share")
    _device(parser)


def _transcribe(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("files", nargs="+", metavar="FILE", help="recordings")
    parser.add_argument("--model", required=True, metavar="RUN", help="recogniser: checkpoint, run or bundled name")
    parser.add_argument("--format", choices=("txt", "json"), default="txt", help="json: an object a line")
    _device(parser)


def _eval(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("model", metavar="RUN", help="codec, voice or recogniser: checkpoint, run or bundled name")
    parser.add_argument("--data", required=True, metavar="DIR", help="folder of `voder prepare`")
    parser.add_argument("--split", choices=("test", "valid", "train"), default="test", help="default: test")
    parser.add_argument("--judge", metavar="RUN", help="recogniser that judges speech (default: ctc/demo)")
    parser.add_argument("--limit", type=_positive, default=200, metavar="N", help="recordings at most (default: 200)")
    parser.add_argument("--seed", type=int, default=0, help="seed of what a voice says (default: 0)")
    parser.add_argument("-o", "--output", metavar="FOLDER", help="write report.html, report.json and recordings there")
    _device(parser)


def _demo(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("-o", "--output", default="demo", metavar="FOLDER", help="where to (default: demo)")
    parser.add_argument("--from-scratch", action="store_true", help="train codec, voice and ears from nothing")
    parser.add_argument("--fresh", action="store_true", help="start over instead of going on with what is there")
    parser.add_argument("--seed", type=int, default=0, help="same seed, same figures (default: 0)")
    parser.add_argument("--second-judge", metavar="RUN", help="a recogniser from outside to judge speech too (Whisper)")


def _list(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", nargs="?", metavar="SYSTEM", help="show one system's presets and settings")


def _doctor(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="the same as one JSON object")


def _verify(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("system", nargs="?", metavar="SYSTEM", help="one system (default: all)")
    parser.add_argument("--fixtures", metavar="DIR", help="check against the reference vectors in a folder instead")
    parser.add_argument("--seed", type=int, default=0, help="seed of weights and inputs (default: 0)")


VERBS: dict[str, Verb] = {
    "demo": Verb(
        "checks",
        "compress, speak, listen and learn on bundled recordings, and write a report",
        _demo,
        "voder demo -o demo",
        "Interrupted anywhere, the same command goes on where it was.",
    ),
    "prepare": Verb(
        "corpus",
        "check a folder of recordings and split it for training",
        _prepare,
        "voder prepare recordings/ -o data/",
        "A transcript lies beside each recording (same name, .txt) or in a table. Splits keep speakers apart.",
    ),
    "train": Verb(
        "training",
        "train a system, or go on training",
        _train,
        "voder train ctc --data data/ -o runs/ears --steps 2000 loop.optimizer.learning_rate=1e-3",
        "Under torchrun several processes train as one: torchrun --nproc-per-node 2 -m voder train ...",
    ),
    "tokenize": Verb(
        "corpus",
        "turn recordings into codec tokens, to train a voice on",
        _tokenize,
        "voder tokenize data/ --tokenizer runs/codec -o tokens/",
        "Finished shards are reused when the command runs again.",
    ),
    "say": Verb(
        "speech",
        "say a text in a voice",
        _say,
        'voder say "three one four" --voice prompt.wav --model runs/voice -o out.wav',
        "The file's metadata says that the speech is synthetic. Imitate only voices that you may.",
    ),
    "transcribe": Verb(
        "speech",
        "write down what is said in recordings",
        _transcribe,
        "voder transcribe out.wav --model runs/ears",
    ),
    "eval": Verb(
        "checks",
        "measure a model on recordings outside its training",
        _eval,
        "voder eval runs/voice --data data/ --judge runs/ears -o report/",
        "Figures are printed as a table; beside each error rate stands the judge's own on the originals.",
    ),
    "list": Verb("models", "list systems, presets and bundled checkpoints", _list, "voder list valle"),
    "doctor": Verb("checks", "describe this installation and machine, to paste in a report", _doctor, "voder doctor"),
    "verify": Verb(
        "checks",
        "check the equalities that voder promises",
        _verify,
        "voder verify ctc",
        "Exits with 1 when one does not hold.",
    ),
}
