"""Questions and conversations: ask, chat."""

import argparse
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from voder.errors import InputError, VoderError
from voder.verbs.common import cut_short, load_for, machine, note, sampling_of


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
    from voder.roles import Turn

    options = sampling_of(args) | ({"want": args.want} if args.want else {})
    with machine(args) as device:
        chatter = load_for("chat", args.model, device)
        _greet(chatter)
        turns: list[Turn] = []
        for parts in _typed(chatter.takes):
            if parts is None:
                turns = []
                note("a new conversation")
                continue
            asked = Turn(role="user", parts=parts)
            try:
                reply = chatter.reply([*turns, asked], seed=args.seed, **options)
                _show(reply, Path(args.output), number=len(turns) // 2 + 1)
            except VoderError as error:
                note(f"{error}; that turn is forgotten")
                continue
            turns += [asked, reply]
    return 0


def _greet(chatter: Any) -> None:
    if sys.stdin.isatty():
        note(f"takes {', '.join(chatter.takes)}; gives {', '.join(chatter.gives)}; /quit ends")


def _typed(takes: tuple[str, ...]) -> Iterator[tuple[Any, ...] | None]:
    """The parts of every turn that is typed; None where the conversation begins anew."""
    waiting: list[Any] = []
    for line in sys.stdin:
        text = line.strip()
        word, _, rest = text.partition(" ")
        if word == "/quit":
            return
        if word == "/new":
            waiting = []
            yield None
        elif word in ("/audio", "/image"):
            try:
                waiting.append(_read(word[1:], rest.strip(), takes))
            except VoderError as error:
                note(str(error))
        elif text or waiting:
            yield (*waiting, text) if text else tuple(waiting)
            waiting = []


def _read(kind: str, name: str, takes: tuple[str, ...]) -> Any:
    if kind not in takes:
        raise InputError(f"this model takes {', '.join(takes)}, no {kind}")
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
