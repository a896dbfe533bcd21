"""Training on the tokens of a tiny codec, and the way back from a recording."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip, write_audio
from voder.corpus.tokenize import tokenize_corpus
from voder.data.manifest import Utterance, write_manifest
from voder.data.shards import TokenStore
from voder.errors import CheckpointError, FittedPartMismatch, TokensError
from voder.generate.units import resynthesize
from voder.systems.unitvocoder import SYSTEM, UnitVocoder

TINY = SYSTEM.preset("tiny")


def save_codec(folder, seed):
    torch.manual_seed(seed)
    codec = hub.build("spectral/tiny")
    config = hub.find("spectral").preset("tiny").model
    checkpoint.save(folder, system="spectral", config=config, state=codec.state_dict())
    return folder


@pytest.fixture(scope="module")
def tokens(tmp_path_factory):
    """Three recordings of 8 kHz with their tokens, 40 ms each."""
    folder = tmp_path_factory.mktemp("tokens")
    made = []
    for number, count in enumerate((6000, 5000, 9000)):
        time_s = np.arange(count) / 8000
        tone = 0.3 * np.sin(2 * np.pi * (200 + 100 * np.sin(4 * time_s + number)) * time_s)
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
    write_manifest(folder / "train.jsonl", made[:2])
    write_manifest(folder / "valid.jsonl", made[2:])
    codec = save_codec(folder / "codec", 0)
    tokenize_corpus(folder, hub.load_codec(codec), codec, folder / "tokens")
    return folder / "tokens"


def task_of(tokens, seed=3, **changes):
    torch.manual_seed(0)
    task = SYSTEM.task()
    config = replace(TINY.task, **changes)
    model = UnitVocoder(task.fit_config(TINY.model, config, tokens))
    return task(model, config, tokens, seed=seed)


def test_the_tokens_decide_number_rate_and_meaning_of_the_units(tokens):
    config, info = task_of(tokens).model.config, TokenStore.open(tokens).tokenizer
    assert (config.num_units, config.sample_rate_hz, config.tokenizer) == (info.codebook_size, 8000, info.identity)
    with pytest.raises(FittedPartMismatch, match="trained on units of another"):
        SYSTEM.task().fit_config(TINY.model, TINY.task, tokens, start=replace(config, tokenizer="another"))


def test_crops_are_the_audio_of_their_units(tokens):
    task = task_of(tokens, batch_items=6)
    batch = task.batch(2, 0, 1)
    assert batch.audio.shape == (6, 1, 3200)
    assert batch.units.shape == (6, 10)
    spoken = [task.spoken[i] for i in range(2)]
    for audio, units in zip(batch.audio, batch.units, strict=True):
        places = [
            (samples[320 * first : 320 * (first + 10)], ids[first : first + 10])
            for ids, samples in spoken
            for first in range(len(ids) - 9)
        ]
        assert any(np.array_equal(audio[0], a) and np.array_equal(units, u) for a, u in places)
    assert int(batch.durations.sum()) == sum(len(spoken[i][0]) for i in _owners(batch, spoken))


def _owners(batch, spoken):
    totals = {len(ids): i for i, (ids, _) in enumerate(spoken)}
    return [totals[int(row.sum())] for row in batch.durations]


def test_batches_are_pure_and_independent_of_the_number_of_workers(tokens):
    task = task_of(tokens, batch_items=4)
    whole = task.batch(5, 0, 1)
    assert torch.equal(whole.audio, task.batch(5, 0, 1).audio)
    shares = [task.batch(5, rank, 2).units for rank in range(2)]
    assert torch.equal(torch.stack(shares, 1).flatten(0, 1), whole.units)


def test_a_few_steps_bring_the_audio_closer(tokens):
    task = task_of(tokens)
    before = task.evaluate()
    optimizers = {name: torch.optim.Adam(module.parameters(), lr=2e-3) for name, module in task.optimised.items()}
    phases = set()
    for step in range(20):
        for phase, loss in task.losses(task.batch(step, 0, 1), step):
            phases.add(phase)
            optimizers[phase].zero_grad()
            loss.value.backward()
            optimizers[phase].step()
            assert np.isfinite(float(loss.value.detach()))
    after = task.evaluate()
    assert phases == {"discriminator", "generator"}
    assert after["score"] < 0.95 * before["score"]
    assert after["duration_error_frames"] <= before["duration_error_frames"] + 0.5


def test_discriminators_join_when_they_are_told_to(tokens):
    batch = task_of(tokens).batch(0, 0, 1)
    late, never = task_of(tokens, discriminator_start=5), task_of(tokens, discriminator_start=-1)
    assert [phase for phase, _ in late.losses(batch, 4)] == ["generator"]
    assert [phase for phase, _ in late.losses(batch, 5)] == ["discriminator", "generator"]
    assert set(never.optimised) == {"generator"}
    ((_, loss),) = never.losses(batch, 9)
    assert set(loss.logs) == {"mel", "duration"}


def test_a_crop_longer_than_every_recording_is_refused(tokens):
    with pytest.raises(TokensError, match=r"crop of 99 frames; lower task\.crop_frames"):
        task_of(tokens, crop_frames=99)


@pytest.fixture(scope="module")
def vocoder(tokens, tmp_path_factory):
    task = task_of(tokens)
    folder = tmp_path_factory.mktemp("vocoder") / "v"
    state, config = task.model.state_dict(), task.model.config
    checkpoint.save(folder, system="unitvocoder", config=config, state=state, parts=task.parts())
    return folder


def test_a_recording_comes_back_as_what_its_units_say(tokens, vocoder, tmp_path):
    recording = tokens.parent / "2.wav"
    made = resynthesize(recording, vocoder)
    assert made.heard_s == 9000 / 8000
    assert (made.clip.sample_rate_hz, made.clip.num_samples) == (8000, 29 * 320)
    assert made.units.units.tolist() == TokenStore.open(tokens).split("valid").codes(0)[0].tolist()
    merged = resynthesize(recording, vocoder, predict_durations=True)
    assert merged.units.durations.sum() == 29
    assert merged.clip.num_samples % 320 == 0
    task_of(tokens).samples(tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"1_original.wav", "1_units.wav"}


def test_a_tokenizer_that_it_was_not_trained_on_is_refused(vocoder, tmp_path):
    other = save_codec(tmp_path / "other", 1)
    with pytest.raises(FittedPartMismatch, match="reads units of tokenizer"):
        resynthesize(np.zeros(4000, np.float32), vocoder, tokenizer=other, sample_rate_hz=8000)
    bare = tmp_path / "bare"
    model, _, config = hub.load_model(vocoder)
    checkpoint.save(bare, system="unitvocoder", config=config, state=model.state_dict())
    with pytest.raises(CheckpointError, match="keeps no tokenizer"):
        resynthesize(np.zeros(4000, np.float32), bare, sample_rate_hz=8000)
