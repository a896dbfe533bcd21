"""wav2vec 2.0's objective: who is compared with whom, and that it is learned."""

from dataclasses import replace

import pytest
import torch
from systems.hubert.families import CONFIGS
from systems.hubert.test_train import TINY, corpus, task_of

from voder.config import resolve
from voder.errors import ConfigError
from voder.systems.hubert import SYSTEM, contrast
from voder.systems.hubert.config import HeadConfig

__all__ = ["corpus"]
CONTRAST = resolve(SYSTEM.preset("tiny"), overrides=["model.head.objective=wav2vec2", "model.head.num_labels=8"]).model


def test_rows_get_equally_many_of_their_own_masked_frames():
    masked = torch.zeros(3, 20, dtype=torch.bool)
    masked[0, :5] = masked[1, 3:12] = masked[2, ::2] = True
    places = contrast.even_rows(masked)
    assert places.shape == (3, 5)
    assert bool(masked.gather(1, places).all())
    assert all(len(set(row)) == 5 and row == sorted(row) for row in places.tolist())


def test_a_negative_is_never_the_frame_itself_and_any_other_may_be():
    drawn = contrast.draw_negatives(2, 6, 400, torch.device("cpu"))
    for own in range(6):
        assert set(drawn[:, own].flatten().tolist()) == set(range(6)) - {own}


def test_the_noise_cools_down_to_a_half():
    assert contrast.temperature(0) == 2.0
    assert 0.5 < contrast.temperature(100_000) < contrast.temperature(50_000) < 2.0
    assert contrast.temperature(10_000_000) == 0.5


@pytest.mark.parametrize("family", ["hubert", "wav2vec2"])
def test_a_few_steps_lower_the_loss_and_reach_the_quantizer(corpus, family):
    config = replace(CONFIGS[family], head=HeadConfig(objective="wav2vec2", num_labels=8, label_dim=8))
    task = task_of(corpus, config, feature_penalty=0.01)
    task.model.train()
    optimizer = torch.optim.Adam(task.model.parameters(), lr=1e-2)
    before = {n: p.detach().clone() for n, p in task.model.head.named_parameters()}
    values = []
    for step in range(25):
        torch.manual_seed(0)
        ((_, loss),) = task.losses(task.batch(0, 0, 1), step)
        optimizer.zero_grad()
        loss.value.backward()
        optimizer.step()
        values.append(float(loss.value.detach()))
    assert sum(values[-5:]) < 0.85 * sum(values[:5])
    assert all(not torch.equal(before[n], p) for n, p in task.model.head.named_parameters())
    figures = task.evaluate()
    assert figures == task.evaluate()
    assert set(figures) == {"score", "accuracy", "code_perplexity"}
    assert 2 <= figures["code_perplexity"] <= 16


def test_unused_codes_cost(corpus):
    task = task_of(corpus, CONTRAST)
    with torch.no_grad():  # one entry of each codebook is all but certain
        task.model.head.weight_proj.weight.zero_()
        task.model.head.weight_proj.bias.copy_(torch.tensor([50.0, *[0.0] * 7] * 2))
    made = task.predict(task.batch(0, 0, 1), 0)
    assert float(made.added.detach()) == pytest.approx(0.1 * (16 - 2) / 16, abs=1e-4)


def test_what_cannot_be_contrasted_is_refused(corpus):
    with pytest.raises(ConfigError, match="needs convolutions, which w2v_bert has not"):
        task_of(corpus, replace(CONFIGS["w2v_bert"], head=CONTRAST.head))
    short = task_of(corpus, CONTRAST, crop_s=0.03, mask_span=1, mask_start=0.0)
    with pytest.raises(ConfigError, match=r"raise task\.crop_s, or task\.mask_span"):
        short.predict(short.batch(0, 0, 1), 0)
    assert TINY.model.head is not None
