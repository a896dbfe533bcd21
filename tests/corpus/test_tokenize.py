"""`tokenize`: killed anywhere and run again it ends in the same bytes, and bad files are listed."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

from voder.corpus.tokenize import tokenize_corpus
from voder.data.manifest import Manifest, Utterance, write_manifest
from voder.data.shards import TokenStore
from voder.errors import AudioError, ConfigError, FittedPartMismatch, InputError, ResourceError
from voder.roles import Codec, Encoded, UnitTokenizer


class Levels(Codec):
    """Two codebooks: the mean and the peak of each frame in 16 steps."""

    def __init__(self):
        super().__init__()
        self.sample_rate_hz, self.channels, self.hop, self.num_codebooks, self.codebook_size = 8_000, 1, 80, 2, 16
        self.weight = nn.Parameter(torch.zeros(1))
        self.batches = []

    def encode_batch(self, audio, lengths=None, *, num_codebooks=None):
        self.batches.append(tuple(audio.shape))
        frames = -(-audio.shape[-1] // self.hop)
        padded = nn.functional.pad(audio, (0, frames * self.hop - audio.shape[-1]))
        blocks = padded[:, 0].unflatten(-1, (frames, self.hop))
        values = torch.stack([blocks.mean(-1), blocks.abs().amax(-1)], 1)
        codes = (values.clamp(-1, 1) * 7.5 + 7.5).long()[:, : num_codebooks or 2]
        return Encoded(codes=codes, lengths=-(-lengths // self.hop), num_samples=lengths)

    def decode_batch(self, encoded):
        return torch.zeros(len(encoded.codes), 1, encoded.codes.shape[-1] * self.hop)


@pytest.fixture
def codec_folder(tmp_path):
    folder = tmp_path / "codec"
    folder.mkdir()
    record = {"format": "voder-checkpoint/1", "system": "levels", "model": {}, "provenance": {}}
    (folder / "config.json").write_text(json.dumps(record))
    (folder / "model.safetensors").write_bytes(b"weights")
    return folder


@pytest.fixture
def data(tmp_path, sound):
    """Prepared manifests: 11 recordings to train on, 2 to validate, none to test."""
    (tmp_path / "sounds").mkdir()
    items = []
    for number in range(13):
        seconds, rate = 0.1 + 0.05 * (number * 7 % 5), (8_000, 16_000)[number % 2]
        path = sound(tmp_path / "sounds" / f"{number}.wav", number, seconds=seconds, rate=rate, channels=1 + number % 2)
        count = int(seconds * rate)
        items.append(
            Utterance(
                id=f"id{number}",
                audio=path,
                duration_s=count / rate,
                num_samples=count,
                sample_rate_hz=rate,
                channels=1 + number % 2,
                text=f"text {number}",
            )
        )
    for name, chosen in {"train": items[:11], "valid": items[11:], "test": []}.items():
        write_manifest(tmp_path / "data" / f"{name}.jsonl", chosen)
    return tmp_path / "data"


def all_bytes(folder):
    return {
        path.relative_to(folder).as_posix(): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()
    }


def run(data, codec_folder, output, codec=None, **options):
    options = {"shard_recordings": 4, "batch_duration_s": 0.7} | options
    return tokenize_corpus(data, codec or Levels(), codec_folder, output, **options)


def test_every_recording_is_stored_as_if_encoded_alone(data, codec_folder, tmp_path):
    report = run(data, codec_folder, tmp_path / "t")
    assert (report.recordings, report.skipped) == ({"train": 11, "valid": 2, "test": 0}, ())
    assert (report.written_shards, report.reused_shards) == (4, 0)
    store, codec = TokenStore.open(tmp_path / "t"), Levels()
    for name in ("train", "valid"):
        manifest, split = Manifest.open(data / f"{name}.jsonl"), store.split(name)
        for number in range(len(manifest)):
            assert split.utterance(number) == manifest[number]
            clip = manifest[number].read()
            np.testing.assert_array_equal(split.codes(number), codec.encode(clip))
    assert report.frames == {name: int(store.split(name).lengths.sum()) for name in store.splits}
    assert "tokenized 13 of 13 recordings" in report.summary()
    assert (store.tokenizer.system, store.tokenizer.frame_rate_hz, store.tokenizer.hop) == ("levels", 100.0, 80)


def test_the_store_holds_one_second_of_silence_and_the_codec(data, codec_folder, tmp_path):
    run(data, codec_folder, tmp_path / "t")
    store = TokenStore.open(tmp_path / "t")
    assert store.silence.tolist() == [[7] * 100, [7] * 100]
    assert all_bytes(store.tokenizer_folder) == all_bytes(codec_folder)


def test_batches_stay_within_their_bound_longest_first(data, codec_folder, tmp_path):
    codec = Levels()
    run(data, codec_folder, tmp_path / "t", codec, shard_recordings=100)
    _, *batches = codec.batches  # the first is the silence
    assert all(items * samples <= 0.7 * 8_000 for items, _, samples in batches)
    assert batches[0][2] == max(samples for _, _, samples in batches)
    assert max(items for items, _, _ in batches) > 2


def test_running_again_reuses_everything(data, codec_folder, tmp_path):
    run(data, codec_folder, tmp_path / "t")
    before, codec = all_bytes(tmp_path / "t"), Levels()
    report = run(data, codec_folder, tmp_path / "t", codec)
    assert (report.written_shards, report.reused_shards) == (0, 4)
    assert len(codec.batches) == 1
    assert all_bytes(tmp_path / "t") == before


KILLER = """
import importlib.util, os, pathlib, sys
tests, data, codec, output, *moments = sys.argv[1:]
spec = importlib.util.spec_from_file_location("here", tests)
here = importlib.util.module_from_spec(spec)
spec.loader.exec_module(here)
for when in moments:  # forked, so that torch is imported once
    child = os.fork()
    if child == 0:
        here.die_at(int(when))
        here.run(pathlib.Path(data), pathlib.Path(codec), pathlib.Path(output + when))
        os._exit(0)
    print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
