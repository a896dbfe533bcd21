"""The command `voder`: parsing, dispatch, exit codes. The options are in `voder.options`, the work in `voder.verbs`.

Results go to stdout, everything else to stderr. Exit codes: 0 done; 1 a check failed; 2 something the user can mend,
said in one sentence; 3 the result is partial and says so; 130 interrupted. Nothing heavy is imported here, so that
help comes at once.
"""

import argparse
import os
import sys
from collections.abc import Callable, Sequence
from typing import Any, NoReturn

from voder import exits
from voder.errors import ConfigError, VoderError
from voder.options import VERBS


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
    rows = "\n".join(f"  {name:<14}{verb.summary}" for name, verb in VERBS.items())
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
    given = {"train": "overrides", "convert": "more"}.get(name)
    if given is not None:  # name=value may stand anywhere, where argparse no longer expects them
        settings = [a for a in unknown if "=" in a and (not a.startswith("-") or "." in a.partition("=")[0])]
        getattr(parsed, given).extend(settings)
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
    import importlib

    room = importlib.import_module(f"voder.verbs.{VERBS[name].room}")
    run: Callable[[argparse.Namespace, list[str]], int] = getattr(room, f"run_{name}")
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
