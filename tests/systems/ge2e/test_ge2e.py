"""A speaker encoder: its front end, windows, loss, published layout and judgement."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from voder import checkpoint, hub
from voder.audio.features import mel_filterbank
from voder.audio.io import AudioClip
from voder.errors import CheckpointError, ManifestError
from voder.systems.ge2e import SYSTEM, convert
from voder.systems.ge2e.config import Ge2eConfig
from voder.systems.ge2e.infer import verification
from voder.systems.ge2e.model import Ge2e
from voder.systems.ge2e.train import Ge2eTask, similarities

SMALL = Ge2eConfig(width=12, num_layers=3, embedding_width=8)


@pytest.fixture(scope="module")
def encoder():
    torch.manual_seed(0)
    made = Ge2e(SMALL).eval()
    torch.nn.init.uniform_(made.linear.bias, 0.1, 0.5)  # so that no vector is all zeros behind the ReLU
    return made


def noise(seconds, level=0.1, seed=0):
    samples = np.random.default_rng(seed).standard_normal(round(16_000 * seconds)) * level
    return samples.astype(np.float32)


def by_hand(encoder, samples):
    """The published recipe, step by step, in float64 where it can be."""
    level = 20 * np.log10(np.sqrt(np.mean((samples.astype(np.float64) * 32767) ** 2)) / 32767)
    samples = samples * 10 ** (max(0.0, -30 - level) / 20)
    num_frames = int(np.ceil((len(samples) + 1) / 160))
    starts = list(range(0, max(1, num_frames - 160 + 77 + 1), 77))
    if (len(samples) - starts[-1] * 160) / 25_600 < 0.75 and len(starts) > 1:
        starts.pop()
    samples = np.pad(samples, (0, max(0, (starts[-1] + 160) * 160 - len(samples))))
    padded = np.pad(samples, 200)
    window = 0.5 - 0.5 * np.cos(2 * np.pi * np.arange(400) / 400)
    frames = np.stack([padded[i * 160 : i * 160 + 400] for i in range(1 + len(samples) // 160)])
    power = np.abs(np.fft.rfft(frames * window)) ** 2
    filters = mel_filterbank(sample_rate_hz=16_000, n_fft=400, num_bands=40, scale="slaney", norm="slaney")
    mel = torch.from_numpy(power @ filters.double().numpy().T).float()
    windows = torch.stack([mel[start : start + 160] for start in starts])
    _, (hidden, _) = encoder.lstm(windows)
    vectors = torch.relu(encoder.linear(hidden[-1]))
    vectors = vectors / vectors.norm(dim=1, keepdim=True)
    mean = vectors.mean(0)
    return (mean / mean.norm()).detach().numpy()


@pytest.mark.parametrize("seconds", [0.05, 1.0, 1.6, 2.5, 3.1, 6.0])
@pytest.mark.parametrize("level", [0.3, 0.001])
def test_a_vector_is_that_of_the_published_recipe(encoder, seconds, level):
    samples = noise(seconds, level)
    found = encoder.embed(AudioClip(samples[None], 16_000))
    np.testing.assert_allclose(found, by_hand(encoder, samples), atol=2e-5)
    assert np.linalg.norm(found) == pytest.approx(1, abs=1e-5)


def test_silence_and_a_handful_of_samples_have_a_finite_vector(encoder):
    for samples in (np.zeros(8000, np.float32), noise(0.001), np.zeros(1, np.float32)):
        assert np.isfinite(encoder.embed(AudioClip(samples[None], 16_000))).all()


def test_loud_recordings_are_left_as_loud_as_they_are(encoder):
    audio, lengths = torch.from_numpy(noise(1.0, 0.3))[None], torch.tensor([16_000])
    assert torch.equal(encoder.level(audio, lengths), audio)
    raised = encoder.level(audio / 1000, lengths)
    assert 20 * np.log10(float(raised.square().mean().sqrt())) == pytest.approx(-30, abs=1e-3)


def test_scores_are_scaled_cosines_with_means_that_leave_a_window_out():
    torch.manual_seed(0)
    vectors = F.normalize(torch.randn(3, 4, 5), dim=2)
    scores = similarities(vectors, torch.tensor([10.0]), torch.tensor([-5.0]))
    for speaker in range(3):
        for window in range(4):
            for other in range(3):
                group = [vectors[other, w] for w in range(4) if other != speaker or w != window]
                mean = torch.stack(group).mean(0)
                cosine = F.cosine_similarity(vectors[speaker, window], mean, dim=0)
                assert float(scores[4 * speaker + window, other]) == pytest.approx(10 * float(cosine) - 5, abs=1e-4)
    turned = similarities(vectors, torch.tensor([-3.0]), torch.tensor([0.0]))
    assert torch.equal(turned.argmax(1), scores.argmax(1))


def test_the_equal_error_rate_of_pairs():
    vectors = np.array([[1, 0], [1, 0], [0, 1], [0, 1]], np.float32)
    clear = verification(vectors, ["a", "a", "b", "b"])
    assert (clear.equal_error_rate, clear.num_same, clear.num_different) == (0.0, 2, 4)
    assert verification(vectors, ["a", "b", "a", "b"]).equal_error_rate == pytest.approx(0.75, abs=0.26)
    assert verification(vectors, ["a", "a", "a", "a"]) is None
    assert verification(vectors, ["a", "b", "c", "d"]) is None


def test_published_files_go_in_and_out_unchanged(encoder, tmp_path):
    state = dict(encoder.state_dict())
    content = {"step": 5, "model_state": state, "optimizer_state": {"state": {0: {"step": 1}}}}
    torch.save(content, tmp_path / "pretrained.pt")
    assert convert.import_checkpoint(tmp_path, tmp_path / "ours").is_complete
    assert hub.load(tmp_path / "ours").config == SMALL
    assert convert.export_checkpoint(tmp_path / "ours", tmp_path / "out.pt", "resemblyzer") == []
    again = torch.load(tmp_path / "out.pt", weights_only=True)["model_state"]
    assert again.keys() == state.keys()
    assert all(torch.equal(again[name], state[name]) for name in state)


def test_the_published_size_has_the_published_names():
    with torch.device("meta"):
        own = SYSTEM.build(SYSTEM.preset("paper").model).state_dict()
    assert sum(value.numel() for value in own.values()) == 1_423_618
    assert len(own) == 16
    assert {"lstm.weight_ih_l2", "linear.bias", "similarity_weight"} <= own.keys()
    assert own["lstm.weight_ih_l0"].shape == (1024, 40)


def test_other_files_are_refused_by_name(encoder, tmp_path):
    state = dict(encoder.state_dict())
    damaged = {
        "no table": ({"weights": state}, "under 'model_state'"),
        "missing": ({"model_state": {n: v for n, v in state.items() if n != "lstm.bias_hh_l1"}}, "lstm.bias_hh_l1"),
        "left over": ({"model_state": state | {"extra": torch.zeros(1)}}, "left over: extra"),
        "projected": ({"model_state": state | {"lstm.weight_ih_l0": torch.zeros(40, 40)}}, "40 gates"),
    }
    for name, (content, message) in damaged.items():
        file = tmp_path / f"{name}.pt"
        torch.save(content, file)
        with pytest.raises(CheckpointError, match=message):
            convert.import_checkpoint(file, tmp_path / "ours")
    other = tmp_path / "other"
    checkpoint.save(other, system="ctc", config=SMALL, state={})
    with pytest.raises(CheckpointError, match="a checkpoint of ctc"):
        convert.export_checkpoint(other, tmp_path / "x.pt", "resemblyzer")


def test_voices_are_told_apart_after_a_few_steps(bench):
    torch.manual_seed(0)
    preset = SYSTEM.preset("tiny")
    sizes = {"num_bands": 40, "window_frames": 40, "width": 32, "embedding_width": 16, "num_layers": 1}
    model = Ge2e(replace(preset.model, **sizes))
    task = Ge2eTask(model, replace(preset.task, speakers=4, utterances=4), bench.recordings, seed=0)
    optimizer = torch.optim.Adam(model.parameters(), lr=0.005)
    values = []
    for step in range(100):
        ((_, loss),) = task.losses(task.batch(step, 0, 1), step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(float(loss.value.detach()))
    assert sum(values[-10:]) < 0.5 * sum(values[:10])
    assert "4 speakers with 4 windows" in task.describe(task.batch(0, 0, 1))


def test_speakers_with_one_recording_are_left_out_and_two_are_needed(bench):
    preset = SYSTEM.preset("tiny")
    with pytest.raises(ManifestError, match=r"task\.min_recordings"):
        Ge2eTask(Ge2e(preset.model), replace(preset.task, min_recordings=100), bench.recordings, seed=0)
