import numpy as np
import pytest

from voder.audio.io import AudioClip, write_audio
from voder.data.cache import AudioCache
from voder.data.manifest import Manifest, Utterance, write_manifest
from voder.data.summary import summarize


@pytest.fixture
def manifest(tmp_path):
    made = []
    for number in range(3):
        samples = np.full((2, 1600), 0.1 * (number + 1), np.float32)
        write_audio(tmp_path / f"{number}.wav", AudioClip(samples, 16000))
        made.append(
            Utterance(
                id=str(number),
                audio=tmp_path / f"{number}.wav",
                duration_s=0.1,
                num_samples=1600,
                sample_rate_hz=16000,
                channels=2,
                licence="CC0" if number else None,
            )
        )
    write_manifest(tmp_path / "train.jsonl", made)
    return Manifest.open(tmp_path / "train.jsonl")


def test_recordings_come_mono_at_the_asked_rate_and_prepared(manifest):
    cache = AudioCache(manifest, sample_rate_hz=8000, max_bytes=10**6, prepare=lambda samples: samples * 2)
    assert cache[1].shape == (800,)
    assert cache[1][400] == pytest.approx(0.4, abs=0.01)
    assert len(cache) == 3


def test_what_fits_is_kept_and_the_rest_read_again(manifest):
    calls = []

    def prepare(samples):
        calls.append(len(samples))
        return samples

    cache = AudioCache(manifest, sample_rate_hz=16000, max_bytes=2 * 1600 * 4, prepare=prepare)
    for _ in range(2):
        for index in range(3):
            assert len(cache[index]) == 1600
    assert len(calls) == 4, "two are read once, the third each time"


def test_a_summary_names_licences_and_changes_with_the_list(manifest, tmp_path):
    summary = summarize(manifest)
    assert summary["recordings"] == 3
    assert summary["licences"] == ["CC0", "not stated"]
    write_manifest(tmp_path / "train.jsonl", [manifest[0]])
    assert summarize(Manifest.open(tmp_path / "train.jsonl"))["sha256"] != summary["sha256"]
