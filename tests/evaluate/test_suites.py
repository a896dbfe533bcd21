import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.data.manifest import Manifest, Utterance, write_manifest
from voder.errors import ManifestError
from voder.evaluate import suites
from voder.roles import SayRequest, Speaker, Speech, Transcriber, Transcript

WORDS = {200.0: "low", 800.0: "mid", 2500.0: "high"}


def tone(frequency, count=4000):
    time = np.arange(count) / 8000
    return AudioClip((np.sin(2 * np.pi * frequency * time) * 0.5)[None].astype(np.float32), 8000)


class PitchJudge(Transcriber):
    """Hears which of three tones is loudest; deaf to anything quieter than a whisper."""

    def transcribe_batch(self, clips):
        return [Transcript(text=self._hear(clip), heard_s=clip.duration_s) for clip in clips]

    def _hear(self, clip):
        if np.abs(clip.samples).max() < 1e-3:
            return ""
        spectrum = np.abs(np.fft.rfft(clip.samples.mean(0)))
        peak = spectrum.argmax() * clip.sample_rate_hz / clip.num_samples
        return WORDS[min(WORDS, key=lambda frequency: abs(frequency - peak))]


class Beeper(Speaker):
    """Says low, mid and high as tones; gets `wrong` wrong and cuts what is longer than one word."""

    def __init__(self, wrong=()):
        super().__init__()
        self.wrong, self.seeds = wrong, []

    @property
    def speakers(self):
        return ("robot",)

    def say_batch(self, requests, *, seed=0, **sampling):
        self.seeds.append(seed)
        return [self._say(request.text) for request in requests]

    def _say(self, text):
        word = "low" if text in self.wrong else text.split()[0]
        frequency = next(f for f, w in WORDS.items() if w == word)
        cut = len(text.split()) > 1
        return Speech(
            clip=tone(frequency), codes=np.zeros((1, 1), np.int64), stop_reason="limit" if cut else "end", truncated=cut
        )


@pytest.fixture
def manifest(tmp_path):
    made = []
    for number, (frequency, word) in enumerate([*WORDS.items(), (200.0, None)] * 2):
        write_audio(tmp_path / f"{number}.wav", tone(frequency, 3000 + 400 * number))
        made.append(
            Utterance(
                id=str(number),
                audio=tmp_path / f"{number}.wav",
                duration_s=(3000 + 400 * number) / 8000,
                num_samples=3000 + 400 * number,
                sample_rate_hz=8000,
                channels=1,
                text=word,
            )
        )
    write_manifest(tmp_path / "test.jsonl", made)
    return Manifest.open(tmp_path / "test.jsonl")


def named(figures):
    return {figure.name: figure for figure in figures}


def test_only_recordings_with_a_text_are_scored_and_a_limit_spreads(manifest):
    assert [u.id for u in suites.spoken(manifest)] == ["0", "1", "2", "4", "5", "6"]
    assert [u.id for u in suites.spoken(manifest, 3)] == ["0", "2", "5"]


def test_nothing_to_score_is_said(tmp_path, manifest):
    write_manifest(tmp_path / "mute.jsonl", [manifest[3]])
    with pytest.raises(ManifestError, match="no recording with a text"):
        suites.spoken(Manifest.open(tmp_path / "mute.jsonl"))


def test_transcripts_keep_the_order_of_the_clips():
    clips = [tone(f, count) for f, count in ((2500.0, 9000), (200.0, 2000), (800.0, 5000))]
    assert suites.hear(PitchJudge(), clips) == ["high", "low", "mid"]


def test_a_perfect_transcriber_has_no_errors_beside_chance(manifest):
    figures = named(suites.evaluate_transcriber(PitchJudge(), suites.spoken(manifest)))
    error = figures["ears: word error"]
    assert (error.value, error.n, error.interval) == (0.0, 6, (0.0, 0.0))
    assert error.chance is not None
    assert 20 < error.chance <= 100
    assert figures["ears: character error"].value == 0.0


def test_errors_are_counted_by_kind():
    figure = suites.error_figure("x", ["low mid", "high"], ["low", "mid high"])
    assert figure.value == pytest.approx(100 * 2 / 3)
    assert "3 words: 0 substituted, 1 left out, 1 put in" in figure.note
    assert figure.interval is not None
    assert figure.interval[0] <= figure.value <= figure.interval[1]


def test_codec_figures_carry_the_judge_on_the_originals(manifest):
    torch.manual_seed(0)
    codec = hub.build("spectral/tiny").eval().requires_grad_(False)
    figures = named(suites.evaluate_codec(codec, suites.spoken(manifest), PitchJudge(), judge_name="pitch"))
    through = figures["codec: word error through it"]
    assert through.originals == 0.0
    assert through.judge == "pitch"
    assert through.value is not None
    assert through.value > 0, "a codec that never learned cannot keep the words"
    assert figures["codec: bit rate"].value == 200.0
    assert figures["codec: log-mel distance"].value > 0
    assert figures["codec: STOI"].n == 6
    assert 1 <= figures["codec: perplexity of codebook 2"].value <= 16


def test_a_codec_without_judge_is_measured_without_words(manifest):
    codec = hub.build("spectral/tiny").eval().requires_grad_(False)
    names = named(suites.evaluate_codec(codec, list(manifest), num_codebooks=1))
    assert "codec: word error through it" not in names
    assert names["codec: bit rate"].value == 100.0
    assert "codec: perplexity of codebook 2" not in names


def test_round_trips_come_back_in_order_at_their_length(manifest):
    codec = hub.build("spectral/tiny").eval().requires_grad_(False)
    clips = [tone(200.0, 5000), tone(800.0, 300), tone(200.0, 4000)]
    made = suites.round_trips(codec, clips)
    assert [trip.restored.num_samples for trip in made] == [5000, 300, 4000]
    assert [trip.codes.shape for trip in made] == [(2, 16), (2, 1), (2, 13)]


def test_a_voice_is_judged_with_whole_strings_and_cuts():
    requests = [SayRequest(text=text) for text in ("low", "mid", "high", "mid high")]
    voice = Beeper(wrong=("mid",))
    figures, said = suites.evaluate_speaker(voice, requests, PitchJudge(), originals=1.5, batch=3)
    by_name = named(figures)
    assert by_name["voice: word error"].value == pytest.approx(100 * 2 / 5)
    assert by_name["voice: word error"].originals == 1.5
    assert by_name["voice: whole strings right"].value == 50.0
    assert by_name["voice: cut at the length limit"].value == 25.0
    assert len(said) == 4
    assert len(set(voice.seeds)) == 2, "batches must not repeat each other's randomness"


def test_figures_go_into_json(manifest):
    import json

    figures = suites.evaluate_transcriber(PitchJudge(), suites.spoken(manifest))
    assert json.loads(json.dumps([figure.to_dict() for figure in figures]))[0]["unit"] == "%"
