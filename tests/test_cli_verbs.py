"""Verbs over roles that the tests play: units, continue, ask, chat; and the plan of a training run."""

import io
import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from types import MappingProxyType
from typing import Any, ClassVar

import numpy as np
import pytest
import torch
import toys

from voder import cli, hub
from voder.audio.io import AudioClip, is_marked_synthetic, read_audio, write_audio
from voder.errors import InputError
from voder.roles import Answer, Chatter, Continuer, Listener, Speech, Transcriber, Transcript, Turn, UnitTokenizer
from voder.train.stages import Stage

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Run the command in an empty folder with a recording `in.wav`: exit code, stdout, stderr."""
    monkeypatch.chdir(tmp_path)
    write_audio("in.wav", AudioClip(np.full((1, 4000), 0.25, np.float32), 8000))
    roles = {"UnitTokenizer": Counter(), "Continuer": Echo(), "Listener": Hearer(), "Chatter": Parrot()}
    monkeypatch.setattr(hub, "load_any", lambda name, wanted, device: roles[wanted[0]])

    def call(*arguments: str) -> tuple[int, str, str]:
        status = cli.main(arguments)
        out, err = capsys.readouterr()
        return status, out, err

    return call


class Counter(UnitTokenizer):
    """One unit per thousand samples, each twice."""

    sample_rate_hz, hop, num_units, identity = 8000, 1000, 9, "counter"

    def __init__(self) -> None:
        super().__init__()
        self.anchor = torch.nn.Parameter(torch.zeros(1))

    def units_batch(self, audio: Any, lengths: Any = None) -> Any:
        count = audio.shape[-1] // 1000
        return torch.arange(count)[None] // 2, torch.tensor([count])


class Echo(Continuer):
    """Goes on with silence at twice the rate."""

    def continue_batch(self, clips: Any, *, duration_s: float, seed: int = 0, **sampling: Any) -> list[Speech]:
        Echo.asked = (duration_s, seed, sampling)
        samples = np.zeros((1, int(16000 * duration_s)), np.float32)
        cut = duration_s > 1
        return [
            Speech(clip=AudioClip(samples, 16000), codes=np.zeros((1, 1)), stop_reason="limit", truncated=cut)
            for _ in clips
        ]


class Hearer(Listener):
    """Answers with the question."""

    def answer_batch(self, clips: Any, questions: Sequence[str], *, seed: int = 0, **sampling: Any) -> list[Answer]:
        Hearer.asked = (seed, sampling)
        return [
            Answer(
                text=f"{q} {c.num_samples}",
                heard_s=c.duration_s,
                truncated="long" in q,
                stop_reason="only a part is heard" if "long" in q else "end",
            )
            for c, q in zip(clips, questions, strict=True)
        ]


class Parrot(Chatter):
    """Says how many turns there were, in text and sound."""

    takes, gives = ("text", "audio"), ("text", "audio")
    options: Mapping[str, tuple[str, ...]] = MappingProxyType({"task": ("answer", "speak")})
    asked: ClassVar[list[Any]] = []

    def reply(self, turns: Sequence[Turn], *, want: str | None = None, seed: int = 0, **sampling: Any) -> Turn:
        Parrot.asked.append((turns[-1].text, want, seed, sampling))
        if "bad" in turns[-1].text:
            raise InputError("that word is not liked")
        if "silence" in turns[-1].text:
            return Turn(role="assistant", parts=(), missing=("a voice",))
        clip = next((p for p in turns[-1].parts if isinstance(p, AudioClip)), None)
        parts: tuple[Any, ...] = (f"turn {len(turns)}",)
        return Turn(
            role="assistant",
            parts=parts if clip is None else (*parts, clip),
            missing=("images (the package diffusers)",) if want == "audio" else (),
        )


def test_units_are_written_merged_or_whole(run: Run) -> None:
    assert run("units", "in.wav", "--model", "m") == (0, "0 1\n", "")
    assert run("units", "in.wav", "--model", "m", "--keep-repeats") == (0, "0 0 1 1\n", "")
    status, out, _ = run("units", "in.wav", "--model", "m", "--format", "json")
    assert json.loads(out) == {
        "file": "in.wav",
        "units": [0, 1],
        "durations": [2, 2],
        "frame_rate_hz": 8.0,
        "heard_s": 0.5,
        "tokenizer": "counter",
    }
    status, out, err = run("units", "gone.wav", "in.wav", "--model", "m")
    assert (status, out) == (2, "in.wav: 0 1\n")
    assert "gone.wav" in err


def test_a_continuation_holds_the_beginning_and_what_follows(run: Run) -> None:
    status, out, err = run(
        "continue", "in.wav", "--model", "m", "--duration", "1", "-o", "o.wav", "--seed", "3", "--top-k", "7"
    )
    assert (status, out, err) == (0, "o.wav: 1.50 s\n", "")
    assert Echo.asked == (1.0, 3, {"top_k": 7})
    assert is_marked_synthetic("o.wav")
    made = read_audio("o.wav")
    assert made.sample_rate_hz == 16000
    assert abs(made.samples[0, 4000]) > 0.2
    assert not made.samples[0, 8100:].any()
    status, _, err = run("continue", "in.wav", "--model", "m", "--duration", "2", "-o", "o.wav")
    assert status == 3
    assert "cut short" in err
    status, _, err = run("continue", "in.wav", "--model", "m", "--duration", "nan", "-o", "p.wav")
    assert (status, Path("p.wav").exists()) == (2, False)
    assert "--duration is nan" in err


def test_a_question_is_answered_on_stdout(run: Run) -> None:
    assert run("ask", "in.wav", "what?", "--model", "m", "--beam", "3", "--seed", "2") == (0, "what? 4000\n", "")
    assert Hearer.asked == (2, {"beam": 3})
    status, out, err = run("ask", "in.wav", "a long one", "--model", "m")
    assert (status, out) == (3, "a long one 4000\n")
    assert "the answer is cut short: only a part is heard" in err
    assert run("ask", "in.wav", "what?", "--model", "m", "--lora-factor", "0")[0] == 0
    assert Hearer.asked == (0, {"lora_factor": 0.0})
    status, _, err = run("ask", "gone.wav", "what?", "--model", "no model")
    assert (status, "gone.wav" in err) == (2, True)


def test_a_conversation_survives_a_bad_turn(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = "hello\nbad\nsilence\n/audio gone.wav\n/image x.png\n/audio in.wav\nlisten\n/new\nagain\n\n/quit\nnever\n"
    monkeypatch.setattr("sys.stdin", io.StringIO(typed))
    status, out, err = run("chat", "--model", "m", "-o", "said", "--want", "audio")
    assert status == 0
    assert out.splitlines() == ["turn 1", "turn 3", "said/turn-003-2.wav", "turn 1"]
    assert is_marked_synthetic("said/turn-003-2.wav")
    assert "left out: a voice\nvoder: nothing was said; that turn is forgotten" in err
    for part in ("not liked; that turn is forgotten", "gone.wav", "no image", "a new conversation", "diffusers"):
        assert part in err


def test_options_of_a_conversation_reach_the_model_or_are_refused_at_once(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    Parrot.asked.clear()
    monkeypatch.setattr("sys.stdin", io.StringIO("a\n/want music\nb\n/want\nc\n/wnat\n/tmp/x is a path\n"))
    options = ("--max-new", "7", "--beam", "3", "--task", "speak", "--seed", "4", "--want", "audio")
    status, _, err = run("chat", "--model", "m", *options)
    given = {"max_new": 7, "num_beams": 3, "task": "speak"}
    wanted = [("a", "audio"), ("b", "music"), ("c", None), ("/tmp/x is a path", None)]
    assert status == 0
    assert Parrot.asked == [(text, want, 4, given) for text, want in wanted]
    assert "there is no command /wnat" in err
    assert "/want" in err
    status, _, err = run("chat", "--model", "m", "--hear", "music")
    assert status == 2
    assert "knows no --hear; it has --task" in err


def test_files_of_a_conversation_before_this_one_stay(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    made = []
    for _ in range(2):
        monkeypatch.setattr("sys.stdin", io.StringIO("/audio in.wav\nx\n/new\n/audio in.wav\nx\n"))
        made += [line for line in run("chat", "--model", "m")[1].splitlines() if line.endswith("wav")]
    assert made == [f"chat/turn-{number:03d}-2.wav" for number in (1, 2, 3, 4)]


def test_bytes_that_are_no_text_do_not_end_a_conversation(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    typed = io.TextIOWrapper(io.BytesIO(b"\xff\xfe\n/audio\nhello\n"), encoding="utf-8")
    monkeypatch.setattr("sys.stdin", typed)
    status, out, err = run("chat", "--model", "m")
    assert (status, out.splitlines()) == (0, ["turn 1", "turn 3"])
    assert "/audio needs a file" in err


def test_a_stage_is_planned_without_building_weights(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    toys.install()
    stage = Stage(
        summary="learns the end",
        section="3.2",
        trained=("out",),
        starts_from=("stage one",),
        data="letters, JSON",
        losses={"tokens": 1.0},
        settings=("loop.steps=77",),
        task_settings=("task.batch_size=3",),
        recalled=("loop.steps=77",),
    )
    toy = toys.SYSTEMS["toylm"]
    big = replace(toy, stages={"two": stage}, presets={**toy.presets, "paper": toys.tiny})
    monkeypatch.setattr(hub, "find", lambda name: big)
    status, out, err = run("train", "toylm", "--stage", "two", "--preset", "paper", "--dry-run")
    assert (status, err) == (0, "")
    model = toy.build(toy.preset("tiny").model)
    trained = sum(p.numel() for n, p in model.named_parameters() if n.startswith("out"))
    frozen = sum(p.numel() for p in model.parameters()) - trained
    for part in (
        "toylm/paper, stage two: learns the end (3.2)",
        f"{trained:,} parameters",
        f"{frozen:,} parameters",
        "stage one",
        "letters, JSON",
        "tokens x 1",
        "77, ",
        "recalled",
    ):
        assert part in out
    _, config, _ = run("train", "toylm", "--stage", "two", "--preset", "tiny", "--print-config")
    assert "batch_size: 3" in config
    assert "steps: 12" in config
    status, _, err = run("train", "toylm", "--stage", "tow", "--dry-run")
    assert status == 2
    assert "no stage 'tow'; the nearest is 'two'" in err


@dataclass(frozen=True, kw_only=True)
class Timed(Transcript):
    """A transcript with one segment."""

    language: str

    def record(self) -> dict[str, Any]:
        segment = {"start": 0.0, "end": 0.5, "text": self.text}
        return {"text": self.text, "segments": [segment], "language": self.language}


class Optioned(Transcriber):
    """Says with which options it listened."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.options = options

    def configured(self, **options: Any) -> "Optioned":
        return Optioned(**options)

    def transcribe_batch(self, clips: Any) -> list[Transcript]:
        text = " ".join(f"{key}={value}" for key, value in sorted(self.options.items()))
        return [Timed(text=text, heard_s=0.5, language="en") for _ in clips]


