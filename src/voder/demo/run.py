"""`voder demo`: real recordings in, a model that speaks and listens out, and a report of how well.

With the bundled checkpoints: compress and restore, say unseen strings, transcribe them back, then fine-tune the
voice on a speaker that no checkpoint ever heard. `--from-scratch` trains all three checkpoints first. Every stage
that ended is reused when the command is given again; training goes on where it was.
"""

import shutil
import sys
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from voder import hub
from voder.demo import page, pipeline
from voder.demo.pipeline import Judges, Strings, Training
from voder.demo.promises import NEW_AFTER, NEW_BEFORE, SAID_PROMPT, SAID_TAG
from voder.demo.recordings import unpack
from voder.demo.stages import Stages
from voder.errors import InputError
from voder.evaluate.report import Report, write_report
from voder.evaluate.run import OUTSIDE_JUDGE, VOICE_JUDGE
from voder.files import write_text

SCRATCH_STEPS = {"ctc": 1400, "spectral": 2200, "valle": 2800}
"""Training steps from nothing, chosen to fit 14 minutes on two cores."""
TUNE_STEPS = 700
"""Fine-tuning steps: two minutes on two cores. They see the new speaker's recordings beside those of the known ones:
with the new speaker's alone (240 words) the voice forgets how to read, and says 38 % of the words wrong."""
TUNE_OVERRIDES = (
    f"loop.steps={TUNE_STEPS}",
    "loop.optimizer.learning_rate=1e-4",
    "loop.schedule.warmup_steps=20",
    "task.curriculum_steps=0",
    f"loop.evaluate_every={TUNE_STEPS}",
    f"loop.save_every={TUNE_STEPS // 4}",
)


@dataclass(frozen=True, kw_only=True)
class Places:
    """Where things lie: everything below the output folder, but for bundled checkpoints."""

    output: Path
    codec: str
    ears: str
    voice: str

    @property
    def data(self) -> Path:
        """Manifests of the four known speakers."""
        return self.output / "data"

    @property
    def new_data(self) -> Path:
        """Manifests of the new speaker."""
        return self.output / "new"

    @property
    def all_data(self) -> Path:
        """Manifests of all five speakers."""
        return self.output / "everyone"

    @property
    def all_tokens(self) -> Path:
        """Token shards of all five speakers."""
        return self.output / "everyone_tokens"

    @property
    def tuned(self) -> Path:
        """The run that fine-tunes the voice."""
        return self.output / "runs" / "new_voice"


def run_demo(
    output: Path,
    *,
    from_scratch: bool = False,
    fresh: bool = False,
    seed: int = 0,
    second_judge: str | None = None,
    command: str = "",
) -> Path:
    """Run the demo into `output` and return the path of its report.

    `second_judge` names a recogniser from outside to judge speech too; unasked, those that `voder fetch` has brought
    are heard: whisper-base for words, ge2e for voices.

    Raises:
        KeyboardInterrupt: it was interrupted; the same command goes on.
        VoderError: anything a user can mend.
    """
    started = time.monotonic()
    if fresh and output.exists():
        _claim(output)  # never deletes what is not a demo's
        shutil.rmtree(output)
    _claim(output)
    places = _places(output, from_scratch)
    stages = Stages(output)
    recordings = unpack(output / "recordings")
    base = {"seed": seed, "from_scratch": from_scratch}
    prepared = {places.data: recordings.known, places.new_data: recordings.new, places.all_data: recordings.everyone}
    for data, folder in prepared.items():
        work = partial(pipeline.prepare, folder, data, seed)
        stages.run(f"prepare_{data.name}", base, work, title=f"prepare {data}")
    if from_scratch:
        _train_all(stages, places, base, seed)
    second = second_judge or (OUTSIDE_JUDGE if hub.is_fetched(OUTSIDE_JUDGE) else None)
    voice = VOICE_JUDGE if hub.is_fetched(VOICE_JUDGE) else None
    judges = Judges(ears=hub.load_role(places.ears, "Transcriber"), second=second, voice=voice)
    results = _evaluate(stages, places, base, seed, judges)
    report = page.build(
        stages.records,
        results,
        places=places,
        seed=seed,
        from_scratch=from_scratch,
        duration_s=time.monotonic() - started,
        credit=recordings.credit,
        command=command,
    )
    path = write_report(output, report)
    _conclude(report, path)
    return path


def _claim(output: Path) -> None:
    """Mark the folder as the demo's own, and refuse to write into somebody's files."""
    mark = output / "voder-demo.txt"
    if output.is_dir() and any(output.iterdir()) and not mark.is_file():
        raise InputError(f"{output} is not empty and not a demo's folder; choose another one with -o")
    output.mkdir(parents=True, exist_ok=True)
    if not mark.is_file():
        write_text(mark, "Made by `voder demo`; delete the folder, or run the command with --fresh, to start over.\n")


