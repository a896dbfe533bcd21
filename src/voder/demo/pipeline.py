"""The stages of the demo. Each does what a command does, with the same functions, and returns a JSON record."""

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.config import resolve
from voder.corpus.prepare import prepare_corpus
from voder.corpus.tokenize import tokenize_corpus
from voder.data.holdout import held_out_strings
from voder.data.manifest import Manifest, Utterance
from voder.demo.promises import EARS_CODEC, EARS_KNOWN, EARS_NEW
from voder.demo.recordings import WORDS
from voder.demo.strings import Line, Takes, plan_lines
from voder.evaluate.figures import Figure
from voder.evaluate.suites import error_figure, evaluate_codec, hear, likeness_figure, round_trips
from voder.roles import Codec, SayRequest, Speaker, Speech, Transcriber
from voder.train.run import RunRequest, train
from voder.transcripts import Configurable

NUM_STRINGS = 120
"""Unseen strings per mode: 40 each of three, four and five digits."""
NUM_NEW_STRINGS = 120
"""Strings said in the new speaker's voice, before and after."""
NUM_OUTSIDE = 10
"""Strings of each kind that a judge from outside hears: Whisper takes a second for each on two cores."""
NUM_EXAMPLES = 4
"""Examples of each kind that are kept to listen to."""
HELD_OUT_FRACTION = 0.03
"""The voice's `task.joins.held_out_fraction`: which strings were never composed in training."""


@dataclass(frozen=True, kw_only=True)
class Judges:
    """Who listens: the demo's own ears, and published judges where they are on this machine (None elsewhere)."""

    ears: Transcriber
    second: str | None = None
    """A recogniser from outside, by name or folder, that hears the first `NUM_OUTSIDE` strings of each kind."""
    voice: str | None = None
    """A speaker encoder that says whose voice it is."""


@dataclass(frozen=True, kw_only=True)
class Training:
    """One `voder train` of the demo."""

    system: str
    data: Path
    output: Path
    overrides: tuple[str, ...] = ()
    start: str | None = None
    seed: int = 0

    @property
    def command(self) -> str:
        """The command that does the same."""
        words = ["voder", "train", self.system, "--preset", "demo", "--data", str(self.data), "-o", str(self.output)]
        words += ["--from", self.start] if self.start else []
        words += ["--seed", str(self.seed)] if self.seed else []
        return shlex.join([*words, *self.overrides])

    def run(self) -> dict[str, Any]:
        """Train, or go on training."""
        system = hub.find(self.system)
        config = resolve(system.preset("demo"), overrides=self.overrides)
        request = RunRequest(
            system=self.system,
            config=config,
            data=self.data,
            output=self.output,
            seed=self.seed,
            device="cpu",
            start=hub.locate(self.start) if self.start else None,
            command=self.command,
        )
        state = train(request)
        if state.stop_reason != "end":
            raise KeyboardInterrupt
        return {"command": self.command, "steps": state.step, "evaluation": state.evaluations[-1]}


def prepare(folder: Path, output: Path, seed: int) -> dict[str, Any]:
    """`voder prepare`."""
    report = prepare_corpus(folder, output, seed=seed)
    return {"command": shlex.join(["voder", "prepare", str(folder), "-o", str(output)]), "summary": report.summary()}


def tokenize(data: Path, codec: Path, output: Path) -> dict[str, Any]:
    """`voder tokenize`."""
    tokenize_corpus(data, hub.load_codec(codec), codec, output)
    return {
        "command": shlex.join(["voder", "tokenize", str(data), "--tokenizer", str(codec), "-o", str(output)]),
    }


def utterances(*files: Path) -> list[Utterance]:
    """All recordings with a text of some manifests."""
    return [utterance for file in files for utterance in Manifest.open(file) if utterance.text]


