"""The command `voder`: its verbs, their options and help. What a verb does is in `voder.verbs`.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 a check failed; 2 something the user can mend,
said in one sentence; 3 the result is partial and says so; 130 interrupted. Nothing heavy is imported here, so that
help comes at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, NoReturn

from voder import exits
from voder.errors import ConfigError, VoderError

Adder = Callable[[argparse.ArgumentParser], None]


class Verb(NamedTuple):  # not a dataclass: importing `dataclasses` takes a tenth of the time that help may take
    """One verb of the command."""

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
        "compress, speak, listen and learn on bundled recordings, and write a report",
        _demo,
        "voder demo -o demo",
        "Interrupted anywhere, the same command goes on where it was.",
    ),
    "prepare": Verb(
        "check a folder of recordings and split it for training",
        _prepare,
        "voder prepare recordings/ -o data/",
        "A transcript lies beside each recording (same name, .txt) or in a table. Splits keep speakers apart.",
    ),
    "train": Verb(
        "train a system, or go on training",
        _train,
        "voder train ctc --data data/ -o runs/ears --steps 2000 loop.optimizer.learning_rate=1e-3",
        "Under torchrun several processes train as one: torchrun --nproc-per-node 2 -m voder train ...",
    ),
    "tokenize": Verb(
        "turn recordings into codec tokens, to train a voice on",
        _tokenize,
        "voder tokenize data/ --tokenizer runs/codec -o tokens/",
        "Finished shards are reused when the command runs again.",
    ),
    "say": Verb(
        "say a text in a voice",
        _say,
        'voder say "three one four" --voice prompt.wav --model runs/voice -o out.wav',
        "The file's metadata says that the speech is synthetic. Imitate only voices that you may.",
    ),
    "transcribe": Verb(
        "write down what is said in recordings",
        _transcribe,
        "voder transcribe out.wav --model runs/ears",
    ),
    "eval": Verb(
        "measure a model on recordings outside its training",
        _eval,
        "voder eval runs/voice --data data/ --judge runs/ears -o report/",
        "Figures are printed as a table; beside each error rate stands the judge's own on the originals.",
    ),
    "list": Verb("list systems, presets and bundled checkpoints", _list, "voder list valle"),
    "doctor": Verb("describe this installation and machine, to paste in a report", _doctor, "voder doctor"),
    "verify": Verb(
        "check the equalities that voder promises",
        _verify,
        "voder verify ctc",
        "Exits with 1 when one does not hold.",
    ),
}


class Parser(argparse.ArgumentParser):
    """argparse that raises instead of exiting, offers the nearest option and abbreviates nothing."""

    def __init__(self, **options: Any) -> None:
        super().__init__(formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False, **options)

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one sentence."""
        raise ConfigError(f"{message} (see `{self.prog} --help`)")

    def refuse(self, unknown: Sequence[str]) -> NoReturn:
        """Refuse arguments that nothing takes."""
        known = [option for action in self._actions for option in action.option_strings]
        raise ConfigError(f"{self.prog} does not take {unknown[0]!r}{_nearest(unknown[0].partition('=')[0], known)}")


def _nearest(name: str, allowed: Sequence[str]) -> str:
    import difflib

    close = difflib.get_close_matches(name, allowed, n=1, cutoff=0.5)
    return f"; the nearest is {close[0]!r}" if close else f"; allowed are {', '.join(allowed)}"


def _overview() -> Parser:
    rows = "\n".join(f"  {name:<12}{verb.summary}" for name, verb in VERBS.items())
    parser = Parser(
        prog="voder",
        usage="voder VERB [options]",
        description=f"Large speech models, side by side.\n\nverbs:\n{rows}\n\n`voder VERB --help` says more.",
    )
    parser.add_argument("--version", action="store_true", help="show the version")
    return parser


def _parser(name: str) -> Parser:
    verb = VERBS[name]
    sentence = verb.summary[0].upper() + verb.summary[1:] + "."
    more = f"\n{verb.more}" if verb.more else ""
    parser = Parser(prog=f"voder {name}", description=sentence + more, epilog=f"example:\n  {verb.example}")
    verb.add(parser)
    return parser


def _parse(name: str, arguments: Sequence[str]) -> argparse.Namespace:
    parser = _parser(name)
    parsed, unknown = parser.parse_known_args(arguments)
    if name == "train":  # name=value may stand anywhere, where argparse no longer expects them
        settings = [a for a in unknown if "=" in a and (not a.startswith("-") or "." in a.partition("=")[0])]
        parsed.overrides += settings
        unknown = [a for a in unknown if a not in settings]
    if unknown:
        parser.refuse(unknown)
    return parsed


def _dispatch(arguments: list[str]) -> int:
    if not arguments or arguments[0].startswith("-"):
        parser = _overview()
        parsed, unknown = parser.parse_known_args(arguments)
        if unknown:
            parser.refuse(unknown)
        if parsed.version:
            from voder import __version__

            print(f"voder {__version__}")
        else:
            parser.print_help()
        return 0
    name = arguments[0]
    if name not in VERBS:
        raise ConfigError(f"there is no verb {name!r}{_nearest(name, list(VERBS))}")
    parsed = _parse(name, arguments[1:])
    from voder import verbs

    run: Callable[[argparse.Namespace, list[str]], int] = getattr(verbs, f"run_{name}")
    return run(parsed, arguments)


def _fail(sentence: str) -> None:
    print(f"voder: {' '.join(sentence.split())}", file=sys.stderr)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    try:
        status = _dispatch(list(sys.argv[1:] if arguments is None else arguments))
        sys.stdout.flush()
        return status
    except VoderError as error:
        _fail(str(error))
        return exits.USER
    except KeyboardInterrupt:
        _fail("interrupted; nothing is half-written, and the same command goes on or starts again")
        return exits.INTERRUPTED
    except BrokenPipeError:  # the reader of our output has gone, as in `voder list | head -1`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return exits.PIPE_CLOSED
    except MemoryError:
        _fail("out of memory; work on fewer or shorter recordings, or lower the batch setting")
        return exits.USER
    except OSError as error:
        _fail(f"{error.filename or 'a file'}: {error.strerror or error}; choose another place or mend its permissions")
        return exits.USER
    except SystemExit as stop:  # argparse, after printing help
        return int(stop.code or 0)


if __name__ == "__main__":
    sys.exit(main())
