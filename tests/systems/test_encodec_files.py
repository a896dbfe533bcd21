"""`.ecdc` files of EnCodec, and published checkpoints both ways."""

import json
from contextlib import suppress
from dataclasses import replace
from functools import cache

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file, save_file

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.coding.ecdc import EcdcHeader
from voder.errors import AudioError, CheckpointError, ConfigError, InputError
from voder.interop import export, load_foreign, rename
from voder.nn.seanet import SEANetConfig
from voder.systems.encodec import EncodecCodec, convert
from voder.systems.encodec.config import PRESETS
from voder.systems.encodec.infer import compress, convert_audio, decompress, read_segments, write_segments
from voder.systems.encodec.lm import EntropyLM, EntropyLMConfig

LM = EntropyLMConfig(num_codebooks=4, codebook_size=16, dim=16, num_layers=2, num_heads=2, past_frames=5)


@cache
def codec_of(kind):
    torch.manual_seed(0)
    config = PRESETS["fsq_tiny" if kind == "fsq" else "tiny"]().model
    if kind == "lm":
        config = replace(config, lm=LM)
    if kind == "segments":
        seanet = SEANetConfig(channels=2, dim=8, num_filters=2, ratios=(5, 4, 2), norm="time_group_norm", causal=False)
        config = replace(config, seanet=seanet, normalize=True, segment_s=0.05, overlap=0.1)
    return EncodecCodec(config).eval().requires_grad_(False)


def clip(count, rate=8000, channels=1):
    samples = 0.3 * np.random.default_rng(count).standard_normal((channels, count))
    return AudioClip(samples.astype(np.float32), rate)


@pytest.mark.parametrize("kind", ["plain", "fsq", "segments", "lm"])
@pytest.mark.parametrize("count", [1, 39, 1203])
def test_files_hold_exactly_the_codes(kind, count):
    codec = codec_of(kind)
    data = compress(codec, clip(count), use_lm=kind == "lm")
    content = read_segments(codec, data)
    wanted = codec.encode_segments(convert_audio(torch.from_numpy(clip(count).samples), 1, 1, codec.channels)[None])
    assert len(content.segments) == len(wanted)
    for ours, theirs in zip(content.segments, wanted, strict=True):
        assert torch.equal(ours.codes, theirs.codes)
    restored = decompress(codec, data)
    assert restored.samples.shape == (codec.channels, count)
    assert write_segments(codec, content.header, content.segments) == data


def test_the_input_is_mixed_and_resampled_first():
    codec = codec_of("plain")
    data = compress(codec, clip(2400, rate=24000, channels=2), bandwidth_kbps=1.6)
    header = read_segments(codec, data).header
    assert (header.num_samples, header.num_codebooks) == (800, 2)
    with pytest.raises(AudioError, match="3 channels"):
        compress(codec, clip(100, channels=3))


def test_what_cannot_be_asked_for_is_refused():
    codec = codec_of("plain")
    with pytest.raises(ConfigError, match="no language model"):
        compress(codec, clip(100), use_lm=True)
    with pytest.raises(ConfigError, match="bandwidth is 99"):
        compress(codec, clip(100), bandwidth_kbps=99)


def test_files_of_other_models_are_refused_by_name():
    codec, with_lm = codec_of("plain"), codec_of("lm")
    data = compress(codec, clip(300), identity="weights-a")
    assert decompress(codec, data, identity="weights-a").num_samples == 300
    with pytest.raises(InputError, match=r"made with weights weights-a.*weights-b"):
        decompress(codec, data, identity="weights-b")
    with pytest.raises(InputError, match="this checkpoint has none"):
        decompress(codec, compress(with_lm, clip(300), use_lm=True))
    with pytest.raises(InputError, match=r"'encodec'.*'encodec_24khz'"):
        decompress(codec, data, model_name="encodec_24khz")
    few = EncodecCodec(replace(codec.config, rvq=replace(codec.config.rvq, num_codebooks=2), bandwidths_kbps=()))
    with pytest.raises(InputError, match="4 codebooks; this model has 2"):
        decompress(few.eval(), data)


@pytest.mark.parametrize("kind", ["plain", "segments", "lm"])
def test_every_truncation_is_an_input_error(kind):
    codec, data = codec_of(kind), file_of(kind)
    for end in range(0, len(data), 5 if kind == "lm" else 1):
        with pytest.raises(InputError):
            read_segments(codec, data[:end])
    with pytest.raises(InputError, match="goes on for 3 bytes"):
        read_segments(codec, data + b"abc")


