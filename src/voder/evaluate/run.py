"""`voder eval`: what a model is worth on recordings outside its training, by the role it has."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip, write_audio
from voder.config import to_yaml
from voder.data.manifest import Manifest, Utterance
from voder.errors import CheckpointError, ConfigError, ManifestError
from voder.evaluate.figures import Figure
from voder.evaluate.report import (
    AudioItem,
    AudioRow,
    Report,
    Section,
    environment,
    peak_memory_mb,
    write_report,
)
from voder.evaluate.suites import (
    evaluate_codec,
    evaluate_speaker,
    evaluate_transcriber,
    hear,
    likeness_figure,
    read_clips,
    round_trips,
    spoken,
)
from voder.metrics.text import corpus_edits, pooled
from voder.roles import Codec, SayRequest, Speaker, Transcriber

DEFAULT_JUDGE = "ctc/demo"
OUTSIDE_JUDGE = "whisper-base"
"""Judges by default what is said, where `voder fetch` has brought it."""
VOICE_JUDGE = "ge2e"
"""Judges whose voice it is, where it was fetched."""
PROMPT_S = 3.0
"""Longest voice prompt; longer recordings are cut to it."""
SHOWN = 6
"""Recordings to listen to in a report."""


@dataclass(frozen=True, kw_only=True)
class EvaluationRequest:
    """What `voder eval` was asked for."""

    model: str
    data: Path
    split: str = "test"
    judge: str | None = None
    """Recogniser that judges speech; the bundled one when nothing is said and it is there."""
    limit: int = 200
    """Recordings at most."""
    seed: int = 0
    output: Path | None = None
    """Where the report goes, if one is wanted."""
    device: torch.device
    command: str = ""


@dataclass(frozen=True, kw_only=True)
class Evaluation:
    """Figures, and what one can listen to."""

    figures: list[Figure]
    sounds: tuple[tuple[str, tuple[tuple[str, AudioClip, bool], ...]], ...] = ()
    """Rows of (text, players of (title, clip, whether it is synthetic))."""


def evaluate(request: EvaluationRequest, *, say: Callable[[str], None]) -> tuple[list[Figure], Path | None]:
    """Measure a codec, recogniser or voice; returns the figures and the page of the report, if one was written.

    Raises:
        ManifestError: the split is missing or has nothing that can be scored.
        ConfigError: a voice is to be judged and no judge is at hand.
        CheckpointError: the model has no role that can be measured.
    """
    started = time.monotonic()
    manifest = _manifest(request)
    model = hub.load(request.model, device=request.device)
    if isinstance(model, Transcriber):
        if request.judge:
            raise ConfigError("--judge judges voices and codecs; a recogniser is measured against the transcripts")
        result = Evaluation(figures=evaluate_transcriber(model, spoken(manifest, request.limit)))
    elif isinstance(model, Codec):
        result = _codec(model, manifest, _judge(request, say), request)
    elif isinstance(model, Speaker):
        result = _speaker(model, manifest, _judge(request, say), request)
    else:
        raise CheckpointError(f"{request.model} is neither codec, voice nor recogniser; nothing can be measured")
    page = _report(request, result, time.monotonic() - started) if request.output else None
    return result.figures, page


def _manifest(request: EvaluationRequest) -> Manifest:
    file = request.data / f"{request.split}.jsonl"
    if not file.is_file():
        raise ManifestError(f"{file} does not exist; give a folder that `voder prepare` wrote with --data")
    manifest = Manifest.open(file)
    if not len(manifest):
        raise ManifestError(f"{file} lists no recordings; choose another --split or prepare with a larger share")
    return manifest


def _judge(request: EvaluationRequest, say: Callable[[str], None]) -> tuple[Transcriber, str] | None:
    """The recogniser and its name."""
    name = request.judge
    if name is None and hub.is_fetched(OUTSIDE_JUDGE):
        name = OUTSIDE_JUDGE
    elif name is None:
        if not (hub.BUNDLED / DEFAULT_JUDGE).is_dir():
            return None
        name = DEFAULT_JUDGE
        say(f"judged by the bundled {DEFAULT_JUDGE}, which knows spoken digits only; name yours with --judge")
    judge: Transcriber = hub.load_role(name, "Transcriber", device=request.device)
    return judge, f"{checkpoint.read(hub.locate(name)).system} {name}"


def _codec(
    codec: Codec, manifest: Manifest, judge: tuple[Transcriber, str] | None, request: EvaluationRequest
) -> Evaluation:
    step = max(1, len(manifest) // request.limit)
    utterances = [manifest[i] for i in range(0, len(manifest), step)][: request.limit]
    ears, name = judge or (None, "")
    figures = evaluate_codec(codec, utterances, ears, judge_name=name)
    shown = utterances[:SHOWN]
    trips = round_trips(codec, read_clips(shown))
    rows = tuple(
        (u.text or u.id, (("original", t.original, False), ("through the codec", t.restored, True)))
        for u, t in zip(shown, trips, strict=True)
    )
    return Evaluation(figures=figures, sounds=rows)


def _speaker(
    speaker: Speaker, manifest: Manifest, judge: tuple[Transcriber, str] | None, request: EvaluationRequest
) -> Evaluation:
    if judge is None:
        raise ConfigError("a voice is judged by a recogniser; name one with --judge (train one with `voder train ctc`)")
    ears, name = judge
    utterances = spoken(manifest, request.limit)
    clips = read_clips(utterances)
    texts = [utterance.text or "" for utterance in utterances]
    originals = 100 * pooled(corpus_edits(texts, hear(ears, clips))).rate
    requests = [_say_as(speaker, number, utterances, clips) for number in range(len(utterances))]
    figures, said = evaluate_speaker(speaker, requests, ears, judge_name=name, originals=originals, seed=request.seed)
    if hub.is_fetched(VOICE_JUDGE):
        figures.append(_likeness(utterances, clips, [speech.clip for speech in said], request))
    rows = tuple(
        (text, (("recorded", clip, False), ("spoken", speech.clip, True)))
        for text, clip, speech in list(zip(texts, clips, said, strict=True))[:SHOWN]
    )
    return Evaluation(figures=figures, sounds=rows)


def _likeness(
    utterances: Sequence[Utterance], clips: Sequence[AudioClip], said: Sequence[AudioClip], request: EvaluationRequest
) -> Figure:
    """Whether it is the speaker's voice, as the speaker encoder hears it."""
    judge = hub.load_role(VOICE_JUDGE, "SpeakerEncoder", device=request.device)
    speakers = [utterance.speaker for utterance in utterances]
    again = [_another(number, speakers) for number in range(len(speakers))]
    return likeness_figure(
        "voice: likeness", judge, said, clips, [clips[i] for i in again], speakers, judge_name=VOICE_JUDGE
    )


