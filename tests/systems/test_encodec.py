from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.config import from_dict
from voder.data.manifest import Utterance, write_manifest
from voder.errors import AudioError, ConfigError, ManifestError, TokensError
from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases
from voder.nn.seanet import SEANetConfig
from voder.roles import Encoded, collate_clips
from voder.systems.encodec import SYSTEM, EncodecCodec, EncodecConfig
from voder.systems.encodec.config import PRESETS
from voder.systems.encodec.model import overlap_add
from voder.systems.encodec.reference import KINDS

FIXTURES = Path(__file__).parents[1] / "fixtures"
CASES = [path for name in ("encodec", "audiocraft", "fsq") for path in find_cases(FIXTURES / name)]


@pytest.mark.parametrize("path", CASES, ids=lambda path: f"{path.parent.name}/{path.stem}")
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def segmented_config():
    """The 48 kHz model in small: stereo, group norm, segments of 10 frames, loudness taken out."""
    return replace(
        PRESETS["tiny"]().model,
        seanet=SEANetConfig(
            channels=2,
            dim=8,
            num_filters=2,
            ratios=(5, 4, 2),
            num_lstm_layers=1,
            norm="time_group_norm",
            causal=False,
        ),
        normalize=True,
        segment_s=0.05,
        overlap=0.1,
    )


def fresh(name, seed=0):
    torch.manual_seed(seed)
    config = segmented_config() if name == "segments" else PRESETS[name]().model
    codec = EncodecCodec(config).eval().requires_grad_(False)
    with torch.no_grad():  # random decoders whisper; this makes differences show
        for parameter in codec.parameters():
            parameter.mul_(1.5)
    return codec


KINDS_OF_CODEC = ["tiny", "fsq_tiny", "segments"]


def clips(codec, *lengths):
    rng = np.random.default_rng(0)
    shape = (codec.channels,)
    made = [0.3 * rng.standard_normal((*shape, n)).astype(np.float32) for n in lengths]
    return [AudioClip(samples, codec.sample_rate_hz) for samples in made]


@pytest.mark.parametrize("name", KINDS_OF_CODEC)
def test_batched_equals_alone(name):
    codec = fresh(name)
    some = clips(codec, 1203, 40, 1, 1203, 761, 365, 399, 720)
    together = codec.encode_batch(*collate_clips(some, torch.device("cpu")))
    restored = codec.decode_batch(together)
    for row, clip in enumerate(some):
        alone = codec.encode_batch(*collate_clips([clip], torch.device("cpu")))
        frames, count = int(alone.lengths[0]), clip.num_samples
        assert int(together.lengths[row]) == frames
        assert torch.equal(together.codes[row, :, :frames], alone.codes[0])
        assert not together.codes[row, :, frames:].any()
        torch.testing.assert_close(restored[row, :, :count], codec.decode_batch(alone)[0], rtol=1e-4, atol=1e-5)
        assert not restored[row, :, count:].any()


