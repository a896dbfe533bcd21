"""The one entrance for audio: what it reads, what it refuses and how it says so."""

import os
import resource
import struct
import subprocess
import sys
import tracemalloc

import numpy as np
import pytest
import soundfile
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from voder.audio import io
from voder.audio.io import (
    AudioClip,
    is_marked_synthetic,
    probe_audio,
    read_audio,
    read_metadata,
    scan_audio,
    write_audio,
)
from voder.errors import AudioError, InputError, ResourceError

SUFFIXES = [".wav", ".flac", ".ogg", ".opus", ".mp3"]


def tone(seconds=0.5, rate=16_000, channels=1, hz=300.0):
    phase = 2 * np.pi * hz * np.arange(int(seconds * rate)) / rate
    return AudioClip(np.stack([0.5 * np.sin(phase + c) for c in range(channels)]).astype(np.float32), rate)


def wav_bytes(samples=b"\1\0" * 1000, *, claim=None, rate=16_000, channels=1):
    claim = len(samples) if claim is None else claim
    body = struct.pack("<IHHIIHH", 16, 1, channels, rate, rate * 2 * channels, 2 * channels, 16)
    size = (claim + 36) & 0xFFFFFFFF
    return b"RIFF" + struct.pack("<I", size) + b"WAVEfmt " + body + b"data" + struct.pack("<I", claim) + samples


@pytest.fixture
def write(tmp_path):
    def put(data, name="a.wav"):
        (tmp_path / name).write_bytes(data)
        return tmp_path / name

    return put


@pytest.mark.parametrize("suffix", SUFFIXES)
@pytest.mark.parametrize("channels", [1, 2])
def test_what_is_written_is_read_back(tmp_path, suffix, channels):
    clip = tone(channels=channels)
    write_audio(tmp_path / f"a{suffix}", clip)
    back = read_audio(tmp_path / f"a{suffix}")
    assert (back.sample_rate_hz, back.samples.shape) == (clip.sample_rate_hz, clip.samples.shape)
    difference = back.samples - clip.samples
    if suffix in (".wav", ".flac"):
        assert np.abs(difference).max() <= 2**-16
    assert np.sqrt((difference**2).mean()) < 0.03  # the tone's own level is 0.35
    assert os.listdir(tmp_path) == [f"a{suffix}"]


@pytest.mark.parametrize("suffix", [".wav", ".flac"])
def test_a_copy_of_a_lossless_file_is_exact(tmp_path, suffix):
    noise = np.random.default_rng(0).uniform(-1.2, 1.2, (1, 5_000)).astype(np.float32)
    write_audio(tmp_path / "a.wav", AudioClip(noise, 8_000))
    once = read_audio(tmp_path / "a.wav")
    write_audio(tmp_path / f"b{suffix}", once)
    np.testing.assert_array_equal(read_audio(tmp_path / f"b{suffix}").samples, once.samples)
    assert scan_audio(tmp_path / "a.wav") == scan_audio(tmp_path / f"b{suffix}")


@pytest.mark.parametrize("subtype", ["PCM_U8", "PCM_16", "PCM_24", "PCM_32"])
def test_integers_are_scaled_by_their_range(tmp_path, subtype):
    soundfile.write(tmp_path / "a.wav", np.array([-1.0, 0.0, 0.5]), 8_000, subtype=subtype)
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav").samples[0], [-1, 0, 0.5], atol=2**-7)


def test_channels_are_mixed_by_their_mean_and_copied(tmp_path):
    samples = np.array([[0.5, 0.25], [-0.5, 0.25]], np.float32)
    write_audio(tmp_path / "a.wav", AudioClip(samples, 8_000))
    np.testing.assert_allclose(read_audio(tmp_path / "a.wav", channels=1).samples, [[0, 0.25]])
    assert AudioClip(samples, 8_000).mono().samples.shape == (1, 2)
    assert AudioClip(samples[:1], 8_000).with_channels(3).samples.tolist() == [[0.5, 0.25]] * 3
    with pytest.raises(AudioError, match=r"a\.wav: 2 channels cannot become 3"):
        read_audio(tmp_path / "a.wav", channels=3)


