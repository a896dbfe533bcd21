"""A corpus that was learned by heart is continued as it goes on; and what cannot be continued is refused by name."""

from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional as F

from voder.audio.io import AudioClip
from voder.errors import AudioError, CheckpointError, ConfigError, InputError, TokensError
from voder.metrics.spoken_lm import pair_accuracy
from voder.sequence.assemble import assemble
from voder.systems.audiolm.infer import AudioLmContinuer
from voder.systems.audiolm.layout import merged
from voder.systems.audiolm.model import AudioLm

from .conftest import HOP, RATE, melody


@pytest.fixture(scope="module")
def fresh(codec, units):
    from .conftest import config

    torch.manual_seed(0)
    return AudioLmContinuer(AudioLm(config()).eval(), codec=codec, units=units)


@pytest.fixture(scope="module")
def learned(codec, units):
    """Three tunes learned by heart."""
    from .conftest import config

    torch.manual_seed(1)
    model = AudioLm(config())
    continuer = AudioLmContinuer(model, codec=codec, units=units)
    layout, streams = continuer.layout, {"semantic": [], "coarse": [], "fine": []}
    for seed in range(3):
        codes, clip = melody(seed)
        heard = merged(units.encode(clip).units)
        streams["semantic"].append(layout.semantic(heard, ended=True))
        streams["coarse"].append(layout.coarse(heard, codes, ended=True))
        streams["fine"] += [layout.fine(chunk) for chunk in layout.chunks(codes)]
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    batches = {stage: assemble(rows) for stage, rows in streams.items()}
    for _ in range(130):
        optimizer.zero_grad()
        for stage, stream in batches.items():
            F.cross_entropy(model.stage(stage)(stream)[stream.loss], stream.targets[stream.loss]).backward()
        optimizer.step()
    return AudioLmContinuer(model.eval(), codec=codec, units=units)


@pytest.mark.parametrize("frames", [8, 10, 13])  # at the edge of a chunk, and within one
def test_what_was_learned_by_heart_is_continued_to_its_end(learned, frames):
    tunes = [melody(seed) for seed in range(3)]
    prompts = [AudioClip(clip.samples[:, : frames * HOP], RATE) for _, clip in tunes]
    for speech, (codes, clip) in zip(learned.continue_batch(prompts, duration_s=1.0, greedy=True), tunes, strict=True):
        assert speech.codes.tolist() == codes[:, frames:].tolist()
        assert (speech.stop_reason, speech.truncated) == ("end", False)
        np.testing.assert_allclose(speech.clip.samples, clip.samples[:, frames * HOP :], atol=1e-6)


def test_a_limit_is_kept_and_said(learned):
    codes, clip = melody(0)
    prompt = AudioClip(clip.samples[:, : 8 * HOP], RATE)
    speech = learned.continue_clip(prompt, duration_s=0.1, greedy=True)
    assert speech.codes.shape == (2, 5)
    assert speech.codes[0].tolist() == codes[0, 8:13].tolist()
    assert (speech.stop_reason, speech.truncated) == ("limit", False)  # so long was asked for
    learned.model.config = replace(learned.model.config, units_per_s=0.5)  # one unit for two seconds
    try:
        speech = learned.continue_clip(prompt, duration_s=1.0, greedy=True)
    finally:
        learned.model.config = replace(learned.model.config, units_per_s=25.0)
    assert (speech.stop_reason, speech.truncated) == ("end", True)


def test_units_are_said_anew_and_something_comes_of_nothing(learned):
    codes, clip = melody(1)
    speech = learned.revoice_batch([clip], greedy=True)[0]
    assert speech.codes.tolist() == codes.tolist()
    imagined = learned.imagine(2, duration_s=0.4, temperature=1.0)
    assert all(1 <= each.codes.shape[1] <= 20 for each in imagined)
    assert not np.array_equal(imagined[0].codes, imagined[1].codes)


def test_codes_stay_in_the_range_of_their_codebook(fresh, codec, units):
    """A model that knows nothing says only codes that exist, and whole frames."""
    from .conftest import config

    torch.manual_seed(3)
    wide = AudioLmContinuer(AudioLm(config(coarse_codebooks=2)).eval(), codec=codec, units=units)
    for continuer in (fresh, wide):
        for seed in range(3):
            speech = continuer.continue_clip(melody(seed)[1], duration_s=0.5, seed=seed, temperature=3.0)
            assert speech.codes.shape[0] == 2
            assert 0 <= speech.codes.min() <= speech.codes.max() < 8


def test_known_sequences_are_more_probable_and_a_random_model_knows_nothing(learned, fresh, units):
    right = [units.encode(melody(seed)[1]).units for seed in range(3)]
    wrong = [np.roll(each, 5)[::-1].copy() for each in right]
    assert pair_accuracy(learned.score_units(right), learned.score_units(wrong)) == 1.0
    rng = np.random.default_rng(0)
    first, second = (list(rng.integers(0, 8, (150, 12))) for _ in range(2))
    assert pair_accuracy(fresh.score_units(first), fresh.score_units(second)) == pytest.approx(0.5, abs=0.12)


def test_what_cannot_be_continued_is_refused_by_name(fresh):
    sound = melody(0, frames=120)[1]
    with pytest.raises(AudioError, match=r"120 frames \(2.40 s\), but this model sees 100"):
        fresh.continue_clip(sound, duration_s=0.1)
    with pytest.raises(InputError, match=r"more than the 2 s"):
        fresh.continue_clip(AudioClip(sound.samples[:, : 90 * HOP], RATE), duration_s=0.5)
    with pytest.raises(AudioError, match="too short"):
        fresh.continue_clip(AudioClip(sound.samples[:, : HOP + 1], RATE), duration_s=0.5)
    with pytest.raises(AudioError, match="less than one frame"):
        fresh.continue_clip(AudioClip(sound.samples[:, : HOP - 1], RATE), duration_s=0.5)
    with pytest.raises(InputError, match="duration_s is 0"):
        fresh.continue_clip(melody(0)[1], duration_s=0)
    with pytest.raises(ConfigError, match="the nearest is 'temperature'"):
        fresh.continue_clip(melody(0)[1], duration_s=0.1, temprature=1.0)
    with pytest.raises(TokensError, match="another tokenizer"):
        fresh.score_units([np.array([1, 8])])
    with pytest.raises(InputError, match="without units"):
        fresh.score_units([np.array([], np.int64)])


def test_a_stage_that_was_never_trained_is_named(codec, units):
    from .conftest import config

    continuer = AudioLmContinuer(AudioLm(config(trained=("semantic",))), codec=codec, units=units)
    assert len(continuer.score_units([np.array([1, 2])])) == 1
    with pytest.raises(CheckpointError, match="coarse stage of this checkpoint was never trained"):
        continuer.continue_clip(melody(0)[1], duration_s=0.1)
