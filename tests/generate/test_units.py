"""Units of any tokenizer, and whatever speaks them: parts that belong together, and a recording there and back."""

from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, cli, hub
from voder.audio.io import AudioClip, is_marked_synthetic, read_audio, write_audio
from voder.errors import CheckpointError, FittedPartMismatch, InputError
from voder.generate.units import fitted_generator, load_reader, num_units, read_units, resynthesize

CLIP = AudioClip(0.1 * np.random.default_rng(0).standard_normal((1, 4100)).astype(np.float32), 8000)


def save(folder, system, parts=None, **changes):
    """A random checkpoint of a tiny preset."""
    torch.manual_seed(0)
    found = hub.find(system)
    config = replace(found.preset("tiny").model, **changes)
    checkpoint.save(folder, system=system, config=config, state=found.build(config).state_dict(), parts=parts)
    return folder


@pytest.fixture(scope="module")
def codec(tmp_path_factory):
    return save(tmp_path_factory.mktemp("codec") / "c", "speechtokenizer")


@pytest.fixture(scope="module")
def storm(codec, tmp_path_factory):
    """A soundstorm that keeps its codec, as training writes it."""
    sizes = {"num_semantic": 16, "codebook_size": 16, "num_levels": 3, "codec_identity": checkpoint.identity(codec)}
    return save(tmp_path_factory.mktemp("storm") / "s", "soundstorm", {"codec": codec}, **sizes)


def test_units_are_read_by_unit_tokenizers_and_codecs_alike(codec):
    reader = load_reader(codec)
    units = read_units(reader, CLIP)
    assert num_units(reader) == 16
    assert np.array_equal(units.units, reader.encode(CLIP)[0])
    assert len(units.units) == units.durations.sum() == -(-4100 // reader.hop)
    merged = read_units(reader, CLIP, dedup=True)
    assert np.array_equal(merged.expanded(), units.units)


@pytest.mark.parametrize(("system", "setting"), [("soundstorm", "codec_identity"), ("unitvocoder", "tokenizer")])
def test_a_generator_over_other_units_is_refused_whatever_system_it_is_of(tmp_path, system, setting):
    folder = save(tmp_path / "fits", system, **{setting: "this"})
    assert fitted_generator(folder, "this", "task.vocoder") == folder
    with pytest.raises(FittedPartMismatch, match=r"task\.vocoder=.*units of tokenizer this; those here are of that"):
        fitted_generator(folder, "that", "task.vocoder")


def test_what_generates_nothing_is_refused(codec):
    with pytest.raises(CheckpointError, match="a Generator is wanted"):
        fitted_generator(codec, "this", "task.vocoder")
    with pytest.raises(CheckpointError, match="a Generator is wanted"):
        resynthesize(CLIP, codec)


def test_soundstorm_gives_back_a_recording_by_the_codec_that_it_keeps(storm, codec):
    made = resynthesize(CLIP, storm)
    assert np.array_equal(made.units.units, hub.load_codec(codec).encode(CLIP)[0])
    assert (made.heard_s, made.clip.sample_rate_hz) == (4100 / 8000, 8000)
    assert made.clip.num_samples == 40 * len(made.units.units)
    assert np.array_equal(made.clip.samples, hub.load(storm).generate(made.units).samples)
    with pytest.raises(InputError, match="no durations"):
        resynthesize(CLIP, storm, predict_durations=True)


def test_the_verb_resynthesizes_over_soundstorm(storm, tmp_path, capsys):
    write_audio(tmp_path / "in.wav", CLIP)
    assert (
        cli.main(["resynthesize", str(tmp_path / "in.wav"), "--model", str(storm), "-o", str(tmp_path / "o.wav")]) == 0
    )
    made = read_audio(tmp_path / "o.wav")
    assert made.num_samples == 4120
    assert is_marked_synthetic(tmp_path / "o.wav")
    assert capsys.readouterr().out == f"{tmp_path / 'o.wav'}: 0.52 s\n"


def test_another_codec_than_the_one_it_was_trained_on_is_refused(storm, tmp_path):
    other = save(tmp_path / "other", "speechtokenizer", num_lstm_layers=0, bidirectional=False)
    with pytest.raises(FittedPartMismatch, match="reads units of tokenizer"):
        resynthesize(CLIP, storm, tokenizer=other)