"""


def die_at(when):
    """Kill this process, without a word, before the `when`-th time a file is put in its place."""
    calls = []
    for name in ("replace", "rename"):
        real = getattr(os, name)

        def counted(*arguments, real=real):
            calls.append(arguments)
            if len(calls) == when:
                os.kill(os.getpid(), signal.SIGKILL)
            real(*arguments)

        setattr(os, name, counted)


def test_killed_anywhere_and_run_again_ends_in_the_same_bytes(data, codec_folder, tmp_path, sound):
    (tmp_path / "sounds" / "5.wav").write_bytes(b"damaged")
    run(data, codec_folder, tmp_path / "whole")
    wanted = all_bytes(tmp_path / "whole")
    moments = ["1", "2", "3", "5", "8", "11", "14"]
    arguments = [__file__, str(data), str(codec_folder), str(tmp_path / "t"), *moments]
    done = subprocess.run([sys.executable, "-c", KILLER, *arguments], capture_output=True, text=True)
    assert done.stdout.split() == ["-9"] * len(moments), done.stderr
    for when in moments:
        assert all_bytes(tmp_path / f"t{when}") != wanted
        run(data, codec_folder, tmp_path / f"t{when}")
        assert all_bytes(tmp_path / f"t{when}") == wanted


def test_bad_files_are_listed_and_strict_stops(data, codec_folder, tmp_path):
    (tmp_path / "sounds" / "5.wav").write_bytes(b"damaged")
    report = run(data, codec_folder, tmp_path / "t")
    assert [each.id for each in report.skipped] == ["id5"]
    assert report.recordings["train"] == 10
    assert "5.wav is not audio" in report.summary()
    assert [json.loads(line)["id"] for line in (tmp_path / "t" / "skipped.jsonl").read_text().splitlines()] == ["id5"]
    ids = [TokenStore.open(tmp_path / "t").split("train").utterance(number).id for number in range(10)]
    assert ids == [f"id{number}" for number in range(11) if number != 5]
    with pytest.raises(AudioError, match=r"5\.wav"):
        run(data, codec_folder, tmp_path / "strict", strict=True)


def test_another_codec_or_other_recordings_never_mix(data, codec_folder, tmp_path):
    run(data, codec_folder, tmp_path / "t")
    before = all_bytes(tmp_path / "t")
    manifest = Manifest.open(data / "train.jsonl")
    write_manifest(data / "train.jsonl", [manifest[number] for number in reversed(range(11))])
    with pytest.raises(InputError, match="was made from other recordings or settings"):
        run(data, codec_folder, tmp_path / "t")
    (codec_folder / "model.safetensors").write_bytes(b"other weights")
    with pytest.raises(FittedPartMismatch, match="holds tokens of codec levels"):
        run(data, codec_folder, tmp_path / "t")
    assert all_bytes(tmp_path / "t") == before


def test_fewer_codebooks_can_be_asked_for(data, codec_folder, tmp_path):
    run(data, codec_folder, tmp_path / "t", num_codebooks=1)
    store = TokenStore.open(tmp_path / "t")
    assert store.tokenizer.num_codebooks == 1
    assert store.split("train").codes(0).shape[0] == store.silence.shape[0] == 1
    with pytest.raises(ConfigError, match="num_codebooks must lie between 1 and 2, but is 3"):
        run(data, codec_folder, tmp_path / "t3", num_codebooks=3)


def test_running_out_of_memory_names_the_setting(data, codec_folder, tmp_path):
    class Hungry(Levels):
        def encode_batch(self, audio, lengths=None, *, num_codebooks=None):
            if len(self.batches) > 1:
                raise torch.OutOfMemoryError("CUDA out of memory")
            return super().encode_batch(audio, lengths, num_codebooks=num_codebooks)

    with pytest.raises(ResourceError, match=r"lower batch_duration_s \(now 0\.7\)"):
        run(data, codec_folder, tmp_path / "t", Hungry())
    run(data, codec_folder, tmp_path / "t", batch_duration_s=0.3)
    run(data, codec_folder, tmp_path / "whole")
    assert all_bytes(tmp_path / "t") == all_bytes(tmp_path / "whole")


def test_a_fault_of_the_codec_is_not_hidden(data, codec_folder, tmp_path):
    class Broken(Levels):
        def encode_batch(self, audio, lengths=None, *, num_codebooks=None):
            raise RuntimeError("shape mismatch")

    with pytest.raises(RuntimeError, match="shape mismatch"):
        run(data, codec_folder, tmp_path / "t", Broken())


def test_nothing_to_encode_is_said_clearly(codec_folder, tmp_path):
    with pytest.raises(InputError, match=r"holds no train\.jsonl, valid\.jsonl or test\.jsonl with recordings"):
        run(tmp_path, codec_folder, tmp_path / "t")
    with pytest.raises(ConfigError, match="must be positive"):
        run(tmp_path, codec_folder, tmp_path / "t", batch_duration_s=0.0)


class Loudness(UnitTokenizer):
    """One of 8 units for each 20 ms; recordings below 0.2 s are too short."""

    def __init__(self):
        super().__init__()
        self.sample_rate_hz, self.hop, self.num_units = 8_000, 160, 8
        self.weight = nn.Parameter(torch.zeros(1))

    @property
    def identity(self):
        return "loudness"

    def units_batch(self, audio, lengths=None):
        if int(lengths.min()) < 1600:
            raise AudioError(f"a recording has {int(lengths.min())} samples; 1600 are needed")
        counts = lengths // self.hop
        blocks = audio[:, 0, : int(counts.max()) * self.hop].unflatten(-1, (-1, self.hop))
        return (blocks.abs().mean(-1) * 20).long().clamp(max=7), counts


def test_a_unit_tokenizer_gives_one_codebook_and_leaves_out_what_is_too_short(data, codec_folder, tmp_path):
    tokenizer = Loudness()
    report = tokenize_corpus(data, tokenizer, codec_folder, tmp_path / "units")
    store = TokenStore.open(tmp_path / "units")
    assert (store.tokenizer.num_codebooks, store.tokenizer.codebook_size) == (1, 8)
    assert store.tokenizer.frame_rate_hz == 50
    split = store.split("train")
    short = [u for u in Manifest.open(data / "train.jsonl") if u.duration_s < 0.2]
    assert short
    assert {each.audio for each in report.skipped} >= {u.audio.as_posix() for u in short}
    assert all("1600 are needed" in each.reason for each in report.skipped)
    for index in range(len(split)):
        clip = split.utterance(index).read(sample_rate_hz=8_000, channels=1)
        assert split.codes(index)[0].tolist() == tokenizer.encode(clip).units.tolist()


def test_what_is_too_short_stops_a_strict_run(data, codec_folder, tmp_path):
    with pytest.raises(AudioError, match="1600 are needed"):
        tokenize_corpus(data, Loudness(), codec_folder, tmp_path / "units", strict=True)


def test_a_unit_tokenizer_has_no_second_codebook(data, codec_folder, tmp_path):
    with pytest.raises(ConfigError, match="between 1 and 1"):
        tokenize_corpus(data, Loudness(), codec_folder, tmp_path / "units", num_codebooks=2)