def test_reading_resamples_after_cutting(tmp_path):
    write_audio(tmp_path / "a.wav", tone(rate=16_000))
    clip = read_audio(tmp_path / "a.wav", sample_rate_hz=8_000, start_sample=100, num_samples=1_001)
    assert (clip.sample_rate_hz, clip.num_samples) == (8_000, 501)
    assert clip.duration_s == 501 / 8_000


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_stretch_equals_the_same_stretch_of_the_whole(tmp_path, suffix):
    clip = AudioClip(np.random.default_rng(1).uniform(-0.5, 0.5, (2, 150_000)).astype(np.float32), 24_000)
    write_audio(tmp_path / f"a{suffix}", clip)
    whole = read_audio(tmp_path / f"a{suffix}").samples
    for start, count in [(0, 10), (70_000, 40_000), (149_999, 1), (65_536 // 2, 1), (5, 0)]:
        part = read_audio(tmp_path / f"a{suffix}", start_sample=start, num_samples=count).samples
        np.testing.assert_array_equal(part, whole[:, start : start + count])


def test_a_stretch_beyond_the_end_is_refused(tmp_path):
    write_audio(tmp_path / "a.wav", tone())
    with pytest.raises(AudioError, match="has 8000 samples, fewer than the 8001"):
        read_audio(tmp_path / "a.wav", start_sample=8_000, num_samples=1)
    with pytest.raises(AudioError, match="ends before sample 9000"):
        read_audio(tmp_path / "a.wav", start_sample=9_000, num_samples=1)


@pytest.mark.parametrize(
    ("value", "words"), [(np.nan, "is nan"), (np.inf, "is inf"), (-np.inf, "is -inf"), (32_000.0, "of 32000")]
)
def test_a_sample_that_is_no_sound_is_named_with_its_time(tmp_path, value, words):
    samples = np.zeros((100_000, 2), np.float32)
    samples[80_000, 1] = value
    samples[90_000:] = np.nan
    soundfile.write(tmp_path / "a.wav", samples, 16_000, subtype="FLOAT")
    for reading in (read_audio, scan_audio):
        with pytest.raises(AudioError, match=rf"a\.wav has a sample .*{words} at 5\.000 s"):
            reading(tmp_path / "a.wav")


def test_floats_that_overshoot_a_little_are_kept(tmp_path):
    soundfile.write(tmp_path / "a.wav", np.array([1.5, -2.0]), 16_000, subtype="FLOAT")
    assert read_audio(tmp_path / "a.wav").samples.tolist() == [[1.5, -2.0]]


@pytest.mark.parametrize("rate", [1, 999, 768_001, 2**31 - 1])
def test_absurd_rates_are_refused(write, rate):
    with pytest.raises(AudioError, match=f"claims {rate} Hz; a sample rate lies between 1000 and 768000"):
        read_audio(write(wav_bytes(rate=rate)))


def test_absurd_channel_counts_are_refused(write):
    with pytest.raises(AudioError, match="claims 100 channels; at most 64"):
        read_audio(write(wav_bytes(b"\0" * 2_000, channels=100)))


def flac_claiming(tmp_path, total):
    soundfile.write(tmp_path / "a.flac", tone(1.0).samples.T, 16_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    packed = int.from_bytes(data[18:26], "big")
    data[18:26] = (packed & ~((1 << 36) - 1) | total).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(data)
    return tmp_path / "a.flac"


def test_a_flac_that_claims_68_billion_samples_is_refused_without_memory(tmp_path):
    path = flac_claiming(tmp_path, 2**36 - 1)
    tracemalloc.start()
    with pytest.raises(AudioError, match="claims 68719476735 samples, 16000 were decoded"):
        read_audio(path)
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 4 * 2**20


def test_a_flac_that_goes_on_behind_its_claim_is_refused(tmp_path):
    soundfile.write(tmp_path / "a.flac", np.random.default_rng(0).uniform(-1, 1, 160_000), 16_000)
    data = bytearray((tmp_path / "a.flac").read_bytes())
    data[18:26] = (int.from_bytes(data[18:26], "big") & ~((1 << 36) - 1) | 4_096).to_bytes(8, "big")
    (tmp_path / "a.flac").write_bytes(data)
    with pytest.raises(AudioError, match="goes on after the 4096 samples"):
        read_audio(tmp_path / "a.flac")


def test_a_flac_of_unknown_length_is_read_to_its_end(tmp_path):
    assert read_audio(flac_claiming(tmp_path, 0)).num_samples == 16_000


def test_a_wav_header_of_two_gigabytes_without_data_is_refused(write):
    with pytest.raises(AudioError, match="truncated: its header claims 2147483648 bytes of samples, 0 are there"):
        read_audio(write(wav_bytes(b"", claim=2**31)))


@pytest.mark.parametrize("claim", [0xFFFFFFFF, 0x7FFFF000])
def test_a_wav_from_a_pipe_is_read_to_its_end(write, claim):
    assert read_audio(write(wav_bytes(claim=claim))).num_samples == 1_000
    with pytest.raises(AudioError, match="holds no samples"):
        read_audio(write(wav_bytes(b"", claim=claim)))


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_truncated_file_is_named(tmp_path, suffix):
    noise = np.random.default_rng(0).uniform(-0.5, 0.5, (1, 80_000)).astype(np.float32)
    path = tmp_path / f"a{suffix}"
    write_audio(path, AudioClip(noise, 16_000))
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(AudioError, match=rf"a\{suffix} is truncated"):
        read_audio(path)


@pytest.mark.parametrize("name", ["a.wav", "a.mp3", "a.flac", "a.raw", "a.vox", "a.gsm", "a.txt"])
@pytest.mark.parametrize("data", [b"hello world " * 100, b"\0" * 1_000])
def test_what_is_not_audio_is_refused(write, name, data):
    with pytest.raises(AudioError, match=r"(is not audio that can be read|cannot be told from noise|holds no samples)"):
        read_audio(write(data, name))


def test_missing_empty_and_unreadable_paths_are_refused(tmp_path, write):
    with pytest.raises(AudioError, match=r"b\.wav does not exist"):
        read_audio(tmp_path / "b.wav")
    with pytest.raises(AudioError, match=r"a\.wav is empty \(0 bytes\)"):
        read_audio(write(b""))
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path)
    os.mkfifo(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="is not a file"):
        read_audio(tmp_path / "pipe.wav")
    with pytest.raises(AudioError, match="cannot be read"):
        read_audio("a\0b.wav")


def test_a_file_longer_than_memory_allows_is_refused(tmp_path, monkeypatch):
    write_audio(tmp_path / "a.wav", tone(1.0))
    monkeypatch.setattr(io, "MAX_VALUES", 8_000)
    with pytest.raises(AudioError, match="is longer than 0 s, the most that is read at once; cut it"):
        read_audio(tmp_path / "a.wav")


def test_scanning_a_long_file_keeps_memory_flat(tmp_path):
    with soundfile.SoundFile(tmp_path / "a.wav", "w", 48_000, 1) as file:
        for _ in range(60):
            file.write(np.zeros(48_000, np.float32))
    tracemalloc.start()
    facts = scan_audio(tmp_path / "a.wav")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert (facts.num_samples, facts.duration_s, facts.peak) == (60 * 48_000, 60.0, 0.0)
    assert peak < 3 * 2**20  # the samples are 11.5 MB


def test_the_digest_tells_content_rate_and_channels_apart(tmp_path):
    clips = [tone(), tone(hz=301.0), AudioClip(tone().samples, 8_000), tone(channels=2)]
    digests = set()
    for number, clip in enumerate(clips):
        write_audio(tmp_path / f"{number}.wav", clip)
        digests.add(scan_audio(tmp_path / f"{number}.wav").digest)
    assert len(digests) == 4
    os.rename(tmp_path / "0.wav", tmp_path / "renamed.wav")
    assert scan_audio(tmp_path / "renamed.wav").digest in digests


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_synthetic_speech_says_so_in_its_metadata(tmp_path, suffix):
    write_audio(tmp_path / f"a{suffix}", tone(), synthetic=True)
    write_audio(tmp_path / f"b{suffix}", tone())
    assert read_metadata(tmp_path / f"a{suffix}")["comment"] == "synthetic speech made with voder"
    assert is_marked_synthetic(tmp_path / f"a{suffix}")
    assert not is_marked_synthetic(tmp_path / f"b{suffix}")


@pytest.mark.parametrize(
    ("suffix", "rate", "written"),
    [(".opus", 22_050, 24_000), (".opus", 96_000, 48_000), (".mp3", 5_000, 8_000), (".ogg", 22_050, 22_050)],
)
def test_rates_that_a_format_does_not_know_are_resampled(tmp_path, suffix, rate, written):
    write_audio(tmp_path / f"a{suffix}", tone(rate=rate))
    assert probe_audio(tmp_path / f"a{suffix}") == (written, 1)
    assert abs(read_audio(tmp_path / f"a{suffix}").duration_s - 0.5) < 0.1


def test_beyond_four_gigabytes_the_container_counts_in_64_bits(tmp_path, monkeypatch):
    monkeypatch.setattr(io, "_WAV_MAX_BYTES", 1_000)
    write_audio(tmp_path / "a.wav", tone())
    assert (tmp_path / "a.wav").read_bytes()[:4] == b"RF64"
    assert read_audio(tmp_path / "a.wav").num_samples == 8_000
    (tmp_path / "b.wav").write_bytes((tmp_path / "a.wav").read_bytes()[:-100])
    with pytest.raises(AudioError, match="truncated"):
        read_audio(tmp_path / "b.wav")


def test_what_cannot_be_written_is_refused_and_leaves_nothing(tmp_path):
    with pytest.raises(AudioError, match=r"the suffix must be one of \.wav"):
        write_audio(tmp_path / "a.m4a", tone())
    with pytest.raises(AudioError, match=r"\.mp3 does not take 5 channels"):
        write_audio(tmp_path / "a.mp3", tone(channels=5))
    bad = tone()
    bad.samples[0, 4_000] = np.nan
    with pytest.raises(AudioError, match=r"the sample at 0\.250 s is not finite"):
        write_audio(tmp_path / "a.wav", bad)
    assert os.listdir(tmp_path) == []


def test_a_clip_of_another_layout_is_a_callers_mistake():
    with pytest.raises(ValueError, match="sample_rate_hz must be positive"):
        AudioClip(np.zeros((1, 5), np.float32), 0)
    with pytest.raises(ValueError, match="must not be negative"):
        read_audio("a.wav", start_sample=-1)


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_full_disk_is_one_sentence_and_the_old_file_stays(tmp_path, suffix):
    path = tmp_path / f"a{suffix}"
    write_audio(path, tone())
    before = path.read_bytes()
    noise = AudioClip(np.random.default_rng(0).uniform(-0.5, 0.5, (1, 400_000)).astype(np.float32), 16_000)
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, limits[1]))
    try:
        with pytest.raises(ResourceError, match=rf"cannot write .*a\{suffix}"):
            write_audio(path, noise)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]


