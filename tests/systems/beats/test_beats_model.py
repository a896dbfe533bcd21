from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.data.manifest import Utterance, write_manifest
from voder.errors import CheckpointError, ConfigError, ManifestError
from voder.evaluate.verify import verify_fixtures
from voder.systems.beats import SYSTEM, convert
from voder.systems.beats.infer import classify
from voder.systems.beats.model import Beats
from voder.systems.beats.reference import KINDS
from voder.train.run import RunRequest, train

FIXTURES = Path(__file__).parents[2] / "fixtures" / "salmonn"


def tiny(**changes):
    torch.manual_seed(0)
    return Beats(replace(SYSTEM.preset("tiny").model, **changes)).eval().requires_grad_(False)


def noise(*lengths):
    rng = np.random.default_rng(0)
    return [AudioClip(rng.standard_normal((1, n)).astype(np.float32) * 0.1, 16_000) for n in lengths]


@pytest.mark.parametrize("name", ["fbank_a", "beats_a", "beats_nopad"])
def test_reference_vectors_are_met(name):
    (outcome,) = verify_fixtures(FIXTURES / f"{name}.json", kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_a_padded_batch_gives_what_each_clip_gives_alone():
    model = tiny(num_classes=3)
    lengths = [16_000, 9_999, 3_000, 100, 2_800]
    audio = torch.zeros(5, 1, 16_000)
    for row, clip in zip(audio, noise(*lengths), strict=True):
        row[0, : clip.num_samples] = torch.from_numpy(clip.samples[0])
    batched = model.encode_batch(audio, torch.tensor(lengths))
    logits = model.classify(batched)
    for i, n in enumerate(lengths):
        alone = model.encode_batch(audio[i : i + 1, :, :n])
        assert alone.valid.all()
        torch.testing.assert_close(batched.values[i, batched.valid[i]], alone.values[0], rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits[i], model.classify(alone)[0], rtol=1e-4, atol=1e-5)


def test_a_second_has_48_vectors_and_ten_have_496():
    model = tiny()
    assert model.features(noise(16_000)[0]).shape == (48, 16)
    assert model.features(noise(160_000)[0]).shape == (496, 16)


def test_layers_can_be_taken_from_the_middle():
    model = tiny()
    audio = torch.from_numpy(noise(8000)[0].samples)[None]
    whole = model.encode_batch(audio).values
    assert torch.equal(model.encode_batch(audio, layer=2).values, whole)
    first = model.encode_batch(audio, layer=1).values
    valid = torch.ones(first.shape[:2], dtype=torch.bool)
    rest = model.encoder.layers[1](first, model.encoder.bias(first.shape[1]), valid)
    torch.testing.assert_close(rest, whole)


def test_official_files_go_in_and_come_out_the_same(tmp_path):
    model = tiny(num_classes=2, classes=("dog", "rain"))
    state = convert.export_official(model.state_dict(), 2)
    assert "encoder.layers.1.self_attn.relative_attention_bias.weight" in state
    cfg = convert.to_official_config(model.config)
    torch.save({"cfg": cfg, "model": state, "label_dict": {0: "dog", 1: "rain"}}, tmp_path / "theirs.pt")
    convert.import_checkpoint(tmp_path / "theirs.pt", tmp_path / "ours")
    loaded = hub.load(tmp_path / "ours")
    assert loaded.config == model.config
    (clip,) = noise(8000)
    assert np.array_equal(loaded.features(clip), model.features(clip))
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "again.pt")
    again = torch.load(tmp_path / "again.pt", weights_only=True)
    assert again["cfg"] == cfg
    assert again["model"].keys() == state.keys()
    assert all(torch.equal(again["model"][k], v) for k, v in state.items())


def test_layers_that_do_not_share_their_bias_are_refused():
    state = convert.export_official(tiny().state_dict(), 2)
    state["encoder.layers.1.self_attn.relative_attention_bias.weight"] += 1
    with pytest.raises(CheckpointError, match=r"layers\.1.*differs"):
        convert.load_official(tiny(), state, "a file")


