import pytest
import torch
from systems.hubert.families import CONFIGS, build, clips

from voder.errors import AudioError, ConfigError
from voder.roles import collate_clips
from voder.systems.hubert.config import PRESETS, HubertConfig, NetworkConfig
from voder.systems.hubert.network import build_network

CPU = torch.device("cpu")


@pytest.mark.parametrize("name", list(CONFIGS))
def test_a_recording_in_a_batch_gives_what_it_gives_alone(name):
    encoder = build(name)
    # 150 frames, beyond the distances that are told apart and the conv position embedding; and one of a single frame
    recordings = clips(48_000, 600, 7003, 12_345)
    together = encoder.encode_batch(*collate_clips(recordings, CPU))
    for row, clip in enumerate(recordings):
        alone = encoder.encode_batch(*collate_clips([clip], CPU))
        frames = int(alone.valid.sum())
        assert int(together.valid[row].sum()) == frames == int(encoder.num_frames(torch.tensor([clip.num_samples])))
        torch.testing.assert_close(together.values[row, :frames], alone.values[0, :frames], atol=2e-4, rtol=1e-4)


@pytest.mark.parametrize("name", ["hubert", "data2vec"])
def test_the_originals_let_padding_in_and_only_when_asked_for(name):
    encoder = build(name, padding="official")
    recordings = clips(9000, 4000)
    together = encoder.encode_batch(*collate_clips(recordings, CPU))
    alone = encoder.encode_batch(*collate_clips(recordings[1:], CPU))
    frames = int(alone.valid.sum())
    assert (together.values[1, :frames] - alone.values[0, :frames]).abs().max() > 1e-3


def test_fairseqs_rule_counts_more_frames_as_valid():
    lengths = torch.tensor([5600, 4100])
    audio = torch.randn(2, 5600)
    formula = build("hubert", padding="official").front(audio, lengths).valid.sum(dim=1)
    fairseq = build("hubert", padding="fairseq").front(audio, lengths).valid.sum(dim=1)
    assert formula.tolist() == [17, 12]
    assert fairseq.tolist() == [17, 13]


@pytest.mark.parametrize("name", list(CONFIGS))
def test_no_layer_beyond_the_one_asked_for_is_run(name):
    encoder = build(name)
    audio, lengths = collate_clips(clips(4000), CPU)
    states = list(encoder.hidden_states(encoder.front(audio[:, 0], lengths)))
    ran = []
    for number, layer in enumerate(encoder.network.encoder.layers, 1):
        layer.register_forward_hook(lambda *_, number=number: ran.append(number))
    for layer in (0, 2, 3):
        ran.clear()
        torch.testing.assert_close(encoder.encode_batch(audio, lengths, layer=layer).values, states[layer])
        assert ran == list(range(1, layer + 1))


def test_the_output_of_a_large_model_is_normed_and_a_layer_is_not():
    encoder = build("hubert-large")
    audio, lengths = collate_clips(clips(8000), CPU)
    last = encoder.encode_batch(audio, lengths, layer=3).values
    output = encoder.encode_batch(audio, lengths).values
    torch.testing.assert_close(output, encoder.network.encoder.layer_norm(last))
    assert not torch.allclose(output, last, atol=1e-2)


def test_normalisation_takes_out_loudness_and_offset_and_its_absence_does_not():
    audio, lengths = collate_clips(clips(6000), CPU)
    for normalize in (True, False):
        encoder = build("hubert", normalize=normalize)
        one, other = (encoder.encode_batch(audio * gain + 0.1, lengths).values for gain in (1.0, 0.3))
        assert torch.allclose(one, other, atol=1e-3) is normalize


def test_what_is_shorter_than_a_frame_is_refused_with_its_length():
    encoder = build("hubert")
    assert encoder.encode_batch(*collate_clips(clips(400), CPU)).valid.tolist() == [[True]]
    with pytest.raises(AudioError, match=r"399 samples at 16000 Hz.*at least 400"):
        encoder.encode_batch(*collate_clips(clips(9000, 399), CPU))


def test_a_layer_that_does_not_exist_is_refused():
    with pytest.raises(ConfigError, match="layer is 4"):
        build("hubert").encode_batch(*collate_clips(clips(800), CPU), layer=4)
    with pytest.raises(ConfigError, match="layer is 13"):
        HubertConfig(layer=13)


@pytest.mark.parametrize(
    ("family", "network", "name"),
    [
        ("hubert", {"num_buckets": 64}, "num_buckets"),
        ("wavlm", {"left_positions": 3}, "left_positions"),
        ("w2v_bert", {"conv_bias": True}, "conv_bias"),
        ("data2vec", {"conv_norm": "layer", "pre_norm": True}, "pre_norm"),
        ("data2vec", {}, "conv_norm"),
    ],
)
def test_a_setting_that_a_family_does_not_have_is_refused(family, network, name):
    with pytest.raises(ConfigError, match=name):
        HubertConfig(family=family, network=NetworkConfig(**network))


@pytest.mark.parametrize(
    ("preset", "millions"),
    [("hubert-base", 94.4), ("hubert-large", 315.4), ("wavlm-large", 315.5), ("w2v-bert-2", 580.5)],
)
def test_presets_have_the_published_sizes(preset, millions):
    with torch.device("meta"):
        network = build_network(PRESETS[preset]().model)
    assert sum(p.numel() for p in network.parameters()) / 1e6 == pytest.approx(millions, abs=0.1)


def test_training_masks_frames_and_skips_layers():
    encoder = build("hubert").train()
    audio, lengths = collate_clips(clips(8000), CPU)
    front = encoder.front(audio[:, 0], lengths)
    masked = torch.zeros(front.features.shape[:2], dtype=torch.bool)
    masked[:, 5:9] = True
    plain, hidden = (list(encoder.hidden_states(front, masked=m))[-1] for m in (None, masked))
    assert not torch.allclose(plain, hidden)
    torch.manual_seed(0)
    skipping = build("hubert", network=NetworkConfig(**{**vars(CONFIGS["hubert"].network), "layer_drop": 1.0})).train()
    states = list(skipping.hidden_states(skipping.front(audio[:, 0], lengths)))
    assert not torch.equal(states[0], states[1])  # the first layer always runs
    assert torch.equal(states[1], states[3])