def _places(output: Path, from_scratch: bool) -> Places:
    if not from_scratch:
        return Places(output=output, codec="spectral/demo", ears="ctc/demo", voice="valle/demo")
    runs = output / "runs"
    return Places(output=output, codec=str(runs / "codec"), ears=str(runs / "ears"), voice=str(runs / "voice"))


def _train_all(stages: Stages, places: Places, base: dict[str, Any], seed: int) -> None:
    """Ears, codec, tokens, voice: from nothing."""

    def train(name: str, system: str, data: Path, output: str) -> None:
        overrides = (f"loop.steps={SCRATCH_STEPS[system]}",)
        training = Training(system=system, data=data, output=Path(output), overrides=overrides, seed=seed)
        stages.run(name, base | {"command": training.command}, training.run, title=training.command)

    train("train_ears", "ctc", places.data, places.ears)
    train("train_codec", "spectral", places.data, places.codec)
    tokens = places.output / "tokens"
    stages.run(
        "tokenize",
        base,
        lambda: pipeline.tokenize(places.data, Path(places.codec), tokens),
        title=f"tokenize {places.data}",
    )
    train("train_voice", "valle", tokens, places.voice)


def _evaluate(stages: Stages, places: Places, base: dict[str, Any], seed: int, judges: Judges) -> dict[str, Any]:
    """Listen, compress, speak, fine-tune, speak again."""
    ears, codec = judges.ears, hub.load(places.codec)
    output, rate = places.output, codec.sample_rate_hz
    known_test, new_test = places.data / "test.jsonl", places.new_data / "test.jsonl"
    results: dict[str, Any] = {}
    asked = base | {"second_judge": judges.second, "voice_judge": judges.voice}

    def strings(name: str, manifest: Path, count: int, seed: int) -> Strings:
        lines = pipeline.lines_of(manifest, count, sample_rate_hz=rate, seed=seed)
        title = f"choose {count} unseen strings"
        outside = stages.run(name, asked, lambda: {"error": pipeline.outside_error(lines, judges.second)}, title=title)
        return Strings(lines=lines, outside=outside["error"])

    def speak(name: str, figure: str, chosen: Strings, voice: str, by: str) -> None:
        def work() -> dict[str, Any]:
            return pipeline.speaking(figure, chosen, hub.load(voice), judges, output, by=by, tag=name, seed=seed)

        results[name] = stages.run(name, asked, work, title=figure)

    known = strings("known_strings", known_test, pipeline.NUM_STRINGS, seed)
    new = strings("new_strings", new_test, pipeline.NUM_NEW_STRINGS, seed + 1)
    results["listening"] = stages.run(
        "listening", base, lambda: pipeline.listening(ears, places.data, places.new_data), title="transcribe recordings"
    )
    results["codec"] = stages.run(
        "codec",
        base,
        lambda: pipeline.through_codec(codec, ears, places.data, output),
        title="compress and restore recordings",
    )
    speak("said_by_tag", SAID_TAG, known, places.voice, "tag")
    speak("said_by_prompt", SAID_PROMPT, known, places.voice, "prompt")
    speak("new_before", NEW_BEFORE, new, places.voice, "prompt")
    stages.run(
        "tokenize_everyone",
        base,
        lambda: pipeline.tokenize(places.all_data, hub.locate(places.codec), places.all_tokens),
        title=f"tokenize {places.all_data}",
    )
    tuning = Training(
        system="valle",
        data=places.all_tokens,
        output=places.tuned,
        overrides=TUNE_OVERRIDES,
        start=places.voice,
        seed=seed,
    )
    stages.run("fine_tune", base | {"command": tuning.command}, tuning.run, title=tuning.command)
    speak("new_after", NEW_AFTER, new, str(places.tuned), "prompt")
    return results


def _conclude(report: Report, path: Path) -> None:
    """The figures and what to do next: on stdout, since they are the result."""
    width = max(len(figure.name) for figure in report.figures)
    for figure in (*report.figures, *report.costs):
        if figure.must is not None or figure.aim is not None:
            bar = "" if figure.must is None else f"  (must {figure.sign} {figure.limit(figure.must)})"
            print(f"{figure.name:<{width}}  {figure.shown():>9}{bar}  {figure.verdict()}")  # noqa: T201
    print(f"\nListen and look: {path}\n\nNow with your own recordings:\n")  # noqa: T201
    for line in report.own_recordings:
        print(f"    {line.line}")  # noqa: T201
    sys.stdout.flush()
