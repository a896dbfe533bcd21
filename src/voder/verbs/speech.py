"""Speech in and out: say, transcribe, units, resynthesize, continue."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from voder import exits
from voder.config import nearest
from voder.errors import ConfigError, InputError
from voder.verbs.common import audio_file, load_for, machine, note, sampling_of, write_speech


def run_say(args: argparse.Namespace, command: list[str]) -> int:
    """Say a text and write it to a file."""
    output = audio_file(args.output)
    sampling = sampling_of(args)
    with machine(args) as device:
        speaker = load_for("say", args.model, device)
        speech = speaker.say(
            args.text,
            voice=_voice(args.voice, speaker.speakers),
            voice_text=args.voice_text,
            seed=args.seed,
            **_languages(args, speaker.languages),
            **sampling,
        )
    return write_speech(output, speech.clip, truncated=speech.truncated, stop_reason=speech.stop_reason)


def _voice(voice: str | None, speakers: tuple[str, ...]) -> str | Path | None:
    if voice is None or voice in speakers:
        return voice
    if Path(voice).exists():
        return Path(voice)
    known = nearest(voice, speakers) if speakers else "; this model knows no speakers by name"
    raise InputError(f"--voice {voice} is neither a file nor a speaker of this model{known}")


def _languages(args: argparse.Namespace, known: tuple[str, ...]) -> dict[str, str]:
    """The languages that were asked for, if the voice knows them."""
    given = {name: getattr(args, name) for name in ("language", "voice_language")}
    for name, language in given.items():
        if language is not None and language not in known:
            why = f"this voice knows {', '.join(known)}" if known else "this voice is told no language"
            raise ConfigError(f"--{name.replace('_', '-')} is {language}; {why}")
    return {name: language for name, language in given.items() if language is not None}


def run_transcribe(args: argparse.Namespace, command: list[str]) -> int:
    """Write down what is said in recordings; a bad file is named and the others are done."""
    from voder import transcripts

    folder = Path(args.output) if args.output else None
    if folder is not None:
        transcripts.check_names(args.files, folder)
    options = {
        "language": args.language,
        "task": args.task,
        "beam_size": args.beam,
        "initial_prompt": args.prompt,
        "word_timestamps": args.word_timestamps or None,
        "seed": args.seed,
    }
    statuses = {0}
    with machine(args) as device:
        transcriber = load_for("transcribe", args.model, device)
        formats = transcripts.check_formats(transcriber, args.format or ["txt"], args.model)
        _one_stream(args, folder, formats)
        transcriber = transcripts.configure(transcriber, options, args.model)
        for heard in transcripts.transcribe_files(transcriber, args.files):
            if heard.transcript is None:
                if len(args.files) == 1 and heard.error is not None:
                    raise heard.error
                note(str(heard.error))
                statuses.add(exits.USER)
                continue
            _give(heard, folder, formats, several=len(args.files) > 1)
            found = heard.transcript
            if found.truncated:
                note(f"{heard.file}: only {found.heard_s:.2f} s were transcribed ({found.stop_reason})")
                statuses.add(exits.PARTIAL)
    return exits.USER if exits.USER in statuses else max(statuses)


def _one_stream(args: argparse.Namespace, folder: Path | None, formats: Sequence[str]) -> None:
    """What goes to the terminal must be told apart there."""
    if folder is None and len(formats) > 1:
        raise ConfigError(f"{' and '.join(formats)} at once need a folder: give -o FOLDER")
    if folder is None and len(args.files) > 1 and formats[0] not in ("txt", "json"):
        raise ConfigError(f"{formats[0]} of several files needs a folder: give -o FOLDER")


def _give(heard: Any, folder: Path | None, formats: Sequence[Any], *, several: bool) -> None:
    from voder import transcripts

    if folder is not None:
        for file in transcripts.write_files(heard.transcript, heard.file, folder, formats):
            print(file, flush=True)
    elif formats[0] == "json":
        record = {"file": str(heard.file), **transcripts.record(heard.transcript)}
        print(json.dumps(record, ensure_ascii=False), flush=True)
    else:
        text = transcripts.shown(heard.transcript, formats[0])
        if several:  # a line for each file
            text = f"{heard.file}: {' '.join(text.split())}\n"
        print(text, end="", flush=True)


def run_units(args: argparse.Namespace, command: list[str]) -> int:
    """Write down the units of recordings; a bad file is named and the others are done."""
    from voder.systems.hubert.infer import units

    status = 0
    with machine(args) as device:
        tokenizer = load_for("units", args.model, device)
        for file in args.files:
            try:
                found = units(Path(file), tokenizer, dedup=not args.keep_repeats)
            except InputError as error:
                if len(args.files) == 1:
                    raise
                note(str(error))
                status = exits.USER
                continue
            if args.format == "json":
                print(json.dumps({"file": file, **found.as_record()}, ensure_ascii=False), flush=True)
            else:
                print(f"{file}: {found.text}" if len(args.files) > 1 else found.text, flush=True)
    return status


def run_resynthesize(args: argparse.Namespace, command: list[str]) -> int:
    """Turn a recording into units and back."""
    from voder.generate.units import load_pair, resynthesize

    output = audio_file(args.output)
    with machine(args) as device:
        pair = load_pair(args.model, args.tokenizer, device=device)
        made = resynthesize(Path(args.file), pair, predict_durations=args.predict_durations)
    return write_speech(output, made.clip, truncated=False, stop_reason="end")


def run_continue(args: argparse.Namespace, command: list[str]) -> int:
    """Go on where a recording ends."""
    from voder.audio.io import read_audio

    output = audio_file(args.output)
    if not 0 < args.duration < float("inf"):
        raise ConfigError(f"--duration is {args.duration}; seconds above 0 are wanted")
    beginning = read_audio(Path(args.file))
    with machine(args) as device:
        continuer = load_for("continue", args.model, device)
        speech = continuer.continue_clip(beginning, duration_s=args.duration, seed=args.seed, **sampling_of(args))
    whole = _joined(beginning, speech.clip)
    return write_speech(output, whole, truncated=speech.truncated, stop_reason=speech.stop_reason)


def _joined(first: Any, second: Any) -> Any:
    """Two clips one after the other, at the second one's rate and channels."""
    import numpy as np

    from voder.roles import fit_clip

    fitted = fit_clip(first, sample_rate_hz=second.sample_rate_hz, channels=second.channels)
    return type(second)(np.concatenate([fitted.samples, second.samples], axis=1), second.sample_rate_hz)