def test_options_of_listening_reach_the_recogniser_and_formats_the_folder(
    run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(hub, "load_any", lambda name, wanted, device: Optioned())
    said = run(
        "transcribe", "in.wav", "--model", "m", "--language", "de", "--task", "translate", "--beam", "5",
        "--prompt", "Ann", "--word-timestamps", "--seed", "3",
    )  # fmt: skip
    expected = "beam_size=5 initial_prompt=Ann language=de seed=3 task=translate word_timestamps=True\n"
    assert said == (0, expected, "")
    assert run("transcribe", "in.wav", "--model", "m", "--beam", "2", "--format", "srt") == (
        0,
        "1\n00:00:00,000 --> 00:00:00,500\nbeam_size=2\n\n",
        "",
    )
    status, out, err = run("transcribe", "in.wav", "--model", "m", "-o", "t", "--format", "txt", "--format", "vtt")
    assert (status, out, err) == (0, "t/in.txt\nt/in.vtt\n", "")
    assert Path("t/in.vtt").read_text().startswith("WEBVTT")
    Path("other").mkdir()
    write_audio("other/in.wav", read_audio("in.wav"))
    for arguments, message in (
        (["in.wav", "--format", "txt", "--format", "srt"], "need a folder"),
        (["in.wav", "other/in.wav", "--format", "srt"], "needs a folder"),
        (["in.wav", "other/in.wav", "-o", "t"], "would both be written"),
        (["in.wav", "--format", "doc"], "no format 'doc'"),
    ):
        status, out, err = run("transcribe", *arguments, "--model", "m")
        assert (status, out) == (2, "")
        assert message in err


def test_fetch_lists_what_can_be_had_and_offers_the_nearest_name(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VODER_HOME", str(tmp_path / "home"))
    status, out, err = run("fetch")
    assert (status, err) == (0, "")
    assert re.search(r"^whisper-base +whisper +145 MB +pip or hub +MIT", out, re.MULTILINE)
    assert re.search(r"^beats-iter3-plus +beats +361 MB +by hand +MIT", out, re.MULTILINE)
    assert max(map(len, out.splitlines())) <= 100
    status, out, err = run("fetch", "whisper-bace")
    assert (status, out) == (2, "")
    assert "the nearest is 'whisper-base'" in err
    (tmp_path / "empty").mkdir()
    status, out, err = run("fetch", "whisper-base", "--from", str(tmp_path / "empty"))
    assert (status, out) == (2, "")
    assert "whisper-base: speech in 99 languages" in err  # size and licence first
    assert "MIT" in err.splitlines()[0]
