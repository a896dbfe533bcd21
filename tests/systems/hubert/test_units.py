from dataclasses import replace

import numpy as np
import pytest
import torch
from systems.hubert.families import CONFIGS, build, clips

from voder import checkpoint, hub
from voder.audio.io import write_audio
from voder.data.manifest import Utterance, write_manifest
from voder.data.shards import TokenStore
from voder.errors import CheckpointError, ConfigError
from voder.roles import Units, collate_clips
from voder.systems.hubert import convert
from voder.systems.hubert.infer import units
from voder.systems.hubert.kmeans import fit_kmeans, learn_units

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    """Four recordings of 16 kHz."""
    folder = tmp_path_factory.mktemp("corpus")
    made = []
    for number, clip in enumerate(clips(9000, 12_000, 7000, 16_000)):
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
    write_manifest(folder / "train.jsonl", made[:3])
    write_manifest(folder / "valid.jsonl", made[3:])
    return folder


@pytest.fixture(scope="module")
def encoder_folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("encoder") / "hubert"
    checkpoint.save(folder, system="hubert", config=CONFIGS["hubert-large"], state=build("hubert-large").state_dict())
    return folder


@pytest.fixture(scope="module")
def fitted(corpus, encoder_folder, tmp_path_factory):
    folder = tmp_path_factory.mktemp("fitted") / "units"
    learn_units(corpus, encoder_folder, folder, num_units=8, layer=2, starts=2, iterations=10)
    return folder


def test_clusters_are_found_and_the_seed_decides():
    rng = np.random.default_rng(0)
    places = rng.standard_normal((6, 4)) * 10
    points = torch.from_numpy(np.repeat(places, 50, axis=0) + 0.1 * rng.standard_normal((300, 4))).float()
    found = fit_kmeans(points, 6, seed=1)
    distances = torch.cdist(found.centers, torch.from_numpy(places).float()).amin(dim=0)
    assert float(distances.max()) < 0.1
    assert found.inertia < 0.1
    assert torch.equal(found.centers, fit_kmeans(points, 6, seed=1).centers)
    with pytest.raises(ConfigError, match="5 frames cannot make 6 units"):
        fit_kmeans(points[:5], 6)


def test_clusters_of_identical_points_are_no_failure():
    assert fit_kmeans(torch.ones(20, 3), 4, starts=1).inertia == 0.0


def test_a_recording_becomes_units_that_say_whose_they_are(fitted, corpus):
    found = units(corpus / "0.wav", fitted)
    kept = units(corpus / "0.wav", fitted, dedup=False)
    assert kept.units.shape == (27,)  # (9000 - 400) // 320 + 1
    assert set(kept.durations.tolist()) == {1}
    assert np.array_equal(np.repeat(found.units, found.durations), kept.units)
    assert (found.units[1:] != found.units[:-1]).all()
    assert found.frame_rate_hz == 50.0
    assert found.heard_s == 9000 / 16_000
    assert found.text.split(" ")[0] == str(found.units[0])
    assert found.as_record()["durations"] == found.durations.tolist()
    assert found.tokenizer == hub.load(fitted).identity


def test_units_are_those_of_the_layer_and_nearest_by_definition(fitted, corpus):
    encoder = hub.load(fitted)
    assert (encoder.config.layer, encoder.num_units) == (2, 8)
    audio, lengths = collate_clips(clips(9000), CPU)
    features = encoder.encode_batch(audio, lengths, layer=2).values[0]
    wanted = torch.cdist(features, encoder.centers).argmin(dim=1)
    assert torch.equal(encoder.units_batch(audio, lengths)[0][0], wanted)


def test_units_in_a_batch_are_those_of_a_recording_alone(fitted):
    encoder = hub.load(fitted)
    recordings = clips(16_000, 400, 5000)
    together, counts = encoder.units_batch(*collate_clips(recordings, CPU))
    for row, clip in enumerate(recordings):
        alone = encoder.encode(clip).units
        assert together[row, : int(counts[row])].tolist() == alone.tolist()
        assert not together[row, int(counts[row]) :].any()


