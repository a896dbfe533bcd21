"""Token shards: whole or absent, the same bytes again, and the tokens of one codec only."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors import safe_open

from voder.data.manifest import Utterance
from voder.data.shards import Skipped, TokenizerInfo, TokenStore, TokenWriter
from voder.errors import FittedPartMismatch, InputError, ResourceError, TokensError


def info(**changes):
    fields = {
        "system": "toy",
        "identity": "abc",
        "num_codebooks": 2,
        "codebook_size": 10,
        "frame_rate_hz": 50.0,
        "sample_rate_hz": 8_000,
        "hop": 160,
    }
    return TokenizerInfo(**(fields | changes))


def utterances(count, prefix="u"):
    return [
        Utterance(
            id=f"{prefix}{number}",
            audio=Path(f"/sounds/{prefix}{number}.wav"),
            duration_s=0.5,
            num_samples=4_000,
            sample_rate_hz=8_000,
            channels=1,
            text=f"text {number}",
            speaker=f"s{number % 2}",
        )
        for number in range(count)
    ]


def codes(count, seed=0, size=10):
    rng = np.random.default_rng(seed)
    return [rng.integers(0, size, (2, int(rng.integers(0, 30)))) for _ in range(count)]


@pytest.fixture
def codec(tmp_path):
    folder = tmp_path / "codec"
    folder.mkdir()
    (folder / "config.json").write_text("{}")
    return folder


def write_store(folder, codec, *, tokenizer=None, counts=(3, 2)):
    tokenizer = tokenizer or info()
    with TokenWriter(folder, tokenizer=tokenizer, tokenizer_folder=codec) as writer:
        names = [f"train-{number:05d}" for number in range(len(counts))]
        for number, (name, count) in enumerate(zip(names, counts, strict=True)):
            if not writer.has_shard(name, f"key{number}"):
                skipped = [Skipped("bad", "/sounds/bad.wav", "is empty")] if number == 1 else []
                items = codes(count, number, tokenizer.codebook_size)
                writer.write_shard(name, f"key{number}", utterances(count, name), items, skipped)
        writer.write_silence(np.zeros((2, 50), np.int64))
        return writer.finish({"train": names, "valid": []})


def all_bytes(folder):
    return {path.relative_to(folder): path.read_bytes() for path in Path(folder).rglob("*") if path.is_file()}


def test_what_is_written_is_read_back(tmp_path, codec):
    write_store(tmp_path / "t", codec, counts=(3, 0, 2))
    store = TokenStore.open(tmp_path / "t")
    assert store.tokenizer == info()
    assert (store.tokenizer_folder / "config.json").read_text() == "{}"
    assert (store.silence.shape, store.silence.dtype) == ((2, 50), np.int64)
    assert store.splits == ("train", "valid")
    split, wanted = store.split("train"), codes(3, 0) + codes(2, 2)
    assert (len(split), len(store.split("valid"))) == (5, 0)
    assert split.lengths.tolist() == [item.shape[1] for item in wanted]
    for number, item in enumerate(wanted):
        np.testing.assert_array_equal(split.codes(number), item)
        assert split.codes(number).dtype == np.int64
    assert split.utterance(4) == utterances(2, "train-00002")[1]
    assert split.utterance(-5).id == "train-000000"
    assert split.speakers() == ("s0", "s1")
    with pytest.raises(IndexError, match="there is no number 5"):
        split.codes(5)


@pytest.mark.parametrize(("size", "dtype"), [(2**15, "I16"), (2**15 + 1, "I32")])
def test_codes_take_two_bytes_where_they_fit(tmp_path, codec, size, dtype):
    store = write_store(tmp_path / "t", codec, tokenizer=info(codebook_size=size))
    with safe_open(tmp_path / "t" / "train-00000.safetensors", framework="np") as file:
        assert file.get_slice("codes").get_dtype() == dtype
    np.testing.assert_array_equal(store.split("train").codes(1), codes(3, 0, size)[1])


def test_writing_again_changes_no_byte_and_reuses_the_shards(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    before = all_bytes(tmp_path / "t")
    changed = (tmp_path / "t" / "train-00000.safetensors").stat().st_mtime_ns
    write_store(tmp_path / "t", codec)
    assert all_bytes(tmp_path / "t") == before
    assert (tmp_path / "t" / "train-00000.safetensors").stat().st_mtime_ns == changed
    write_store(tmp_path / "other", codec)
    assert all_bytes(tmp_path / "other") == before


def test_skipped_recordings_are_listed_by_shard(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    with TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec) as writer:
        assert writer.skipped(["train-00000", "train-00001"]) == [Skipped("bad", "/sounds/bad.wav", "is empty")]


def test_tokens_of_another_codec_are_refused_by_name(tmp_path, codec):
    store = write_store(tmp_path / "t", codec)
    store.require("abc")
    with pytest.raises(FittedPartMismatch, match="holds tokens of codec toy abc, but xyz is needed: tokenize again"):
        store.require("xyz")
    before = all_bytes(tmp_path / "t")
    with pytest.raises(FittedPartMismatch, match="holds tokens of codec toy abc, but xyz"):
        write_store(tmp_path / "t", codec, tokenizer=info(identity="xyz"))
    with pytest.raises(FittedPartMismatch, match="describes its codec otherwise"):
        write_store(tmp_path / "t", codec, tokenizer=info(hop=80))
    assert all_bytes(tmp_path / "t") == before


def test_a_shard_made_from_other_recordings_is_never_overwritten(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    with (
        TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec) as writer,
        pytest.raises(TokensError, match=r"train-00000\.safetensors was made from other recordings or settings"),
    ):
        writer.has_shard("train-00000", "another key")


def test_a_second_writer_is_refused(tmp_path, codec):
    def second():
        with TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec):
            pass

    with (
        TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec),
        pytest.raises(ResourceError, match="is being written by another process"),
    ):
        second()
    second()


def test_a_folder_of_other_things_is_left_alone(tmp_path, codec):
    (tmp_path / "t").mkdir()
    (tmp_path / "t" / "thesis.tex").write_text("years of work")
    with pytest.raises(TokensError, match=r"holds other files \(thesis.tex\): choose an empty output folder"):
        write_store(tmp_path / "t", codec)
    assert os.listdir(tmp_path / "t") == ["thesis.tex"]


def test_an_unfinished_store_says_so(tmp_path, codec):
    with TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec):
        pass
    with pytest.raises(TokensError, match="is unfinished: run the same `voder tokenize` again"):
        TokenStore.open(tmp_path / "t")
    with pytest.raises(TokensError, match=r"holds no tokens\.json"):
        TokenStore.open(tmp_path / "nothing")


def test_unknown_splits_are_named(tmp_path, codec):
    with pytest.raises(TokensError, match="has no split 'dev'; it has train, valid"):
        write_store(tmp_path / "t", codec).split("dev")


def test_codes_that_do_not_fit_the_codec_are_a_mistake_of_the_caller(tmp_path, codec):
    with TokenWriter(tmp_path / "t", tokenizer=info(), tokenizer_folder=codec) as writer:
        with pytest.raises(ValueError, match="must be 0 to 9, but reach 0 to 10"):
            writer.write_shard("train-00000", "k", utterances(1), [np.array([[0], [10]])])
        with pytest.raises(ValueError, match=r"must be \[2, frames\]"):
            writer.write_shard("train-00000", "k", utterances(1), [np.zeros((3, 4), np.int64)])
    assert not (tmp_path / "t" / "train-00000.safetensors").exists()


def test_a_full_disk_is_one_sentence(tmp_path, codec, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("voder.data.shards.save_file", full)
    with pytest.raises(ResourceError, match=r"cannot write .*train-00000\.safetensors: No space left"):
        write_store(tmp_path / "t", codec)
    monkeypatch.undo()
    assert len(write_store(tmp_path / "t", codec).split("train")) == 5


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (lambda record: record.update(format="voder-tokens/9"), "has format 'voder-tokens/9', but 'voder-tokens/1'"),
        (lambda record: record.pop("tokenizer"), "is damaged"),
        (lambda record: record["tokenizer"].update(hop=0), r"tokenizer\.hop is 0"),
        (lambda record: record["tokenizer"].update(codebook_size="10"), r"tokenizer\.codebook_size is '10'"),
        (lambda record: record["tokenizer"].update(extra=1), "has the keys"),
        (lambda record: record["splits"].update(train={"shards": ["../../secret-00000"]}), "names the shard"),
        (lambda record: record["splits"].update(train=3), "is damaged"),
    ],
)
def test_a_damaged_record_is_named(tmp_path, codec, change, words):
    write_store(tmp_path / "t", codec)
    record = json.loads((tmp_path / "t" / "tokens.json").read_text())
    change(record)
    (tmp_path / "t" / "tokens.json").write_text(json.dumps(record))
    with pytest.raises(TokensError, match=rf"tokens\.json .*{words}"):
        TokenStore.open(tmp_path / "t")


def test_a_codec_with_more_codebooks_than_the_shards_is_named(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    path = tmp_path / "t" / "tokens.json"
    path.write_text(path.read_text().replace('"num_codebooks": 2', '"num_codebooks": 3'))
    with pytest.raises(TokensError, match=r"train-00000\.safetensors has 2 codebooks, but tokens\.json says 3"):
        TokenStore.open(tmp_path / "t").split("train")


def test_codes_beyond_the_codebook_are_named(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    path = tmp_path / "t" / "tokens.json"
    path.write_text(path.read_text().replace('"codebook_size": 10', '"codebook_size": 2'))
    split = TokenStore.open(tmp_path / "t").split("train")
    with pytest.raises(TokensError, match="holds codes 0 to 9, but the codebook has 0 to 1"):
        split.codes(0)


def test_a_list_of_another_length_than_its_shard_is_named(tmp_path, codec):
    write_store(tmp_path / "t", codec)
    path = tmp_path / "t" / "train-00000.jsonl"
    path.write_bytes(b"\n".join(path.read_bytes().splitlines()[:2]))
    split = TokenStore.open(tmp_path / "t").split("train")
    with pytest.raises(TokensError, match="has 2 recordings, its shard 3"):
        split.utterance(0)


@pytest.fixture(scope="module")
def intact(tmp_path_factory):
    folder = tmp_path_factory.mktemp("intact")
    (folder / "codec").mkdir()
    write_store(folder / "t", folder / "codec")
    return folder / "t"


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.data())
def test_damaged_stores_are_read_sanely_or_refused(intact, tmp_path, data):
    folder = tmp_path / "t"
    shutil.rmtree(folder, ignore_errors=True)
    shutil.copytree(intact, folder)
    path = folder / data.draw(st.sampled_from(["tokens.json", "train-00000.safetensors", "train-00000.jsonl"]))
    raw = bytearray(path.read_bytes())
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, len(raw) - 1))
        raw[place : place + 2] = data.draw(st.binary(min_size=1, max_size=2))
    path.write_bytes(raw[: data.draw(st.integers(0, len(raw)))] if data.draw(st.booleans()) else raw)
    seen, refusal = 0, None
    try:
        split = TokenStore.open(folder).split("train")
        for number in range(len(split)):
            item = split.codes(number)
            assert item.shape == (2, split.lengths[number])
            assert item.size == 0 or 0 <= item.min() <= item.max() < split.codebook_size
            split.utterance(number)
            seen += 1
    except InputError as error:
        refusal = str(error)
    assert refusal is None or (str(folder) in refusal and "\n" not in refusal)
    assert refusal is not None or seen == len(split)
