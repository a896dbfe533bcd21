"""HuBERT's own objective: labels made, read and checked, kept with their frames, and predicted."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from systems.hubert.families import CONFIGS, clips

from voder import checkpoint, exits, hub
from voder.audio.io import AudioClip, write_audio
from voder.cli import main
from voder.config import resolve
from voder.corpus.prepare import prepare_corpus
from voder.data.manifest import Manifest
from voder.errors import ConfigError, ManifestError
from voder.systems.hubert import SYSTEM, SpeechEncoder
from voder.systems.hubert.clusters import UNLABELLED, LabelledCrops
from voder.systems.hubert.config import HeadConfig
from voder.systems.hubert.formats import read_km, write_km
from voder.systems.hubert.labels import deltas, label_corpus, mfcc
from voder.train.run import RunRequest, train

TINY = resolve(SYSTEM.preset("tiny"), overrides=["model.head.objective=hubert"])


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Tones, noise and silence of 16 kHz, with labels of their MFCCs."""
    folder = tmp_path_factory.mktemp("corpus")
    time = np.arange(20_000) / 16_000
    for number in range(6):
        tone = np.sin(2 * np.pi * (200 + 300 * number) * time) * (time % 0.5 < 0.25)
        noise = clips(20_000)[0].samples * (time % 0.5 >= 0.25)
        write_audio(folder / "sounds" / f"{number}.wav", AudioClip((0.3 * (tone + noise)).astype(np.float32), 16_000))
    prepare_corpus(folder / "sounds", folder / "data", valid_fraction=0.3, test_fraction=0.0, workers=1)
    label_corpus(folder / "data", num_labels=4)
    return folder / "data"


def task_of(corpus, model=TINY.model, **changes):
    torch.manual_seed(0)
    config = replace(TINY.task, **{"label_rate_hz": 100.0} | changes)
    return SYSTEM.task()(SpeechEncoder(model), config, corpus, seed=3)


def test_deltas_are_slopes():
    ramp = torch.arange(10.0)[:, None] * torch.tensor([[2.0, -1.0]])
    torch.testing.assert_close(deltas(ramp)[2:-2], torch.tensor([[2.0, -1.0]]).expand(6, -1))


def test_mfccs_are_39_a_frame_and_loudness_is_in_the_first_alone():
    samples = torch.from_numpy(clips(16_000)[0].samples[0])
    loud, quiet = mfcc(samples), mfcc(samples / 2)
    assert loud.shape == (98, 39)
    torch.testing.assert_close(loud[:, 1:], quiet[:, 1:], atol=1e-3, rtol=1e-4)
    # energies of a quarter: the logarithm of 4 in every band, times 1/sqrt(23) each
    torch.testing.assert_close(
        loud[:, 0] - quiet[:, 0], torch.full((98,), 23**0.5 * np.log(4)).float(), rtol=1e-3, atol=0
    )


