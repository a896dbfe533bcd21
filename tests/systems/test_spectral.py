from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.config import from_dict
from voder.data.manifest import Utterance, write_manifest
from voder.errors import ConfigError
from voder.nn.mel_loss import MultiScaleMelDistance
from voder.roles import collate_clips
from voder.systems.spectral import SYSTEM, SpectralCodec, SpectralConfig
from voder.systems.spectral.model import normalize_loudness


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Six tones that rise and fall, 0.3 to 0.8 s long."""
    folder = tmp_path_factory.mktemp("tones")
    made = []
    for number in range(6):
        count = 2400 + 800 * number
        time = np.arange(count) / 8000
        tone = np.sin(2 * np.pi * (200 + 150 * number) * time) * np.hanning(count) * (0.1 + 0.1 * number)
        write_audio(folder / f"{number}.wav", AudioClip(tone[None].astype(np.float32), 8000))
        made.append(
            Utterance(
                id=str(number),
                audio=folder / f"{number}.wav",
                duration_s=count / 8000,
                num_samples=count,
                sample_rate_hz=8000,
                channels=1,
            )
        )
    write_manifest(folder / "train.jsonl", made[:4])
    write_manifest(folder / "valid.jsonl", made[4:])
    return folder


def fresh(seed=0):
    torch.manual_seed(seed)
    return hub.build("spectral/tiny").eval().requires_grad_(False)


def task_of(model, corpus, **changes):
    config = replace(SYSTEM.preset("tiny").task, **changes)
    return SYSTEM.task()(model, config, corpus, seed=7)


def test_demo_preset_is_the_recipe():
    codec = hub.build("spectral/demo")
    assert isinstance(codec, SpectralCodec)
    assert (codec.frame_rate_hz, codec.bitrate_bps, codec.sample_rate_hz) == (25.0, 800.0, 8000)
    assert 0.9e6 < sum(p.numel() for p in codec.parameters()) < 1.2e6


@pytest.mark.parametrize("preset", ["tiny", "demo", "small"])
def test_frames_and_samples_are_those_of_the_integers(preset):
    codec = hub.build(f"spectral/{preset}").eval()
    for count in (1, codec.hop - 1, codec.hop, codec.hop + 1, 5 * codec.hop + 3):
        samples = np.random.default_rng(0).standard_normal(count).astype(np.float32) * 0.1
        codes = codec.encode(samples, codec.sample_rate_hz)
        assert codes.shape == (codec.num_codebooks, -(-count // codec.hop))
        assert codec.decode(codes).num_samples == codes.shape[1] * codec.hop


def test_batched_equals_alone():
    codec = fresh()
    rng = np.random.default_rng(0)
    clips = [
        AudioClip(rng.standard_normal((1, count)).astype(np.float32) * level, 8000)
        for count, level in ((5000, 0.2), (321, 0.01), (1, 0.5), (2560, 0.6))
    ]
    together = codec.encode_batch(*collate_clips(clips, torch.device("cpu")))
    restored = codec.decode_batch(together)
    for row, clip in enumerate(clips):
        alone = codec.encode_batch(*collate_clips([clip], torch.device("cpu")))
        frames, count = int(alone.lengths[0]), clip.num_samples
        assert int(together.lengths[row]) == frames
        torch.testing.assert_close(together.codes[row, :, :frames], alone.codes[0])
        assert not together.codes[row, :, frames:].any()
        torch.testing.assert_close(restored[row, :, :count], codec.decode_batch(alone)[0], rtol=1e-4, atol=1e-5)
        assert not restored[row, :, count:].any()


def test_encoding_ignores_loudness_and_offset_and_decoding_restores_loudness():
    codec = fresh()
    audio = torch.randn(1, 1, 3200) * 0.1
    loud, quiet = codec.encode_batch(audio), codec.encode_batch(audio * 0.25 + 0.01)
    torch.testing.assert_close(loud.codes, quiet.codes)
    ratio = codec.decode_batch(loud).abs().max() / codec.decode_batch(quiet).abs().max()
    assert float(ratio) == pytest.approx(4.0, rel=1e-3)


def test_silence_is_not_amplified_without_bound():
    samples, scale = normalize_loudness(torch.full((1, 100), 1e-4), torch.tensor([100]), 0.7)
    assert float(scale) == pytest.approx(0.01 / 0.7)
    assert float(samples.abs().max()) < 1e-2


def test_fewer_codebooks_decode_too():
    codec = fresh()
    audio = torch.randn(1, 1, 3200) * 0.1
    one = codec.encode_batch(audio, num_codebooks=1)
    assert one.codes.shape[1] == 1
    torch.testing.assert_close(one.codes, codec.encode_batch(audio).codes[:, :1])
    assert codec.decode_batch(one).shape == audio.shape


def test_an_odd_reduction_is_refused_by_name():
    with pytest.raises(ConfigError, match="reduction is 3"):
        from_dict(SpectralConfig, {"reduction": 3})


def test_batches_are_pure_and_independent_of_the_number_of_workers(corpus):
    task = task_of(fresh(), corpus, batch_items=4)
    whole = task.batch(5, 0, 1).audio
    assert torch.equal(whole, task_of(fresh(), corpus, batch_items=4).batch(5, 0, 1).audio)
    shares = [task.batch(5, rank, 2).audio for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), whole)
    assert not torch.equal(whole, task.batch(6, 0, 1).audio)


def test_crops_are_full_of_sound_at_the_trained_level(corpus):
    task = task_of(fresh(), corpus, batch_items=32, gain=(1.0, 1.0))
    audio = task.batch(0, 0, 1).audio
    assert audio.shape == (32, 13 * 320)
    assert float(audio.abs().max()) == pytest.approx(0.7, abs=0.01)
    assert float((audio == 0).float().mean()) < 0.3


def test_codebooks_are_fitted_after_the_unquantized_steps(corpus):
    torch.manual_seed(0)
    model = hub.build("spectral/tiny").train()
    task = task_of(model, corpus)
    for step in range(3):
        before = model.quantizer.codebooks[0].vectors.clone()
        for _, loss in task.losses(task.batch(step, 0, 1), step):
            assert torch.isfinite(loss.value)
        assert torch.equal(before, model.quantizer.codebooks[0].vectors) == (step == 0)


def test_learning_lowers_the_distance(corpus):
    torch.manual_seed(0)
    model = hub.build("spectral/tiny").train()
    task = task_of(model, corpus)
    optimizer = torch.optim.Adam(model.parameters(), 5e-3)
    history = []
    for step in range(25):
        for _, loss in task.losses(task.batch(step, 0, 1), step):
            loss.value.backward()
            history.append(float(loss.value.detach()))
        optimizer.step()
        optimizer.zero_grad()
    assert np.mean(history[-5:]) < 0.7 * np.mean(history[:5])


def test_evaluation_measures_distance_and_codebooks(corpus, tmp_path):
    task = task_of(fresh(), corpus)
    figures = task.evaluate()
    assert figures["score"] == figures["mel_distance"] > 0
    assert 1 <= figures["perplexity_1"] <= 16
    task.samples(tmp_path)
    assert {p.name for p in tmp_path.iterdir()} == {
        f"{n}_{kind}.wav" for n in (1, 2) for kind in ("original", "restored")
    }


def test_a_collapsed_codebook_is_named(corpus):
    model = fresh()
    task = task_of(model, corpus)
    assert task.warnings() == []
    model.quantizer.steps.fill_(10)
    for book in model.quantizer.codebooks:
        book.initialised.fill_(1.0)
        book.counts.fill_(1.0)
    assert task.warnings() == []
    model.quantizer.codebooks[1].counts.zero_()[3] = 5.0
    (warning,) = task.warnings()
    assert "codebook 2 has collapsed" in warning


def test_mel_distance_is_zero_for_equal_and_grows_with_difference():
    distance = MultiScaleMelDistance(8000)
    audio = torch.randn(2, 4160) * 0.1
    assert float(distance(audio, audio)[0]) == 0
    small, large = (float(distance(audio + e * torch.randn(2, 4160), audio)[0]) for e in (0.01, 0.1))
    assert 0 < small < large