def _another(number: int, speakers: Sequence[str | None]) -> int:
    """Another recording of the same speaker; the same one where there is no other."""
    others = [i for i, speaker in enumerate(speakers) if speaker == speakers[number] and i != number]
    return others[number % len(others)] if others else number


def _say_as(speaker: Speaker, number: int, utterances: Sequence[Utterance], clips: Sequence[AudioClip]) -> SayRequest:
    """Say the text in its speaker's voice: by tag where the model knows it, else by another recording of theirs."""
    wanted = utterances[number]
    text = wanted.text or ""
    if wanted.speaker in speaker.speakers:
        return SayRequest(text=text, speaker=wanted.speaker)
    others = [i for i, u in enumerate(utterances) if u.speaker == wanted.speaker and u.text != wanted.text]
    chosen = max(others or [number], key=lambda i: min(clips[i].duration_s, PROMPT_S))
    prompt = clips[chosen]
    longest = int(PROMPT_S * prompt.sample_rate_hz)
    whole = prompt.num_samples <= longest
    return SayRequest(
        text=text,
        prompt=prompt if whole else AudioClip(prompt.samples[:, :longest], prompt.sample_rate_hz),
        prompt_text=utterances[chosen].text if whole else None,
    )


def _report(request: EvaluationRequest, result: Evaluation, duration_s: float) -> Path:
    assert request.output is not None
    rows = []
    for number, (text, sounds) in enumerate(result.sounds):
        items = []
        for title, clip, synthetic in sounds:
            path = f"audio/{number:02d}-{title.replace(' ', '-')}.wav"
            write_audio(request.output / path, clip, synthetic=synthetic)
            items.append(AudioItem(path=path, title=title, text=text))
        rows.append(AudioRow(items=tuple(items), title=text))
    found = checkpoint.read(hub.locate(request.model))
    report = Report(
        title="voder eval",
        headline=f"{request.model} on the {request.split} recordings of {request.data}.",
        command=request.command,
        seed=request.seed,
        environment=environment(),
        duration_s=duration_s,
        peak_memory_mb=peak_memory_mb(),
        bundled=hub.locate(request.model).is_relative_to(hub.BUNDLED),
        figures=tuple(result.figures),
        listen=(Section(title="Listen", rows=tuple(rows)),) if rows else (),
        extra={"model": _described(found)},
    )
    return write_report(request.output, report)


def _described(found: checkpoint.Checkpoint) -> dict[str, Any]:
    return {
        "system": found.system,
        "identity": checkpoint.identity(found.folder),
        "settings": to_yaml(found.config),
        "provenance": found.provenance,
    }
