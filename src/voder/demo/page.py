"""The demo's report: what the stages recorded, laid out for `voder.evaluate.report`."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from voder import hub
from voder.audio.io import read_audio
from voder.demo.pipeline import figure_of
from voder.demo.promises import (
    BUNDLED,
    EARS_CODEC,
    FROM_SCRATCH,
    MEMORY_MB,
    NEW_AFTER,
    NEW_BEFORE,
    SAID_PROMPT,
    SAID_TAG,
    TIME_S,
    held_to,
)
from voder.evaluate.figures import Figure
from voder.evaluate.report import (
    AudioItem,
    AudioRow,
    Change,
    CodebookUsage,
    Command,
    Curve,
    Report,
    Section,
    Sound,
    Source,
    Spectrograms,
    Stage,
    Table,
    environment,
)

if TYPE_CHECKING:
    from voder.demo.run import Places

OWN_RECORDINGS = (
    ("voder prepare FOLDER -o data/", "data/train.jsonl, valid.jsonl, test.jsonl"),
    ("voder train spectral --data data/ -o runs/codec", "a codec; `encodec` in its place trains the paper's"),
    ("voder tokenize data/ --tokenizer runs/codec -o tokens/", "the recordings as codes"),
    ("voder train valle --data tokens/ -o runs/voice", "a voice"),
    ("voder train ctc --data data/ -o runs/ears", "a recogniser"),
    ('voder say "…" --voice prompt.wav --model runs/voice -o out.wav', "speech in the voice of 1 to 3 seconds"),
    ("voder transcribe out.wav --model runs/ears", "what is said in it"),
    ("voder eval runs/voice --data data/ --judge runs/ears", "how often what it says is understood"),
)


def build(
    records: Sequence[dict[str, Any]],
    results: dict[str, Any],
    *,
    places: "Places",
    seed: int,
    from_scratch: bool,
    duration_s: float,
    credit: str,
    command: str,
) -> Report:
    """Lay out everything the stages found."""
    figures = _figures(results, FROM_SCRATCH if from_scratch else BUNDLED, from_scratch)
    total_s = sum(record["seconds"] for record in records)
    by_name = {figure.name: figure for figure in figures}
    tagged, prompted = by_name[SAID_TAG], by_name[SAID_PROMPT]
    before, after = by_name[NEW_BEFORE], by_name[NEW_AFTER]
    return Report(
        title="voder demo",
        headline=(
            f"A model of {_parameters(places.voice)} parameters said {tagged.n} digit strings that it never met in "
            f"training; a recogniser that never heard synthetic speech got {tagged.shown()} of the words wrong by "
            f"speaker tag and {prompted.shown()} by audio prompt. In the voice of a speaker whom no checkpoint ever "
            f"heard it got {before.shown()} wrong before two minutes of fine-tuning and {after.shown()} after; it "
            f"gets {after.shown(after.originals)} wrong on that speaker's own recordings."
        ),
        command=command,
        seed=seed,
        environment=environment(),
        duration_s=duration_s,
        peak_memory_mb=max(record["peak_memory_mb"] for record in records),
        bundled=not from_scratch,
        figures=figures,
        costs=_costs(records, total_s, from_scratch),
        key_figures=(SAID_TAG, SAID_PROMPT, EARS_CODEC, NEW_AFTER),
        stages=tuple(_stage(record) for record in records),
        listen=_listen(results),
        changes=(Change(title="Words wrong in the new speaker's voice", before=NEW_BEFORE, after=NEW_AFTER),),
        curves=_curves(places),
        spectrograms=_spectrograms(results["codec"], places.output),
        codebooks=(
            CodebookUsage(
                title="Codes of the test recordings",
                codes=np.array(results["codec"]["codes"]),
                codebook_size=results["codec"]["codebook_size"],
            ),
        ),
        tables=(_rates(results["codec"]),),
        sources=(_source(credit),),
        own_recordings=tuple(Command(line=line, note=note) for line, note in OWN_RECORDINGS),
        notes=_notes(from_scratch),
        extra={"said": {name: results[name]["said"] for name in ("said_by_tag", "said_by_prompt", "new_after")}},
    )


def _figures(results: dict[str, Any], bars: Any, from_scratch: bool) -> tuple[Figure, ...]:
    order = ("listening", "codec", "said_by_tag", "said_by_prompt", "new_before", "new_after")
    figures = [held_to(figure_of(record), bars) for name in order for record in results[name]["figures"]]
    before = next(figure.value for figure in figures if figure.name == NEW_BEFORE)
    if from_scratch or before is None:
        return tuple(figures)
    return tuple(replace(f, must=before * 2 / 3) if f.name == NEW_AFTER else f for f in figures)


def _parameters(voice: str) -> str:
    model, _, _ = hub.load_model(hub.locate(voice))
    return f"{sum(p.numel() for p in model.parameters()) / 1e6:.1f} million"


def _costs(records: Sequence[dict[str, Any]], total_s: float, from_scratch: bool) -> tuple[Figure, ...]:
    bar = TIME_S["from scratch" if from_scratch else "bundled"]
    memory = max(record["peak_memory_mb"] for record in records)
    return (
        Figure(name="time of all stages", value=total_s, unit="s", must=bar.must, aim=bar.aim),
        Figure(name="peak memory", value=memory, unit="MB", must=MEMORY_MB),
    )


def _stage(record: dict[str, Any]) -> Stage:
    result = record["result"]
    return Stage(
        name=record["title"],
        duration_s=record["seconds"],
        steps=result.get("steps"),
        command=result.get("command", ""),
    )


def _listen(results: dict[str, Any]) -> tuple[Section, ...]:
    codec = Section(
        title="Through the codec",
        rows=tuple(_codec_row(example) for example in results["codec"]["examples"]),
        note="Test recordings, and what comes back from their codes.",
    )
    spoken = [
        Section(title=title, rows=tuple(_spoken_row(e) for e in results[name]["examples"]), note=note)
        for name, title, note in (
            ("said_by_tag", "Unseen strings, by speaker tag", "The model is told whose voice, by name."),
            ("said_by_prompt", "Unseen strings, by audio prompt", "The model hears 1 to 3 seconds of the voice."),
        )
    ]
    pairs = zip(results["new_before"]["examples"], results["new_after"]["examples"], strict=True)
    new = Section(
        title="A speaker whom the checkpoints never heard, before and after fine-tuning",
        rows=tuple(_new_row(before, after) for before, after in pairs),
    )
    return (codec, *spoken, new)


def _codec_row(example: dict[str, Any]) -> AudioRow:
    original, restored = example["files"]
    return AudioRow(
        items=(
            AudioItem(path=original, title="original", text=example["text"]),
            _heard(example, restored, "through the codec"),
        )
    )


def _heard(example: dict[str, Any], path: str, title: str) -> AudioItem:
    text, heard = example["text"], example["heard"]
    return AudioItem(path=path, title=title, text=text, heard=heard, correct=text == heard)


def _spoken_row(example: dict[str, Any]) -> AudioRow:
    recorded, prompt, spoken = example["files"]
    return AudioRow(
        title=example["speaker"],
        items=(
            AudioItem(path=prompt, title="prompt", text=example["prompt_text"]),
            AudioItem(path=recorded, title="as recorded", text=example["text"]),
            _heard(example, spoken, "spoken"),
        ),
    )


def _new_row(before: dict[str, Any], after: dict[str, Any]) -> AudioRow:
    return AudioRow(
        title=before["speaker"],
        items=(
            AudioItem(path=before["files"][0], title="as recorded", text=before["text"]),
            _heard(before, before["files"][2], "before"),
            _heard(after, after["files"][2], "after"),
        ),
    )


_LOSSES = {
    "ctc": {"model/loss": "loss"},
    "spectral": {"model/mel_distance": "mel distance"},
    "valle": {"ar/loss": "codebook 1", "nar/loss": "other codebooks"},
}


def _curves(places: "Places") -> tuple[Curve, ...]:
    """Training curves of the three checkpoints and of the fine-tuning."""
    curves = []
    for title, system, where in (
        ("ears", "ctc", places.ears),
        ("codec", "spectral", places.codec),
        ("voice", "valle", places.voice),
        ("fine-tuning", "valle", str(places.tuned)),
    ):
        lines = _metrics(hub.locate(where) / "metrics.jsonl")
        for key, name in _LOSSES[system].items():
            points = [(line["step"], line[key]) for line in lines if key in line]
            if points:
                steps, values = zip(*points, strict=True)
                curves.append(Curve(name=name, steps=steps, values=values, group=f"{title} ({system})"))
    return tuple(curves)


def _metrics(file: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def _spectrograms(codec: dict[str, Any], output: Path) -> tuple[Spectrograms, ...]:
    pictures = []
    for example in codec["examples"][:2]:
        clips = [read_audio(output / file) for file in example["files"]]
        sounds = tuple(
            Sound(title=title, samples=clip.samples, sample_rate_hz=clip.sample_rate_hz)
            for title, clip in zip(("original", "through the codec"), clips, strict=True)
        )
        pictures.append(Spectrograms(title=f"“{example['text']}”", sounds=sounds))
    return tuple(pictures)


def _rates(codec: dict[str, Any]) -> Table:
    return Table(
        title="Bit rate and words",
        columns=("codebooks", "bit/s", "words wrong (%)"),
        rows=tuple((str(books), rate, round(error, 1)) for books, rate, error in codec["rates"]),
        note="Fewer codebooks of the same codes; judged by the ears.",
    )


def _source(credit: str) -> Source:
    name, url, licence, *_ = credit.splitlines()
    return Source(
        name="Free Spoken Digit Dataset", credit=name, licence=licence.removeprefix("Licence: "), url=url.split(",")[0]
    )


def _notes(from_scratch: bool) -> tuple[str, ...]:
    made = (
        "All three checkpoints were trained in this run."
        if from_scratch
        else "The checkpoints came with the package; their cards say how they were trained, with the same commands."
    )
    return (
        made,
        "The ears that judge were trained on recordings only and never heard synthetic speech.",
        "Strings are joins of single test recordings; training used other recordings, and never these strings.",
        "Chance is the error of random words in the right number.",
        "Spoken files carry a mark in their metadata that they are synthetic.",
    )