@pytest.mark.parametrize("name", KINDS_OF_CODEC)
def test_codes_alone_decode_to_their_length(name):
    codec = fresh(name)
    for count in (1, codec.hop, 5 * codec.hop + 3):
        (clip,) = clips(codec, count)
        codes = codec.encode(clip)
        assert codes.shape == (codec.num_codebooks, -(-count // codec.hop))
        assert codec.decode(codes).samples.shape == (codec.channels, codes.shape[1] * codec.hop)


def test_segments_of_codes_alone_are_found_again():
    codec = fresh("segments")
    (clip,) = clips(codec, 1480)  # four segments of 400 samples, 360 apart, and a rest of 40
    codes = codec.encode(clip)
    assert codes.shape[1] == 41
    assert codec.decode(codes).num_samples == 1480


def test_without_scales_loudness_is_the_configured_one():
    codec = fresh("segments")
    (clip,) = clips(codec, 300)
    encoded = codec.encode_batch(*collate_clips([clip], torch.device("cpu")))
    bare = replace(encoded, scale=None)
    ratio = codec.decode_batch(encoded) / codec.decode_batch(bare)
    torch.testing.assert_close(ratio, torch.full_like(ratio, float(encoded.scale[0, 0]) / 0.1))


@pytest.mark.parametrize("name", ["tiny", "segments"])
def test_fewer_codebooks_are_the_first_ones(name):
    codec = fresh(name)
    audio = torch.randn(1, codec.channels, 900)
    few, all_of_them = codec.encode_batch(audio, num_codebooks=2), codec.encode_batch(audio)
    assert torch.equal(few.codes, all_of_them.codes[:, :2])
    assert codec.decode_batch(few).shape == audio.shape


def test_codes_of_another_codec_are_refused():
    codec = fresh("tiny")
    one = torch.tensor([1])
    for codes, message in ((torch.full((1, 4, 1), 16), "0 to 15"), (torch.zeros(1, 5, 1).long(), "5 codebooks")):
        with pytest.raises(TokensError, match=message):
            codec.decode_batch(Encoded(codes=codes, lengths=one, num_samples=one))


def test_parts_may_end_before_an_earlier_one():
    joined = overlap_add([torch.ones(1, 1, 10), torch.ones(1, 1, 2)], 6)
    torch.testing.assert_close(joined, torch.ones(1, 1, 10))


def test_published_presets_have_the_published_rates():
    mono, stereo = PRESETS["24khz"]().model, PRESETS["48khz"]().model
    assert [mono.codebooks_at(rate) for rate in mono.bandwidths_kbps] == [2, 4, 8, 16, 32]
    assert [stereo.codebooks_at(rate) for rate in stereo.bandwidths_kbps] == [2, 4, 8, 16]
    assert (stereo.segment_samples, stereo.segment_stride) == (48_000, 47_520)
    assert [mono.file_name, stereo.file_name] == ["encodec_24khz", "encodec_48khz"]
    assert PRESETS["small"]().model.file_name == PRESETS["fsq_24khz"]().model.file_name == "encodec"


@pytest.mark.parametrize("name", ["small", "fsq_small"])
def test_small_presets_are_small(name):
    codec = hub.build(f"encodec/{name}")
    assert codec.frame_rate_hz == 50
    assert sum(p.numel() for p in codec.parameters()) < 4e6


def test_settings_that_contradict_each_other_are_refused():
    for change, message in (
        ({"rvq": {"dim": 64}}, "rvq.dim is 64 but seanet.dim is 128"),
        ({"overlap": 1.0}, "overlap is 1"),
        ({"segment_s": 0.0}, "segment"),
        ({"bandwidths_kbps": [24.0]}, "bandwidth is 24"),
        ({"overlap": 0.5}, "nothing overlaps"),
        ({"unscaled_rms": 0.5}, "nothing is scaled"),
        ({"quantizer": "fsq", "fsq": {"dim": 128, "num_codebooks": 2}, "bandwidths_kbps": [1.0]}, "work together"),
        ({"bandwidths_kbps": [3.0], "rvq": {"dropout": 0.5}}, "choose one"),
        ({"lm": {"codebook_size": 7}}, "a language model of 1024 codes"),
    ):
        with pytest.raises(ConfigError, match=message):
            from_dict(EncodecConfig, change)


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Five tones that rise and fall, 0.3 to 0.7 s long."""
    folder = tmp_path_factory.mktemp("tones")
    made = []
    for number in range(5):
        count = 2400 + 800 * number
        tone = np.sin(2 * np.pi * (200 + 150 * number) * np.arange(count) / 8000) * np.hanning(count) * 0.5
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
    write_manifest(folder / "train.jsonl", made[:3])
    write_manifest(folder / "valid.jsonl", made[3:])
    return folder


def task_of(codec, corpus, **changes):
    config = replace(SYSTEM.preset("tiny").task, **changes)
    return SYSTEM.task()(codec, config, corpus, seed=7)


def trainable(name, seed=0):
    torch.manual_seed(seed)
    return EncodecCodec(segmented_config() if name == "segments" else PRESETS[name]().model)


@pytest.mark.parametrize("name", KINDS_OF_CODEC)
def test_both_sides_of_the_game_get_losses_and_gradients(name, corpus):
    task = task_of(trainable(name), corpus, crop_s=0.04 if name == "segments" else 0.25)
    phases = []
    for phase, loss in task.losses(task.batch(0, 0, 1), 0):
        phases.append(phase)
        loss.value.backward()
        gradients = [p.grad for p in task.optimised[phase].parameters()]
        assert all(g is not None and torch.isfinite(g).all() for g in gradients)
        assert sum(float(g.abs().sum()) for g in gradients) > 0
        assert loss.weight == 2
    assert phases == ["discriminator", "generator"]


def test_the_discriminator_joins_when_it_is_told_to(corpus):
    late = task_of(trainable("tiny"), corpus, discriminator_start=3)
    assert [phase for phase, _ in late.losses(late.batch(0, 0, 1), 2)] == ["generator"]
    assert [phase for phase, _ in late.losses(late.batch(0, 0, 1), 3)] == ["discriminator", "generator"]
    waiting = task_of(trainable("tiny"), corpus, discriminator_start=3, discriminator_lead=2)
    for step, heard in ((4, False), (5, True)):
        logs = dict(waiting.losses(waiting.batch(0, 0, 1), step))["generator"].logs
        assert ("adversarial" in logs) == heard
    never = task_of(trainable("tiny"), corpus, adversarial_weight=0.0, feature_weight=0.0)
    assert list(never.optimised) == ["generator"]
    assert [phase for phase, _ in never.losses(never.batch(0, 0, 1), 9)] == ["generator"]


def test_batches_and_bit_rates_are_pure_and_independent_of_the_number_of_workers(corpus):
    task = task_of(trainable("tiny"), corpus, batch_items=4)
    whole = task.batch(5, 0, 1).audio
    assert torch.equal(whole, task.batch(5, 0, 1).audio)
    assert torch.equal(whole[1::2], task.batch(5, 1, 2).audio)
    drawn = [task.draw_codebooks(step) for step in range(30)]
    assert set(drawn) == {1, 2, 4}
    assert drawn == [task.draw_codebooks(step) for step in range(30)]


def test_two_halves_of_a_batch_pull_like_the_whole(corpus):
    gradients = []
    for world in (1, 2):
        codec = trainable("fsq_tiny")
        task = task_of(codec, corpus, batch_items=4, adversarial_weight=0.0, feature_weight=0.0)
        task.balancer.decay = 0.0  # one process must not remember the other half
        for rank in range(world):
            ((_, loss),) = task.losses(task.batch(0, rank, world), 0)
            (loss.value * loss.weight).backward()
        gradients.append(torch.cat([p.grad.flatten() for p in codec.parameters()]))
    # the halves have norms of their own, so equal in direction and size, not in the last digits
    cosine = torch.nn.functional.cosine_similarity(*gradients, dim=0)
    assert float(cosine) > 0.97
    assert float(gradients[0].norm() / gradients[1].norm()) == pytest.approx(1, abs=0.25)


def test_training_lowers_the_loss_and_the_score(corpus):
    codec = trainable("tiny")
    task = task_of(codec, corpus, adversarial_weight=0.0, feature_weight=0.0)
    optimizer = torch.optim.Adam(codec.parameters(), lr=5e-3)
    before = task.evaluate()["score"]
    for step in range(15):
        for _, loss in task.losses(task.batch(step, 0, 1), step):
            optimizer.zero_grad()
            loss.value.backward()
            optimizer.step()
    codec.eval()
    assert task.evaluate()["score"] < 0.9 * before


def test_samples_are_written_at_every_bit_rate(corpus, tmp_path):
    task = task_of(fresh("tiny"), corpus)
    task.samples(tmp_path)
    names = {path.name for path in tmp_path.iterdir()}
    assert {"1_original.wav", "1_0.8kbps.wav", "1_3.2kbps.wav", "2_original.wav"} <= names
    assert "every sample carries loss" in task.describe(task.batch(0, 0, 1))
    assert task.provenance()["data"]["train"]["recordings"] == 3


def test_a_collapsed_codebook_is_named(corpus):
    codec = trainable("tiny")
    codec.quantizer.codebooks[1].counts[0] = 1e6
    codec.quantizer.codebooks[0].counts.fill_(1.0)
    warnings = task_of(codec, corpus).warnings()
    assert any("codebook 2 has collapsed" in text for text in warnings)
    assert not any("codebook 1 has" in text for text in warnings)


def test_nothing_to_train_on_is_said(tmp_path):
    for name in ("train", "valid"):
        (tmp_path / f"{name}.jsonl").write_text("")
    with pytest.raises(ManifestError, match="nothing to train on"):
        task_of(trainable("tiny"), tmp_path)


@pytest.mark.parametrize("size", [1, 33, 400, 10_000])
def test_streamed_is_whole_for_any_cutting(size):
    torch.manual_seed(0)
    codec = hub.build("encodec/tiny").eval()
    audio = 0.3 * torch.randn(2, 1, 1217)
    whole = codec.encode_batch(audio)
    stream = codec.encoding_stream()
    codes = torch.cat([*map(stream.push, audio.split(size, dim=-1)), stream.push(last=True)], dim=-1)
    assert torch.equal(codes, whole.codes)
    stream = codec.decoding_stream()
    heard = torch.cat([*map(stream.push, codes.split(max(1, size // codec.hop), dim=-1)), stream.push(last=True)], -1)
    torch.testing.assert_close(heard[..., :1217], codec.decode_batch(whole), rtol=0, atol=1e-5)
    with pytest.raises(ValueError, match="closed"):
        stream.push(codes)


def test_a_stream_of_few_samples_or_none_ends_well():
    codec = hub.build("encodec/tiny").eval()
    audio = 0.3 * torch.randn(1, 1, 5)
    assert torch.equal(
        codec.encoding_stream(2).push(audio, last=True), codec.encode_batch(audio, num_codebooks=2).codes
    )
    assert codec.encoding_stream().push(last=True).shape == (1, codec.num_codebooks, 0)
    assert codec.decoding_stream().push(last=True).shape == (1, 1, 0)


def test_codes_leave_a_stream_as_soon_as_a_frame_is_complete():
    codec = hub.build("encodec/tiny").eval()
    stream = codec.encoding_stream()
    first = stream.push(torch.zeros(1, 1, 7 * codec.hop - 1))
    assert first.shape[-1] == 0  # reflection reads the first seven frames
    assert stream.push(torch.zeros(1, 1, 1)).shape[-1] == 7
    assert stream.push(torch.zeros(1, 1, codec.hop)).shape[-1] == 1


def test_models_that_look_ahead_refuse_to_stream_and_wrong_pieces_are_named():
    codec = hub.build("encodec/tiny").eval()
    wide = EncodecCodec(replace(codec.config, segment_s=0.1, normalize=True))
    assert not wide.is_causal
    with pytest.raises(ConfigError, match="not causal"):
        wide.encoding_stream()
    with pytest.raises(AudioError, match="2 channels; this codec takes 1"):
        codec.encoding_stream().push(torch.zeros(1, 2, 9))
    with pytest.raises(TokensError, match="codes run from"):
        codec.decoding_stream().push(torch.full((1, 1, 9), 10_000))