def listening(ears: Transcriber, known: Path, new: Path) -> dict[str, Any]:
    """What the ears make of recordings that they never heard: other takes, and another speaker."""
    figures = []
    for name, found in (
        (EARS_KNOWN, utterances(known / "test.jsonl")),
        (EARS_NEW, utterances(*(new / f"{split}.jsonl" for split in ("train", "valid", "test")))),
    ):
        heard = hear(ears, [u.read() for u in found])
        figures.append(error_figure(name, [u.text or "" for u in found], heard, judge="ctc/demo"))
    return {"figures": [figure.to_dict() for figure in figures]}


def through_codec(codec: Codec, ears: Transcriber, known: Path, folder: Path) -> dict[str, Any]:
    """What the codec costs in words and in quality, with all and with fewer codebooks; some of it to listen to."""
    found = utterances(known / "test.jsonl")
    texts = [u.text or "" for u in found]
    trips = round_trips(codec, [u.read() for u in found])
    originals = error_figure("originals", texts, hear(ears, [t.original for t in trips])).value
    rows = []
    for books in sorted({1, 2, codec.num_codebooks}):
        fewer = (
            trips
            if books == codec.num_codebooks
            else round_trips(codec, [t.original for t in trips], num_codebooks=books)
        )
        heard = hear(ears, [t.restored for t in fewer])
        error = error_figure(EARS_CODEC, texts, heard, judge="ctc/demo", originals=originals)
        rows.append((books, round(codec.bitrate_bps * books / codec.num_codebooks), error.value))
    quality = [f for f in evaluate_codec(codec, found) if "bit rate" not in f.name]
    examples = [_pair(folder, f"codec_{i + 1}", found[i].text or "", trips[i], heard[i]) for i in _spread(len(found))]
    codes = np.concatenate([trip.codes for trip in trips], axis=1)
    return {
        "figures": [error.to_dict(), *(figure.to_dict() for figure in quality)],
        "rates": rows,
        "bitrate_bps": codec.bitrate_bps,
        "examples": examples,
        "codes": codes.tolist(),
        "codebook_size": codec.codebook_size,
    }


def _pair(folder: Path, name: str, text: str, trip: Any, heard: str) -> dict[str, Any]:
    files = [_keep(folder, f"{name}_original.wav", trip.original), _keep(folder, f"{name}_restored.wav", trip.restored)]
    return {"text": text, "heard": heard, "files": files}


def _keep(folder: Path, name: str, clip: AudioClip, *, synthetic: bool = False) -> str:
    (folder / "audio").mkdir(parents=True, exist_ok=True)
    write_audio(folder / "audio" / name, clip, synthetic=synthetic)
    return f"audio/{name}"


