from dataclasses import replace

import pytest
import torch
from systems.hubert.families import CONFIGS, clips

from voder.audio.io import write_audio
from voder.data.manifest import Utterance, write_manifest
from voder.errors import ConfigError
from voder.systems.hubert import SYSTEM, SpeechEncoder
from voder.systems.hubert.config import HeadConfig
from voder.systems.hubert.targets import draw_spans, expand_spans, normalize_bands

TINY = SYSTEM.preset("tiny")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Three recordings of 16 kHz."""
    folder = tmp_path_factory.mktemp("corpus")
    made = []
    for number, clip in enumerate(clips(20_000, 17_000, 24_000)):
        path = folder / f"{number}.wav"
        write_audio(path, clip)
        made.append(
            Utterance(
                id=str(number),
                audio=path,
                duration_s=clip.duration_s,
                num_samples=clip.num_samples,
                sample_rate_hz=16_000,
                channels=1,
            )
        )
    write_manifest(folder / "train.jsonl", made[:2])
    write_manifest(folder / "valid.jsonl", made[2:])
    return folder


def task_of(corpus, config=TINY.model, **changes):
    torch.manual_seed(0)
    return SYSTEM.task()(SpeechEncoder(config), replace(TINY.task, **changes), corpus, seed=3)


@pytest.mark.parametrize("name", ["hubert", "w2v_bert"])
def test_a_few_steps_of_best_rq_lower_the_loss(corpus, name):
    config = replace(CONFIGS[name], head=HeadConfig(num_labels=16, label_dim=8))
    task = task_of(corpus, config)
    task.model.train()
    optimizer = torch.optim.Adam(task.model.parameters(), lr=3e-3)
    values = []
    for step in range(25):
        torch.manual_seed(step)
        ((phase, loss),) = task.losses(task.batch(0, 0, 1), step)
        assert phase == "model"
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(float(loss.value.detach()))
    assert sum(values[-5:]) < 0.8 * sum(values[:5])
    figures = task.evaluate()
    assert figures == task.evaluate()  # the same masks every time
    assert set(figures) == {"score", "accuracy", "label_perplexity"}


def test_the_projection_and_its_codes_are_frozen(corpus):
    task = task_of(corpus)
    trained = {name for name, _ in task.model.named_parameters()}
    assert {"head.classify.weight", "head.classify.bias"} < trained
    assert not {"head.projection", "head.codebook"} & trained
    assert {"head.projection", "head.codebook"} < set(task.model.state_dict())


def test_batches_are_pure_and_independent_of_the_number_of_workers(corpus):
    task = task_of(corpus, batch_items=4)
    whole = task.batch(5, 0, 1).audio
    assert torch.equal(whole, task.batch(5, 0, 1).audio)
    assert torch.equal(torch.stack([task.batch(5, rank, 2).audio for rank in range(2)], 1).flatten(0, 1), whole)


def test_the_batch_is_described_and_samples_are_written(corpus, tmp_path):
    task = task_of(corpus)
    assert "masked frames of 64 labels carry loss" in task.describe(task.batch(0, 0, 1))
    task.samples(tmp_path)
    assert (tmp_path / "labels.tsv").read_text().count("\n") == 2


def test_an_encoder_without_a_head_cannot_be_pretrained(corpus):
    with pytest.raises(ConfigError, match="no head to train it with"):
        task_of(corpus, CONFIGS["hubert"])


def test_spans_cover_what_the_paper_says():
    starts = torch.zeros(1, 9, dtype=torch.bool)
    starts[0, [1, 2, 7]] = True
    assert expand_spans(starts, 3).int().tolist() == [[0, 1, 1, 1, 1, 0, 0, 1, 1]]
    torch.manual_seed(0)
    drawn = draw_spans(64, 1000, start=0.01, span=40, device=torch.device("cpu"))
    # 1 - (1 - 0.01)^40 of the frames, and one span per recording whatever happens
    assert float(drawn.float().mean()) == pytest.approx(0.36, abs=0.03)
    assert bool(draw_spans(8, 50, start=0.0, span=5, device=torch.device("cpu")).any(dim=1).all())


def test_bands_are_normalised_over_an_items_own_frames():
    mel = torch.randn(2, 10, 4) * 3 + 5
    normed = normalize_bands(mel, torch.tensor([10, 6]), epsilon=0.0)
    torch.testing.assert_close(normed[1, :6].mean(dim=0), torch.zeros(4), atol=1e-6, rtol=0)
    torch.testing.assert_close(normed[1, :6].var(dim=0, correction=0), torch.ones(4))
    assert not normed[1, 6:].any()
