import numpy as np
import pytest

from voder.audio.io import AudioClip, write_audio
from voder.data.crops import RandomCrops
from voder.data.manifest import Manifest, Utterance, write_manifest
from voder.data.randomness import generator
from voder.errors import ManifestError

RATE = 8000


def corpus(folder, *lengths, channels=1, rate=RATE):
    made = []
    for i, count in enumerate(lengths):
        samples = np.full((channels, count), (i + 1) / 10, np.float32)
        write_audio(folder / f"{i}.wav", AudioClip(samples, rate))
        made.append(
            Utterance(
                id=str(i),
                audio=folder / f"{i}.wav",
                duration_s=count / rate,
                num_samples=count,
                sample_rate_hz=rate,
                channels=channels,
            )
        )
    write_manifest(folder / "train.jsonl", made)
    return Manifest.open(folder / "train.jsonl")


def crops(manifest, num_samples=4000, channels=1, max_bytes=2**20, rate=RATE):
    return RandomCrops(manifest, sample_rate_hz=rate, channels=channels, num_samples=num_samples, max_bytes=max_bytes)


def test_a_crop_is_a_function_of_its_generator_and_as_long_as_asked(tmp_path):
    source = crops(corpus(tmp_path, 900, 2000, 5000))
    for seed in range(5):
        first, second = source.crop(generator(seed, "x")), source.crop(generator(seed, "x"))
        assert first.shape == (1, 4000)
        assert first.dtype == np.float32
        assert np.array_equal(first, second)


def test_memory_does_not_show(tmp_path):
    manifest = corpus(tmp_path, 900, 2000, 5000)
    kept, read = crops(manifest), crops(manifest, max_bytes=0)
    for seed in range(5):
        assert np.array_equal(kept.crop(generator(seed)), read.crop(generator(seed)))


def test_longer_recordings_come_more_often(tmp_path):
    source = crops(corpus(tmp_path, 1000, 9000), num_samples=10)
    values = [round(float(source.crop(generator(seed)).max()), 1) for seed in range(200)]
    assert 155 < values.count(0.2) < 200


@pytest.mark.parametrize("file_rate", [8000, 16000])
def test_long_recordings_are_read_in_stretches_at_the_rate_asked_for(tmp_path, file_rate):
    source = crops(corpus(tmp_path, 61 * file_rate, rate=file_rate))
    crop = source.crop(generator(0))
    assert crop.shape == (1, 4000)
    assert abs(float(np.median(crop)) - 0.1) < 1e-3
    assert not source._kept


def test_stereo_stays_and_mono_is_copied(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    for folder, channels in (("one", 1), ("two", 2)):
        source = crops(corpus(tmp_path / folder, 5000, channels=channels), channels=2)
        assert source.crop(generator(0)).shape == (2, 4000)


def test_an_empty_list_is_refused(tmp_path):
    with pytest.raises(ManifestError, match="no recordings"):
        crops(corpus(tmp_path))
