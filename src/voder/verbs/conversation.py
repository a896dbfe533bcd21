"""Questions and conversations: ask, chat."""

import argparse
import io
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voder.config import nearest
from voder.errors import ConfigError, InputError, VoderError
from voder.verbs.common import cut_short, load_for, machine, note, sampling_of

_COMMANDS = ("/audio", "/image", "/want", "/new", "/quit")


def run_ask(args: argparse.Namespace, command: list[str]) -> int:
    """Answer a question about a recording."""
    from voder.audio.io import read_audio

    given = {"beam": args.beam, "lora_factor": args.lora_factor}
    options = sampling_of(args) | {name: value for name, value in given.items() if value is not None}
    clip = read_audio(Path(args.file))  # a bad file is named before seconds are spent on the model
    with machine(args) as device:
        listener = load_for("ask", args.model, device)
        answer = listener.answer(clip, args.question, seed=args.seed, **options)
    print(answer.text)
    return cut_short("the answer", answer.stop_reason) if answer.truncated else 0


def run_chat(args: argparse.Namespace, command: list[str]) -> int:
    """Talk until the input ends; a turn that fails is named and forgotten, and the conversation goes on."""

    sampling = sampling_of(args)
    sampling |= {"max_new": args.max_new} if args.max_new else {}
    sampling |= {"num_beams": args.beam} if args.beam else {}
    with machine(args) as device:
        chatter = load_for("chat", args.model, device)
        options = _options(chatter, {"task": args.task, "hear": args.hear})
        if sys.stdin.isatty():
            note(f"takes {', '.join(chatter.takes)}; gives {', '.join(chatter.gives)}; /quit ends")
        talk = _Talk(chatter, Path(args.output), {"seed": args.seed, **sampling, **options}, want=args.want)
        for line in _lines():
            if line.strip() == "/quit":
                break
            talk.hear(line.strip())
    return 0


def _options(chatter: Any, given: dict[str, str | None]) -> dict[str, str]:
    """Options that some models have. Raises ConfigError for one that this model does not."""
    chosen = {name: value for name, value in given.items() if value is not None}
    for name in chosen:
        if name not in chatter.options:
            known = ", ".join(f"--{each}" for each in chatter.options)
            raise ConfigError(f"this model knows no --{name}; it has {known or 'no options of its own'}")
    return chosen


def _lines() -> Iterator[str]:
    """What is typed; bytes that are no text are for the tokenizer to refuse, not the end of the conversation."""
    if isinstance(sys.stdin, io.TextIOWrapper):
        sys.stdin.reconfigure(errors="surrogateescape")
    yield from sys.stdin


class _Talk:
    """A conversation: what was said, what waits to be said, and what is wanted."""

    def __init__(self, chatter: Any, folder: Path, options: dict[str, Any], *, want: str | None) -> None:
        self.chatter, self.folder, self.options, self.want = chatter, folder, options, want
        self.turns: list[Any] = []
        self.waiting: list[Any] = []
        # files of conversations before this one stay
        found = [re.match(r"turn-(\d+)-", file.name) for file in folder.glob("turn-*")]
        self.number = 1 + max((int(each[1]) for each in found if each), default=0)

    def hear(self, text: str) -> None:
        """A line: a command, or a turn."""
        word, _, rest = text.partition(" ")
        try:
            if re.fullmatch(r"/[a-z]+", word):
                self._command(word, rest.strip())
            elif text or self.waiting:
                parts = (*self.waiting, text) if text else tuple(self.waiting)
                self.waiting = []
                self._answer(parts)
        except VoderError as error:
            note(str(error))

    def _command(self, word: str, rest: str) -> None:
        if word == "/new":
            self.turns, self.waiting = [], []
            note("a new conversation")
        elif word == "/want":
            self.want = rest or None
        elif word in ("/audio", "/image"):
            self.waiting.append(_read(word[1:], rest, self.chatter.takes))
        else:
            raise InputError(f"there is no command {word}{nearest(word, _COMMANDS)}")

    def _answer(self, parts: tuple[Any, ...]) -> None:
        from voder.roles import Turn

        asked = Turn(role="user", parts=parts)
        try:
            reply = self.chatter.reply(
                [*self.turns, asked], **({"want": self.want} if self.want else {}), **self.options
            )
            _show(reply, self.folder, number=self.number)
        except VoderError as error:
            note(f"{error}; that turn is forgotten")
            return
        self.number += 1
        if reply.parts:
            self.turns += [asked, reply]
        else:  # models refuse a history with empty turns
            note("nothing was said; that turn is forgotten")


def _read(kind: str, name: str, takes: tuple[str, ...]) -> Any:
    if kind not in takes:
        raise InputError(f"this model takes {', '.join(takes)}, no {kind}")
    if not name:
        raise InputError(f"/{kind} needs a file")
    if kind == "audio":
        from voder.audio.io import read_audio

        return read_audio(Path(name))
    from voder.image import read_image

    return read_image(Path(name))


def _show(reply: Any, folder: Path, *, number: int) -> None:
    """Print the text, write audio and images beside it, name what is missing."""
    from voder.audio.io import AudioClip, write_audio

    for index, part in enumerate(reply.parts, start=1):
        if isinstance(part, str):
            print(part, flush=True)
            continue
        suffix = "wav" if isinstance(part, AudioClip) else "png"
        file = folder / f"turn-{number:03d}-{index}.{suffix}"
        if isinstance(part, AudioClip):
            write_audio(file, part, synthetic=True)
        else:
            from voder.image import write_image

            write_image(file, part)
        print(file, flush=True)
    for absent in reply.missing:
        note(f"left out: {absent}")
    if reply.truncated:
        cut_short("the answer", reply.stop_reason)
