"""Speech out and in: say, transcribe."""

import argparse
import json
from pathlib import Path
from typing import Any

from voder import exits
from voder.config import nearest
from voder.errors import ConfigError, InputError
from voder.verbs.common import audio_file, machine, note, write_speech


def run_say(args: argparse.Namespace, command: list[str]) -> int:
    """Say a text and write it to a file."""
    from voder import hub

    output = audio_file(args.output)
    sampling = {"temperature": args.temperature, "top_k": args.top_k, "top_p": args.top_p}
    sampling = {key: value for key, value in sampling.items() if value is not None}
    if args.greedy and sampling:
        raise ConfigError(f"--greedy leaves nothing for {', '.join(sampling)} to choose; give one or the other")
    with machine(args) as device:
        speaker = hub.load_role(args.model, "Speaker", device=device)
        speech = speaker.say(
            args.text,
            voice=_voice(args.voice, speaker.speakers),
            voice_text=args.voice_text,
            seed=args.seed,
            **({"greedy": True} if args.greedy else sampling),
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