def test_labels_lie_beside_the_manifests_one_line_each(corpus):
    for split in ("train", "valid"):
        labels = read_km(corpus / f"{split}.km")
        manifest = Manifest.open(corpus / f"{split}.jsonl")
        assert [len(each) for each in labels] == [1 + (n.num_samples - 400) // 160 for n in manifest]
        assert all(each.max() < 4 for each in labels)
    assert (corpus / "dict.km.txt").read_text() == "0 1\n1 1\n2 1\n3 1\n"
    again = (corpus / "train.km").read_text()
    label_corpus(corpus, num_labels=4)
    assert (corpus / "train.km").read_text() == again


def test_the_verb_makes_labels_or_a_tokenizer(corpus, tmp_path, capsys):
    def cluster(*options):
        status = main(["cluster", str(corpus), "--clusters", "4", *options])
        return status, capsys.readouterr()

    assert cluster("--labels", "mfcc")[0] == exits.DONE
    assert (corpus / "train.mfcc").read_text() == (corpus / "train.km").read_text()
    encoder, units = tmp_path / "encoder", tmp_path / "units"
    checkpoint.save(encoder, system="hubert", config=TINY.model, state=SpeechEncoder(TINY.model).state_dict())
    status, said = cluster("--model", str(encoder), "--layer", "2", "-o", str(units))
    assert (status, said.out.startswith(f"{units}: 4 clusters")) == (exits.DONE, True)
    assert (hub.load(units).num_units, hub.load(units).config.layer) == (4, 2)
    for options, reason in (
        ((), "give either -o DIR"),
        (("-o", str(units), "--labels"), "give either -o DIR"),
        (("-o", str(units)), "name it with --model"),
        (("--labels", "--layer", "3"), "MFCCs have no layers"),
    ):
        status, said = cluster(*options)
        assert (status, reason in said.err) == (exits.USER, True)


def test_crops_keep_labels_with_their_frames(corpus, tmp_path):
    """Labels that count frames say where a crop came from, and its samples must be those."""
    task = task_of(corpus)
    crops = LabelledCrops(task.train_manifest, task.model, replace(task.config, crop_s=0.5))
    crops.labels = [np.arange(len(each)) for each in crops.labels]  # 100 a second, two for each frame
    batch = crops.batch([np.random.default_rng(seed) for seed in range(8)])
    frames = (0.5 * 16_000 - 400) // 320 + 1
    assert batch.labels.shape == (8, frames)
    starts = batch.labels[:, 0]
    assert len(set(starts.tolist())) > 3
    assert torch.equal(batch.labels, starts[:, None] + 2 * torch.arange(frames))
    for row, start in zip(batch.audio[:, 0].numpy(), (starts * 160).tolist(), strict=True):
        assert any(np.array_equal(crops.clips[i][start : start + len(row)], row) for i in range(len(crops.clips)))


def test_short_recordings_are_padded_without_labels(corpus):
    task = task_of(corpus)
    crops = task.labelled
    rows = [crops._cut(0, 0), (crops.clips[1][:4000], np.array([1] * 12))]
    batch = crops._collate(rows)
    assert batch.lengths.tolist() == [16_000, 4000]
    assert batch.labels[1].tolist()[:13] == [1] * 12 + [UNLABELLED]
    made = task.predict(batch)
    assert len(made.logits) == len(made.labels) <= 49 + 12
    assert bool((made.labels >= 0).all())


@pytest.mark.parametrize("name", ["hubert", "w2v_bert"])
def test_a_few_steps_lower_the_loss(corpus, name):
    config = replace(CONFIGS[name], head=HeadConfig(objective="hubert", num_labels=4, label_dim=8))
    task = task_of(corpus, config, feature_penalty=0.1)
    task.model.train()
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    values = []
    for step in range(12):
        torch.manual_seed(step)
        ((_, loss),) = task.losses(task.batch(0, 0, 1), step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(float(loss.value.detach()))
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    assert task.evaluate() == task.evaluate()


def test_the_penalty_is_of_what_the_convolutions_give(corpus):
    with_penalty, without = task_of(corpus, feature_penalty=10.0), task_of(corpus)
    values = []
    for task in (with_penalty, without):
        torch.manual_seed(0)
        ((_, loss),) = task.losses(task.batch(0, 0, 1), 0)
        values.append((float(loss.value.detach()), float(loss.logs["features"])))
    assert values[0][0] == pytest.approx(values[1][0] + 10 * values[1][1], rel=1e-5)


def test_both_iterations_train_and_the_second_reads_the_first(corpus, tmp_path):
    stages = []
    for name in ("iteration1", "iteration2"):
        rate = 100.0 if name == "iteration1" else 50.0
        overrides = [*SYSTEM.stages[name].task_settings, f"task.label_rate_hz={rate}"]
        if stages:
            overrides.append("task.labels=km2")
            label_corpus(corpus, num_labels=6, model=stages[0], layer=2, suffix="km2")
            assert len(read_km(corpus / "train.km2")[0]) == (20_000 - 400) // 320 + 1
        run = tmp_path / name
        config = resolve(SYSTEM.preset("tiny"), overrides=overrides)
        train(RunRequest(system="hubert", config=config, data=corpus, output=run, seed=0, device="cpu"), say=str)
        stages.append(run)
    assert hub.load(stages[1]).config.head.objective == "hubert"
    assert (next((stages[1] / "samples").rglob("labels.tsv"))).read_text().startswith("labels\tpredicted")


def test_labels_that_do_not_fit_are_refused_by_name(corpus, tmp_path):
    with pytest.raises(ManifestError, match=r"line 1: \d+ labels at 50/s are .* is task.label_rate_hz right"):
        task_of(corpus, label_rate_hz=50.0)
    with pytest.raises(ManifestError, match=r"train\.other does not exist: masked prediction of clusters needs labels"):
        task_of(corpus, labels="other")
    few = replace(TINY.model, head=replace(TINY.model.head, num_labels=3))
    with pytest.raises(ManifestError, match=r"has label 3, but model\.head\.num_labels is 3"):
        task_of(corpus, few)
    write_km(corpus / "train.short", read_km(corpus / "train.km")[1:])
    with pytest.raises(ManifestError, match=r"train\.short has 3 lines, but train\.jsonl has 4 recordings"):
        task_of(corpus, labels="short")
    labels = read_km(corpus / "train.km")
    write_km(corpus / "train.odd", [each.repeat(3)[: 75 * len(each) // 100] for each in labels])
    with pytest.raises(ConfigError, match=r"label_rate_hz is 75, but the encoder makes 50 frames"):
        task_of(corpus, labels="odd", label_rate_hz=75.0)


def test_settings_of_clusters_are_refused_elsewhere(corpus):
    best_rq = SYSTEM.preset("tiny")
    for change in ({"labels": "x"}, {"label_rate_hz": 100.0}):
        with pytest.raises(ConfigError, match=r"acts only with model.head.objective=hubert"):
            SYSTEM.task()(SpeechEncoder(best_rq.model), replace(best_rq.task, **change), corpus, seed=0)