@cache
def file_of(kind):
    return compress(codec_of(kind), clip(700), use_lm=kind == "lm")


@pytest.mark.parametrize("kind", ["plain", "segments", "lm"])
@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_mutated_files_are_read_or_refused(kind, data):
    codec = codec_of(kind)
    mutated = bytearray(file_of(kind))
    for _ in range(data.draw(st.integers(1, 4))):
        mutated[data.draw(st.integers(0, len(mutated) - 1))] = data.draw(st.integers(0, 255))
    with suppress(InputError):  # anything else is a crash
        read_segments(codec, bytes(mutated))


@pytest.mark.parametrize("kind", ["plain", "segments", "lm"])
def test_a_length_in_the_header_allocates_nothing(kind):
    codec = codec_of(kind)
    header = EcdcHeader(model=codec.config.file_name, num_samples=2**40, num_codebooks=4, lm=kind == "lm")
    with pytest.raises(InputError):
        read_segments(codec, header.to_bytes() + b"\x3f\x80\0\0" + bytes(40))


def conv(name, out_channels, in_channels, kernel, norm, *, transposed=False):
    """Names and shapes of one official convolution."""
    inner = f"{name}.convtr.convtr" if transposed else f"{name}.conv.conv"
    shape = (in_channels, out_channels, kernel) if transposed else (out_channels, in_channels, kernel)
    keys = {f"{inner}.bias": (out_channels,)}
    if norm == "weight_norm":
        return keys | {f"{inner}.weight_g": (shape[0], 1, 1), f"{inner}.weight_v": shape}
    outer = inner.rpartition(".")[0] + ".norm"
    return keys | {f"{inner}.weight": shape, f"{outer}.weight": (out_channels,), f"{outer}.bias": (out_channels,)}


def lstm(name, width=512, layers=2):
    keys = {}
    for layer in range(layers):
        for part, shape in (
            ("weight_ih", (2048, width)),
            ("weight_hh", (2048, width)),
            ("bias_ih", (2048,)),
            ("bias_hh", (2048,)),
        ):
            keys[f"{name}.lstm.{part}_l{layer}"] = shape
    return keys


