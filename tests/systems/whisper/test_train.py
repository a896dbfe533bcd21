from dataclasses import replace

import numpy as np
import pytest
import torch

from voder.audio.io import AudioClip, write_audio
from voder.data.manifest import Utterance, write_manifest
from voder.errors import ManifestError
from voder.systems.whisper import SYSTEM, WhisperModel
from voder.systems.whisper.tokenizer import WhisperTokenizer
from voder.systems.whisper.train import IGNORED


def write_corpus(folder, texts, seconds):
    made = []
    for number, (text, s) in enumerate(zip(texts, seconds, strict=True)):
        time = np.arange(int(s * 16_000)) / 16_000
        samples = (0.3 * np.sin(2 * np.pi * (300 + 200 * number) * time))[None].astype(np.float32)
        write_audio(folder / f"{number}.wav", AudioClip(samples, 16_000))
        made.append(
            Utterance(
                id=str(number),
                audio=folder / f"{number}.wav",
                duration_s=s,
                num_samples=samples.shape[1],
                sample_rate_hz=16_000,
                channels=1,
                text=text,
                language="de" if number == 1 else None,
            )
        )
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    made = write_corpus(folder, ["low", "tief", None, "too long", "high tone"], [0.5, 1.0, 0.5, 2.5, 0.7])
    write_manifest(folder / "train.jsonl", made)
    write_manifest(folder / "valid.jsonl", made[:1])
    return folder


@pytest.fixture
def task(corpus):
    run = SYSTEM.preset("tiny")
    torch.manual_seed(0)
    return SYSTEM.task()(WhisperModel(run.model), replace(run.task, batch_size=3), corpus, seed=3)


def test_a_batch_asks_for_the_text_and_its_end_and_nothing_else(task):
    batch = task.batch(0, 0, 1)
    said = {}
    for ids, targets in zip(batch.ids, batch.targets, strict=True):
        wanted = [int(t) for t in targets if t != IGNORED]
        assert wanted[-1] == 50257
        first = int((targets != IGNORED).nonzero()[0])
        tokenizer = WhisperTokenizer(51_865)
        said[tokenizer.decode(wanted[:-1])] = tokenizer.decode_with_timestamps(ids[: first + 1].tolist())
    start = "<|startoftranscript|>"
    assert said == {
        " low": f"{start}<|en|><|transcribe|><|notimestamps|>",
        " tief": f"{start}<|de|><|transcribe|><|notimestamps|>",
        " high tone": f"{start}<|en|><|transcribe|><|notimestamps|>",
    }
    assert "3 of 5 recordings" in task.describe(batch)


def test_ranks_share_one_batch_and_a_step_is_a_pure_function(task):
    whole = task.batch(5, 0, 1)
    halves = [task.batch(5, rank, 2) for rank in range(2)]
    assert sum(len(h.ids) for h in halves) == len(whole.ids)
    again = task.batch(5, 0, 1)
    assert torch.equal(whole.targets, again.targets)
    assert torch.equal(whole.audio, again.audio)


def test_padding_of_ids_changes_no_loss(task):
    batch = task.batch(0, 0, 1)
    (_, loss), *_ = task.losses(batch, 0)
    total = 0.0
    for row in range(3):
        count = int((batch.targets[row] != IGNORED).nonzero().max()) + 1
        alone = replace(
            batch,
            audio=batch.audio[row : row + 1],
            ids=batch.ids[row : row + 1, :count],
            targets=batch.targets[row : row + 1, :count],
        )
        (_, one), *_ = task.losses(alone, 0)
        total += float(one.value.detach()) * one.weight
    assert float(loss.value.detach()) == pytest.approx(total / loss.weight, rel=1e-4)


def test_it_learns(task):
    optimiser = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    values = []
    for step in range(16):
        (_, loss), *_ = task.losses(task.batch(step, 0, 1), step)
        optimiser.zero_grad()
        loss.value.backward()
        optimiser.step()
        values.append(float(loss.value.detach()))
    assert values[-1] < 0.8 * values[0]


def test_a_frozen_encoder_gets_no_gradient(corpus):
    run = SYSTEM.preset("tiny")
    task = SYSTEM.task()(WhisperModel(run.model), replace(run.task, freeze_encoder=True), corpus, seed=0)
    (_, loss), *_ = task.losses(task.batch(0, 0, 1), 0)
    loss.value.backward()
    assert all(p.grad is None for p in task.model.encoder.parameters())
    assert task.model.decoder.embedding.weight.grad is not None


def test_evaluation_and_samples_listen(task, tmp_path):
    scores = task.evaluate()
    assert set(scores) == {"score", "word_error", "character_error"}
    task.samples(tmp_path)
    assert (tmp_path / "heard.tsv").read_text().startswith("id\tsaid\theard\n0\tlow\t")


def test_a_corpus_without_texts_that_fit_is_refused(tmp_path):
    made = write_corpus(tmp_path, [None, "too long"], [0.5, 2.5])
    write_manifest(tmp_path / "train.jsonl", made)
    write_manifest(tmp_path / "valid.jsonl", [])
    run = SYSTEM.preset("tiny")
    with pytest.raises(ManifestError, match="nothing to learn"):
        SYSTEM.task()(WhisperModel(run.model), run.task, tmp_path, seed=0)