def _spread(count: int) -> list[int]:
    return [index * count // NUM_EXAMPLES for index in range(NUM_EXAMPLES)]


def lines_of(manifest: Path, count: int, *, sample_rate_hz: int, seed: int) -> list[Line]:
    """Unseen strings with their speakers, originals and prompts, out of test recordings."""
    takes = Takes(Manifest.open(manifest), sample_rate_hz=sample_rate_hz, peak=0.7)
    texts = held_out_strings(WORDS, count, fraction=HELD_OUT_FRACTION, seed=seed)
    return plan_lines(takes, texts, words=WORDS, seed=seed)


def digits_as_words(text: str) -> str:
    """Write numerals as the words that were said, one by one: recognisers from outside write `3, 14`."""
    return re.sub(r"\d", lambda digit: f" {WORDS[int(digit[0])]} ", text)


@dataclass(frozen=True, kw_only=True)
class Strings:
    """Unseen strings, and what a judge from outside makes of them as recorded."""

    lines: list[Line]
    outside: float | None
    """Percent of the words that it gets wrong in the first `NUM_OUTSIDE`; None without one."""


def outside_error(lines: Sequence[Line], judge: str | None) -> float | None:
    """The second judge's error on the recorded originals of the strings that it will hear spoken."""
    few = lines[:NUM_OUTSIDE]
    return None if judge is None else _judged("originals", few, [line.original for line in few], judge, None).value


def _judged(
    name: str, lines: Sequence[Line], clips: Sequence[AudioClip], judge: str, originals: float | None
) -> Figure:
    """The error of a judge from outside on clips, with its error on the recorded originals beside.

    Whisper is told the language and tries twice at most: otherwise its retries at higher temperatures take minutes.
    """
    listener = hub.load_role(judge, "Transcriber")
    if isinstance(listener, Configurable):
        listener = listener.configured(language="en", temperatures=(0.0, 0.5), best_of=1, sample_len=60)
    heard = [digits_as_words(text) for text in hear(listener, clips)]
    return error_figure(name, [line.text for line in lines], heard, judge=Path(judge).name, originals=originals)


def _likeness(name: str, lines: Sequence[Line], clips: Sequence[AudioClip], judge: str) -> Figure:
    """Whose voice it is: cosines to the speaker's recorded string, and of that to the prompt."""
    encoder = hub.load_role(judge, "SpeakerEncoder")
    recorded, prompts = [line.original for line in lines], [line.prompt for line in lines]
    speakers = [line.speaker for line in lines]
    return likeness_figure(name, encoder, clips, recorded, prompts, speakers, judge_name=Path(judge).name)


def speaking(
    name: str,
    strings: Strings,
    voice: Speaker,
    judges: Judges,
    folder: Path,
    *,
    by: str,
    tag: str,
    seed: int,
) -> dict[str, Any]:
    """Say strings by speaker tag or by audio prompt and let the judges hear, each with the originals beside."""
    lines = strings.lines
    requests = [
        SayRequest(text=line.text, speaker=line.speaker)
        if by == "tag"
        else SayRequest(text=line.text, prompt=line.prompt, prompt_text=line.prompt_text)
        for line in lines
    ]
    said = voice.say_batch(requests, seed=seed)
    texts = [line.text for line in lines]
    clips = [speech.clip for speech in said]
    originals = error_figure("originals", texts, hear(judges.ears, [line.original for line in lines])).value
    heard = hear(judges.ears, clips)
    figures = [error_figure(name, texts, heard, judge="ctc/demo", originals=originals)]
    if judges.second is not None:
        title = f"{name} ({Path(judges.second).name})"
        figures.append(_judged(title, lines[:NUM_OUTSIDE], clips[:NUM_OUTSIDE], judges.second, strings.outside))
    if judges.voice is not None:
        figures.append(_likeness(f"{name}: likeness of the voice", lines, clips, judges.voice))
    whole = sum(a == b for a, b in zip(texts, heard, strict=True))
    return {
        "figures": [figure.to_dict() for figure in figures],
        "whole": whole,
        "cut": sum(speech.truncated for speech in said),
        "said": [{"text": t, "heard": h} for t, h in zip(texts, heard, strict=True)],
        "examples": _examples(lines, said, heard, folder, tag),
    }


def _examples(
    lines: Sequence[Line], said: Sequence[Speech], heard: Sequence[str], folder: Path, tag: str
) -> list[dict[str, Any]]:
    """Some of what was said, kept beside the recorded string and the prompt."""
    examples = []
    for index in _spread(len(lines)):
        line, stem = lines[index], f"{tag}_{index + 1}"
        examples.append(
            {
                "text": line.text,
                "heard": heard[index],
                "speaker": line.speaker,
                "prompt_text": line.prompt_text,
                "files": [
                    _keep(folder, f"{stem}_recorded.wav", line.original),
                    _keep(folder, f"{stem}_prompt.wav", line.prompt),
                    _keep(folder, f"{stem}_spoken.wav", said[index].clip, synthetic=True),
                ],
            }
        )
    return examples


def figure_of(record: dict[str, Any]) -> Figure:
    """A figure as it came back from disk."""
    values = {key: value for key, value in record.items() if key != "verdict"}
    interval = values.pop("interval")
    return Figure(**values, interval=tuple(interval) if interval else None)