def residual(name, width, norm):
    keys = conv(f"{name}.block.1", width // 2, width, 3, norm) | conv(f"{name}.block.3", width, width // 2, 1, norm)
    return keys | conv(f"{name}.shortcut", width, width, 1, norm)


def official_shapes(channels, norm, books):
    """The state dict of the published models, written down from their description."""
    keys = conv("encoder.model.0", 32, channels, 7, norm)
    for i, stride in enumerate((2, 4, 5, 8)):
        width = 32 * 2**i
        keys |= residual(f"encoder.model.{1 + 3 * i}", width, norm)
        keys |= conv(f"encoder.model.{3 + 3 * i}", 2 * width, width, 2 * stride, norm)
    keys |= lstm("encoder.model.13") | conv("encoder.model.15", 128, 512, 7, norm)
    keys |= conv("decoder.model.0", 512, 128, 7, norm) | lstm("decoder.model.1")
    for i, stride in enumerate((8, 5, 4, 2)):
        width = 512 // 2**i
        keys |= conv(f"decoder.model.{3 + 3 * i}", width // 2, width, 2 * stride, norm, transposed=True)
        keys |= residual(f"decoder.model.{4 + 3 * i}", width // 2, norm)
    keys |= conv("decoder.model.15", channels, 32, 7, norm)
    for q in range(books):
        book = f"quantizer.vq.layers.{q}._codebook"
        keys |= {f"{book}.inited": (1,), f"{book}.cluster_size": (1024,)}
        keys |= {f"{book}.embed": (1024, 128), f"{book}.embed_avg": (1024, 128)}
    return keys


def official_lm_shapes(books, dim=200, layers=5):
    keys = {f"emb.{k}.weight": (1025, dim) for k in range(books)}
    for k in range(books):
        keys |= {f"linears.{k}.weight": (1024, dim), f"linears.{k}.bias": (1024,)}
    keys |= {"transformer.norm_in.weight": (dim,), "transformer.norm_in.bias": (dim,)}
    for i in range(layers):
        layer = f"transformer.layers.{i}"
        keys |= {f"{layer}.self_attn.in_proj_weight": (3 * dim, dim), f"{layer}.self_attn.in_proj_bias": (3 * dim,)}
        keys |= {f"{layer}.self_attn.out_proj.weight": (dim, dim), f"{layer}.self_attn.out_proj.bias": (dim,)}
        keys |= {f"{layer}.linear1.weight": (4 * dim, dim), f"{layer}.linear1.bias": (4 * dim,)}
        keys |= {f"{layer}.linear2.weight": (dim, 4 * dim), f"{layer}.linear2.bias": (dim,)}
        for norm in ("norm1", "norm2"):
            keys |= {f"{layer}.{norm}.weight": (dim,), f"{layer}.{norm}.bias": (dim,)}
    return keys


def tensors(shapes):
    """Cheap tensors that differ from one another."""
    return {name: torch.full(shape, float(i)) for i, (name, shape) in enumerate(shapes.items())}


def test_every_name_of_the_mono_model_has_its_place_and_goes_back():
    official, lm = tensors(official_shapes(1, "weight_norm", 32)), tensors(official_lm_shapes(32))
    assert (len(official), len(lm)) == (252, 158)
    codec = hub.build("encodec/24khz")
    table = convert.official_table(codec.config.seanet)
    assert len(load_foreign(codec, official, table, "here").state) == 252
    torch.testing.assert_close(export(codec.state_dict(), table), official, rtol=0, atol=0)
    model = EntropyLM(EntropyLMConfig())
    assert len(load_foreign(model, lm, convert.OFFICIAL_LM, "here").state) == 158
    torch.testing.assert_close(export(model.state_dict(), convert.OFFICIAL_LM), lm, rtol=0, atol=0)


def test_official_files_convert_both_ways(tmp_path):
    official, lm = tensors(official_shapes(2, "time_group_norm", 16)), tensors(official_lm_shapes(16))
    assert len(official) == 224
    torch.save(official, tmp_path / "codec.th")
    torch.save(lm, tmp_path / "lm.th")
    coverage = convert.import_checkpoint(tmp_path / "codec.th", tmp_path / "ours", lm=tmp_path / "lm.th")
    assert coverage.is_complete
    assert len(coverage.state) == 224
    config = checkpoint.read(tmp_path / "ours").config
    assert config["lm"]["past_frames"] == 525
    left_out = convert.export_checkpoint(tmp_path / "ours", tmp_path / "back.th", "official")
    assert left_out == ["quantizer.steps"]
    torch.testing.assert_close(torch.load(tmp_path / "back.th", weights_only=True), official, rtol=0, atol=0)
    torch.testing.assert_close(torch.load(tmp_path / "back_lm.th", weights_only=True), lm, rtol=0, atol=0)


def test_what_is_missing_or_left_over_is_named_in_full(tmp_path):
    official = tensors(official_shapes(1, "weight_norm", 32))
    del official["encoder.model.15.conv.conv.bias"]
    official["encoder.model.99.conv.conv.bias"] = torch.zeros(1)
    official["decoder.model.0.conv.conv.bias"] = torch.zeros(3)
    torch.save(official, tmp_path / "codec.th")
    with pytest.raises(CheckpointError) as caught:
        convert.import_checkpoint(tmp_path / "codec.th", tmp_path / "ours")
    for part in ("encoder.model.99.conv.conv.bias", "encoder.layers.15.conv.bias", "[3] instead of [512]"):
        assert part in str(caught.value)
    assert not (tmp_path / "ours").exists()


def test_a_published_name_with_other_content_is_refused(tmp_path):
    torch.save({"a": torch.zeros(1)}, tmp_path / "encodec_24khz-d7cc33bc.th")
    with pytest.raises(CheckpointError, match="damaged: its sha256 begins"):
        convert.import_checkpoint(tmp_path / "encodec_24khz-d7cc33bc.th", tmp_path / "ours")
    torch.save({"a": torch.zeros(1)}, tmp_path / "other.th")
    with pytest.raises(CheckpointError, match="no official EnCodec"):
        convert.import_checkpoint(tmp_path / "other.th", tmp_path / "ours")


@pytest.mark.parametrize("kind", ["plain", "segments"])
def test_hugging_face_loads_what_we_export_and_we_load_what_it_saves(tmp_path, kind):
    from transformers import EncodecModel

    codec = codec_of(kind)
    checkpoint.save(tmp_path / "ours", system="encodec", config=codec.config, state=codec.state_dict())
    assert convert.export_checkpoint(tmp_path / "ours", tmp_path / "hf", "huggingface") == ["quantizer.steps"]
    theirs = EncodecModel.from_pretrained(tmp_path / "hf").eval()
    audio = 0.3 * torch.randn(1, codec.channels, 400)
    segments = codec.encode_segments(audio)
    with torch.no_grad():
        encoded = theirs.encode(audio, bandwidth=theirs.config.target_bandwidths[-1])
        decoded = theirs.decode(
            encoded.audio_codes, encoded.audio_scales, last_frame_pad_length=encoded.last_frame_pad_length
        )[0]
    assert torch.equal(encoded.audio_codes[0], segments[0].codes)
    torch.testing.assert_close(decoded, codec.decode_segments(segments), atol=1e-5, rtol=1e-4)
    theirs.save_pretrained(tmp_path / "again")
    convert.import_checkpoint(tmp_path / "again", tmp_path / "back")
    torch.testing.assert_close(
        checkpoint.load_state(tmp_path / "back"), checkpoint.load_state(tmp_path / "ours"), rtol=0, atol=0
    )
    assert hub.load(tmp_path / "back").config.seanet == codec.config.seanet


def test_hugging_face_keys_with_the_old_spelling_are_read(tmp_path):
    codec = codec_of("plain")
    state = export(codec.state_dict(), convert.HUGGINGFACE)
    old = {
        name.replace("parametrizations.weight.original0", "weight_g").replace(
            "parametrizations.weight.original1", "weight_v"
        ): value
        for name, value in state.items()
    }
    assert old.keys() != state.keys()
    assert rename(old, codec.state_dict(), convert.HUGGINGFACE).is_complete


def test_models_without_a_place_in_a_layout_are_refused(tmp_path):
    codec = codec_of("fsq")
    checkpoint.save(tmp_path / "fsq", system="encodec", config=codec.config, state=codec.state_dict())
    for layout in ("official", "huggingface"):
        with pytest.raises(ConfigError, match="only rvq"):
            convert.export_checkpoint(tmp_path / "fsq", tmp_path / "x", layout)
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf" / "config.json").write_text(json.dumps({"model_type": "whisper"}))
    with pytest.raises(CheckpointError, match="no EnCodec model"):
        convert.import_checkpoint(tmp_path / "hf", tmp_path / "y")
    codec = codec_of("plain")
    (tmp_path / "hf" / "config.json").write_text(
        json.dumps(convert.to_huggingface_config(codec.config) | {"codebook_dim": 3})
    )
    save_file(export(codec.state_dict(), convert.HUGGINGFACE), tmp_path / "hf" / "model.safetensors")
    with pytest.raises(ConfigError, match="codebook_dim is 3"):
        convert.import_checkpoint(tmp_path / "hf", tmp_path / "y")


def test_streamed_probabilities_are_those_of_one_pass():
    torch.manual_seed(0)
    model = EntropyLM(LM).eval().requires_grad_(False)
    codes = torch.randint(0, 16, (2, 3, 20))
    whole = model(model.shifted(codes)).probabilities
    state, indices, steps = None, torch.zeros(2, 3, 1, dtype=torch.int64), []
    for frame in codes.split(1, dim=2):
        out = model(indices, state)
        state, indices = out.state, frame + 1
        steps.append(out.probabilities)
    torch.testing.assert_close(torch.cat(steps, dim=2), whole)
    assert state.keys[0].shape[2] == LM.past_frames
    changed = codes.clone()
    changed[..., :10] = 0
    far = model(model.shifted(changed)).probabilities
    # two layers reach 2 x 5 frames back
    torch.testing.assert_close(far[:, :, 21:], whole[:, :, 21:])
    assert not torch.allclose(far[:, :, 12], whole[:, :, 12])


def test_exported_safetensors_open_without_us(tmp_path):
    codec = codec_of("plain")
    checkpoint.save(tmp_path / "ours", system="encodec", config=codec.config, state=codec.state_dict())
    convert.export_checkpoint(tmp_path / "ours", tmp_path / "out.safetensors", "official")
    names = load_file(tmp_path / "out.safetensors")
    assert "encoder.model.0.conv.conv.weight_g" in names