def test_no_frame_is_lost_where_a_long_recording_is_cut(fitted):
    """Nothing but attention and position embeddings looks beyond a stretch, so a front without them shows the cut."""
    encoder = hub.load(fitted)
    whole = encoder.encode(clips(16_000)[0]).units
    encoder.config = replace(encoder.config, chunk_s=0.2)
    audio, lengths = collate_clips(clips(16_000, 3300), CPU)
    seen = []
    encode = encoder.encode_batch
    encoder.encode_batch = lambda a, n, layer: seen.append((tuple(a.shape), n.tolist())) or encode(a, n, layer=layer)
    cut, counts = encoder.units_batch(audio, lengths)
    assert counts.tolist() == [len(whole), 10] == [49, 10]
    # stretches of 10 frames see 9 hops and a receptive field; the last has the rest
    assert seen[0] == ((2, 1, 3280), [3280, 3280])
    assert seen[1:-1] == [((1, 1, 3280), [3280])] * 3
    assert seen[-1] == ((1, 1, 3200), [3200])
    assert (cut[0].numpy() == whole).mean() > 0.5


def test_identity_depends_on_everything_that_units_depend_on(fitted):
    encoder = hub.load(fitted)
    before = encoder.identity
    assert before == hub.load(fitted).identity
    encoder.centers[0] += 1e-3
    assert encoder.identity != before
    encoder = hub.load(fitted)
    encoder.config = replace(encoder.config, layer=1)
    assert encoder.identity != before


def test_an_encoder_without_centres_says_so(encoder_folder, corpus):
    with pytest.raises(ConfigError, match="no cluster centres"):
        units(corpus / "0.wav", encoder_folder)


def test_centres_of_another_encoder_are_refused(encoder_folder, tmp_path):
    np.savez(tmp_path / "km.npz", cluster_centers_=np.zeros((5, 7), np.float32))
    with pytest.raises(ConfigError, match="have 7 channels but the encoder's layers have 32"):
        convert.import_units(encoder_folder, tmp_path / "km.npz", tmp_path / "out", layer=1)


def test_published_centres_are_joined_to_an_encoder(encoder_folder, tmp_path):
    centers = np.random.default_rng(0).standard_normal((5, 32)).astype(np.float32)
    np.savez(tmp_path / "km.npz", cluster_centers_=centers)
    convert.import_units(encoder_folder, tmp_path / "km.npz", tmp_path / "out", layer=1)
    encoder = hub.load_role(tmp_path / "out", "UnitTokenizer")
    assert encoder.config.layer == 1
    assert np.array_equal(encoder.centers.numpy(), centers)
    with pytest.raises(ConfigError, match="layer is 9"):
        convert.import_units(encoder_folder, tmp_path / "km.npz", tmp_path / "bad", layer=9)


def test_another_system_is_no_encoder(tmp_path):
    checkpoint.save(tmp_path / "c", system="ctc", config=hub.find("ctc").preset("tiny").model, state={})
    with pytest.raises(CheckpointError, match="is a ctc"):
        convert.import_units(tmp_path / "c", tmp_path / "km.npz", tmp_path / "out", layer=1)


def test_merging_adds_durations_up():
    merged = Units(units=np.array([3, 3, 1, 3]), durations=np.array([2, 1, 1, 4])).deduplicated()
    assert merged.units.tolist() == [3, 1, 3]
    assert merged.durations.tolist() == [3, 1, 4]
    assert merged.expanded().tolist() == [3, 3, 3, 1, 3, 3, 3, 3]
    empty = Units(units=np.zeros(0, np.int64), durations=np.zeros(0, np.int64))
    assert len(empty.deduplicated().units) == 0


def test_units_fill_a_token_store(fitted, corpus, tmp_path):
    from voder.corpus.tokenize import tokenize_corpus

    tokenize_corpus(corpus, hub.load(fitted), fitted, tmp_path / "tokens")
    store = TokenStore.open(tmp_path / "tokens")
    assert (store.tokenizer.num_codebooks, store.tokenizer.codebook_size, store.tokenizer.hop) == (1, 8, 320)
    assert store.split("train").codes(0)[0].tolist() == units(corpus / "0.wav", fitted, dedup=False).units.tolist()