def test_a_folder_that_is_a_file_is_a_resource_error(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="cannot write"):
        write_audio(tmp_path / "file" / "a.wav", tone())


def test_reading_audio_needs_no_torch():
    code = "import sys, voder.audio.io; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0


@pytest.fixture(scope="module")
def originals(tmp_path_factory):
    folder = tmp_path_factory.mktemp("originals")
    for suffix in (".wav", ".flac", ".ogg", ".opus"):
        write_audio(folder / f"a{suffix}", tone(0.2, channels=2))
    return {path.suffix: path.read_bytes() for path in folder.iterdir()}


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_mutated_files_are_read_sanely_or_refused(originals, tmp_path, data):
    suffix = data.draw(st.sampled_from([".wav", ".flac", ".ogg", ".opus"]))
    raw = bytearray(originals[suffix])
    for _ in range(data.draw(st.integers(1, 8))):
        place = data.draw(st.integers(0, len(raw) - 1 if data.draw(st.booleans()) else 60))
        raw[place : place + 4] = data.draw(st.binary(min_size=1, max_size=4))
    raw = raw[: data.draw(st.integers(1, len(raw)))] if data.draw(st.booleans()) else raw
    path = tmp_path / f"x{suffix}"
    path.write_bytes(raw)
    clip, refusal = None, f"{path}"
    try:
        clip = read_audio(path)
    except InputError as error:
        refusal = str(error)
    assert str(path) in refusal
    assert "\n" not in refusal
    if clip is None:
        return
    assert np.isfinite(clip.samples).all()
    assert np.abs(clip.samples).max() <= io.MAX_AMPLITUDE
    assert 0 < clip.num_samples < 10**6
    assert scan_audio(path).num_samples == clip.num_samples


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(head=st.sampled_from([b"", b"RIFF....WAVE", b"OggS", b"fLaC", b"ID3", b"FORM"]), tail=st.binary(max_size=300))
def test_noise_is_refused(tmp_path, head, tail):
    (tmp_path / "x.wav").write_bytes(head + tail)
    with pytest.raises(AudioError):
        read_audio(tmp_path / "x.wav")
