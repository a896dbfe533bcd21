from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import hub
from voder.errors import ConfigError, TokensError
from voder.roles import Units
from voder.systems.unitvocoder import SYSTEM, UnitVocoder, VocoderConfig
from voder.systems.unitvocoder.config import HifiGanConfig

TINY = SYSTEM.preset("tiny").model


def fresh(**changes):
    torch.manual_seed(0)
    model = UnitVocoder(replace(TINY, **changes)).eval().requires_grad_(False)
    if model.durations is not None:  # durations of 1 to about 6 frames, as of a trained predictor
        model.durations.project.weight *= 3
        model.durations.project.bias += 1.2
    return model


def test_the_published_size():
    with torch.device("meta"):
        model = hub.build("unitvocoder/base")
    assert sum(p.numel() for p in model.parameters()) / 1e6 == pytest.approx(13.5, abs=0.3)
    assert (model.hop, model.sample_rate_hz, model.num_units) == (320, 16_000, 1000)


@pytest.mark.parametrize("predict", [False, True])
def test_a_sequence_in_a_batch_gives_what_it_gives_alone(predict):
    vocoder = fresh()
    rows = [torch.tensor(r) for r in ([3, 1, 4, 1, 5, 9, 2, 6], [7], [-1, 8, 2, -1, 8])]
    batch = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=11)
    lengths = torch.tensor([len(row) for row in rows])
    together, samples = vocoder.generate_batch(batch, lengths, predict_durations=predict)
    for row, units in enumerate(rows):
        alone, (count,) = vocoder.generate_batch(units[None], predict_durations=predict)
        assert int(samples[row]) == int(count) == alone.shape[-1]
        torch.testing.assert_close(together[row, :, : int(count)], alone[0], atol=1e-5, rtol=1e-4)
        assert not together[row, :, int(count) :].any()


def test_length_is_the_hop_times_the_durations():
    vocoder = fresh()
    units = torch.tensor([[3, 1, 4, 1, 5]])
    durations = vocoder.predict(units)
    assert durations.min() >= 1
    assert durations.float().std() > 0
    assert vocoder.generate(units[0]).num_samples == 5 * 320
    assert vocoder.generate(units[0], predict_durations=True).num_samples == int(durations.sum()) * 320


def test_merged_units_keep_their_own_durations_unless_others_are_asked_for():
    vocoder = fresh()
    spoken = Units(units=np.array([3, 1]), durations=np.array([2, 3]))
    kept = vocoder.generate(spoken)
    assert np.array_equal(kept.samples, vocoder.generate(np.array([3, 3, 1, 1, 1])).samples)
    assert (
        vocoder.generate(spoken, predict_durations=True).num_samples
        == int(vocoder.predict(torch.tensor([[3, 1]])).sum()) * 320
    )


@pytest.mark.parametrize(
    ("units", "message"),
    [([], "no unit to say"), ([-1, -1], "no unit to say"), ([3, 16], "unit 16; this vocoder knows 0 to 15")],
)
def test_what_cannot_be_said_is_refused(units, message):
    with pytest.raises(TokensError, match=message):
        fresh().generate_batch(torch.tensor([units], dtype=torch.int64))


def test_what_a_vocoder_does_not_have_is_refused():
    with pytest.raises(ConfigError, match="predicts no durations"):
        fresh(durations=None).generate(np.array([1]), predict_durations=True)
    with pytest.raises(ConfigError, match="speaker 1 is unknown"):
        fresh().generate_batch(torch.tensor([[1]]), speaker=1)
    with pytest.raises(ConfigError, match="reads units"):
        fresh().vocode(torch.zeros(1, 80, 3))
    mel = UnitVocoder(VocoderConfig(source="mel", durations=None, generator=TINY.generator))
    with pytest.raises(ConfigError, match="reads mel frames"):
        mel.generate(np.array([1]))


def test_speakers_and_languages_are_heard():
    vocoder = fresh(num_speakers=3, speaker_dim=4, num_languages=2, language_dim=4)
    units = torch.tensor([[1, 2, 3]])
    said = [vocoder.generate_batch(units, speaker=s, language=n)[0] for s, n in ((0, 0), (2, 0), (0, 1))]
    assert not torch.allclose(said[0], said[1])
    assert not torch.allclose(said[0], said[2])


def test_a_kernel_that_does_not_fit_its_rate_is_refused():
    with pytest.raises(ConfigError, match="kernel 8 at rate 5"):
        HifiGanConfig(upsample_rates=(5,), upsample_kernels=(8,))