def test_other_networks_and_files_are_refused(tmp_path):
    with pytest.raises(ConfigError, match="deep_norm is False"):
        convert.official_config({"deep_norm": False})
    torch.save({"state": torch.zeros(1)}, tmp_path / "x.pt")
    with pytest.raises(CheckpointError, match="must hold 'cfg' and 'model'"):
        convert.import_checkpoint(tmp_path / "x.pt", tmp_path / "out")


@pytest.fixture(scope="module")
def sounds(tmp_path_factory):
    """Low and high tones, and both at once."""
    folder = tmp_path_factory.mktemp("sounds")
    pitches = {"low": (300.0,), "high": (3000.0,), "low; high": (300.0, 3000.0)}
    made = []
    for i in range(9):
        text = list(pitches)[i % 3]
        time = np.arange(12_000 + 800 * i) / 16_000
        samples = sum(np.sin(2 * np.pi * f * time + i) for f in pitches[text])[None].astype(np.float32) * 0.3
        write_audio(folder / f"{i}.wav", AudioClip(samples, 16_000))
        made.append(
            Utterance(
                id=str(i),
                audio=folder / f"{i}.wav",
                duration_s=samples.shape[1] / 16_000,
                num_samples=samples.shape[1],
                sample_rate_hz=16_000,
                channels=1,
                text=text,
            )
        )
    write_manifest(folder / "train.jsonl", made[:6])
    write_manifest(folder / "valid.jsonl", made[6:])
    return folder


def test_it_learns_to_tell_tones_apart(sounds, tmp_path):
    run = SYSTEM.preset("tiny")
    loop = replace(run.loop, steps=60, evaluate_every=60, save_every=60, log_every=60)
    loop = replace(loop, optimizer=replace(loop.optimizer, learning_rate=1e-2))
    task = replace(run.task, batch_items=6, band_mask=8, frame_mask=8)
    run = replace(run, loop=loop, task=task)
    train(
        RunRequest(system="beats", config=run, data=sounds, output=tmp_path / "run", device="cpu"), say=lambda _: None
    )
    model = hub.load(tmp_path / "run")
    assert model.config.classes == ("high", "low")
    heard = [Utterance.read(u) for u in SYSTEM.task()(model, task, sounds, seed=0).valid_manifest]
    low, high, both = ({h.name for h in found if h.probability > 0.5} for found in classify(model, heard))
    assert (low, high, both) == ({"low"}, {"high"}, {"low", "high"})


def test_new_classes_start_the_predictor_anew(sounds):
    start = tiny(num_classes=1, classes=("dog",))
    task = SYSTEM.task()
    grown = task.fit_config(start.config, SYSTEM.preset("tiny").task, sounds, start.config)
    assert grown.classes == ("high", "low")
    state = task.adapt_state(start.state_dict(), start.config, grown)
    model = Beats(grown)
    model.load_state_dict(state)
    assert not model.predictor.weight.any()


def test_the_predictor_alone_can_be_trained(sounds):
    run = SYSTEM.preset("tiny")
    model = Beats(replace(run.model, num_classes=2, classes=("high", "low")))
    SYSTEM.task()(model, replace(run.task, train_encoder=False), sounds, seed=0)
    assert {n for n, p in model.named_parameters() if p.requires_grad} == {"predictor.weight", "predictor.bias"}


def test_without_classes_there_is_nothing_to_learn(sounds, tmp_path):
    for split in ("train", "valid"):
        write_manifest(tmp_path / f"{split}.jsonl", [])
    with pytest.raises(ManifestError, match="names no classes"):
        SYSTEM.task().fit_config(SYSTEM.preset("tiny").model, SYSTEM.preset("tiny").task, tmp_path)
    with pytest.raises(ValueError, match="no predictor"):
        classify(tiny(), noise(8000))
