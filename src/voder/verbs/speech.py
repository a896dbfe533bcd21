"""Speech in and out: say, transcribe, units, resynthesize, continue."""

import argparse
import json
from pathlib import Path
from typing import Any

from voder import exits
from voder.config import nearest
from voder.errors import ConfigError, InputError
from voder.verbs.common import audio_file, machine, note, sampling_of, write_speech


def run_say(args: argparse.Namespace, command: list[str]) -> int:
    """Say a text and write it to a file."""
    from voder import hub

    output = audio_file(args.output)
    sampling = sampling_of(args)
    with machine(args) as device:
        speaker = hub.load_role(args.model, "Speaker", device=device)
        speech = speaker.say(
            args.text,
            voice=_voice(args.voice, speaker.speakers),
            voice_text=args.voice_text,
            seed=args.seed,
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


def run_transcribe(args: argparse.Namespace, command: list[str]) -> int:
    """Write down what is said in recordings; a bad file is named and the others are done."""
    from voder import hub

    statuses = {0}
    with machine(args) as device:
        transcriber = hub.load_role(args.model, "Transcriber", device=device)
        for file in args.files:
            try:
                transcript = transcriber.transcribe(Path(file))
            except InputError as error:
                if len(args.files) == 1:
                    raise
                note(str(error))
                statuses.add(exits.USER)
                continue
            print(_shown(file, transcript, args), flush=True)
            if transcript.truncated:
                note(f"{file}: only {transcript.heard_s:.2f} s were transcribed ({transcript.stop_reason})")
                statuses.add(exits.PARTIAL)
    return exits.USER if exits.USER in statuses else max(statuses)


def _shown(file: str, transcript: Any, args: argparse.Namespace) -> str:
    if args.format == "json":
        return json.dumps({"file": file, **vars(transcript)}, ensure_ascii=False)
    return f"{file}: {transcript.text}" if len(args.files) > 1 else transcript.text


def run_units(args: argparse.Namespace, command: list[str]) -> int:
    """Write down the units of recordings; a bad file is named and the others are done."""
    from voder import hub
    from voder.systems.hubert.infer import units

    status = 0
    with machine(args) as device:
        tokenizer = hub.load_role(args.model, "UnitTokenizer", device=device)
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
    from voder.systems.unitvocoder.infer import load_pair, resynthesize

    output = audio_file(args.output)
    with machine(args) as device:
        pair = load_pair(args.model, args.tokenizer, device=device)
        made = resynthesize(Path(args.file), pair, predict_durations=args.predict_durations)
    return write_speech(output, made.clip, truncated=False, stop_reason="end")


def run_continue(args: argparse.Namespace, command: list[str]) -> int:
    """Go on where a recording ends."""
    from voder import hub
    from voder.audio.io import read_audio

    output = audio_file(args.output)
    if not 0 < args.duration < float("inf"):
        raise ConfigError(f"--duration is {args.duration}; seconds above 0 are wanted")
    beginning = read_audio(Path(args.file))
    with machine(args) as device:
        continuer = hub.load_role(args.model, "Continuer", device=device)
        speech = continuer.continue_clip(beginning, duration_s=args.duration, seed=args.seed, **sampling_of(args))
    whole = _joined(beginning, speech.clip)
    return write_speech(output, whole, truncated=speech.truncated, stop_reason=speech.stop_reason)


def _joined(first: Any, second: Any) -> Any:
    """Two clips one after the other, at the second one's rate and channels."""
    import numpy as np

    from voder.roles import fit_clip

    fitted = fit_clip(first, sample_rate_hz=second.sample_rate_hz, channels=second.channels)
    return type(second)(np.concatenate([fitted.samples, second.samples], axis=1), second.sample_rate_hz)
