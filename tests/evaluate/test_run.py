"""`voder eval`: figures by role, the judge named, a report that can be listened to."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from voder import hub
from voder.audio.io import is_marked_synthetic
from voder.errors import CheckpointError, ConfigError, ManifestError
from voder.evaluate.bench import Bench
from voder.evaluate.run import PROMPT_S, EvaluationRequest, evaluate


@pytest.fixture
def request_for(bench: Bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path):  # a function of the system's name
    """An evaluation of a tiny system, where nothing is bundled."""
    monkeypatch.setattr(hub, "BUNDLED", tmp_path / "bundled")

    def make(system: str, **changes: object) -> EvaluationRequest:
        model = str(bench.trained(system))
        request = EvaluationRequest(model=model, data=bench.recordings, limit=4, device=torch.device("cpu"))
        return replace(request, **changes)  # type: ignore[arg-type]

    return make


def quiet(text: str) -> None:
    """Say nothing."""


def test_a_codec_is_measured_with_and_without_a_judge(request_for, bench: Bench, tmp_path: Path) -> None:
    figures, page = evaluate(request_for("spectral"), say=quiet)
    assert page is None
    assert {"codec: bit rate", "codec: log-mel distance"} <= {figure.name for figure in figures}
    judged = request_for(
        "spectral", judge=str(bench.trained("ctc")), output=tmp_path / "report", command="voder eval x"
    )
    figures, page = evaluate(judged, say=quiet)
    error = next(figure for figure in figures if "word error" in figure.name)
    assert error.originals is not None
    assert error.judge is not None
    assert error.judge.startswith("ctc ")
    assert page == tmp_path / "report" / "report.html"
    record = json.loads((tmp_path / "report" / "report.json").read_text())
    assert record["command"] == "voder eval x"
    assert record["model"]["system"] == "spectral"
    assert is_marked_synthetic(tmp_path / "report" / "audio" / "00-through-the-codec.wav")
    assert not is_marked_synthetic(tmp_path / "report" / "audio" / "00-original.wav")


def test_a_recogniser_is_measured_against_the_transcripts(request_for) -> None:
    figures, _ = evaluate(request_for("ctc"), say=quiet)
    assert [figure.name for figure in figures] == ["ears: word error", "ears: character error"]
    assert figures[0].n == 4
    with pytest.raises(ConfigError, match="--judge judges voices and codecs"):
        evaluate(request_for("ctc", judge="x"), say=quiet)


def test_a_voice_needs_a_judge_and_says_texts_outside_training(request_for, bench: Bench, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="name one with --judge"):
        evaluate(request_for("valle"), say=quiet)
    judged = request_for("valle", judge=str(bench.trained("ctc")), output=tmp_path / "report")
    figures, _ = evaluate(judged, say=quiet)
    assert next(figure for figure in figures if figure.name == "voice: word error").originals is not None
    again, _ = evaluate(judged, say=quiet)
    assert again == figures
    assert is_marked_synthetic(tmp_path / "report" / "audio" / "00-spoken.wav")


def test_a_bundled_judge_is_taken_and_named(request_for, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    import shutil

    from voder import checkpoint

    request = request_for("spectral")
    shutil.copytree(checkpoint.resolve(bench.trained("ctc")), hub.BUNDLED / "ctc" / "demo")
    told: list[str] = []
    figures, _ = evaluate(request, say=told.append)
    assert any("word error" in figure.name for figure in figures)
    assert len(told) == 1
    assert "ctc/demo" in told[0]


def test_a_speaker_the_model_does_not_know_is_said_by_prompt(bench: Bench) -> None:
    from voder.data.manifest import Manifest
    from voder.evaluate.run import _say_as
    from voder.evaluate.suites import read_clips

    speaker = hub.load(bench.trained("valle"))
    utterances = [replace(u, speaker="somebody") for u in Manifest.open(bench.recordings / "test.jsonl")]
    clips = read_clips(utterances)
    request = _say_as(speaker, 0, utterances, clips)
    assert request.speaker is None
    assert request.prompt is not None
    assert request.prompt.duration_s <= PROMPT_S
    assert request.prompt_text != utterances[0].text
    known = [replace(u, speaker="ann") for u in utterances]
    assert _say_as(speaker, 0, known, clips).speaker == "ann"


@pytest.mark.parametrize(("split", "content"), [("other", None), ("valid", "")])
def test_a_split_without_recordings_is_named(request_for, tmp_path: Path, split: str, content: str | None) -> None:
    if content is not None:
        (tmp_path / f"{split}.jsonl").write_text(content)
    with pytest.raises(ManifestError, match=rf"{split}\.jsonl"):
        evaluate(request_for("spectral", data=tmp_path, split=split), say=quiet)


def test_what_has_no_measurable_role_is_named(request_for, bench: Bench) -> None:
    with pytest.raises(CheckpointError, match="neither codec, voice nor recogniser"):
        evaluate(request_for("beats"), say=quiet)
