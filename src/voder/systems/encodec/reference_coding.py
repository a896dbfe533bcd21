"""Reference vectors of EnCodec's entropy coding: arithmetic coder, language model, `.ecdc` files."""

import math
from typing import Any

import numpy as np
import torch
from torch import Tensor

from voder.coding import arithmetic, bits
from voder.coding.ecdc import EcdcHeader
from voder.fixtures import Case, Judged, load_official
from voder.systems.encodec import convert, infer
from voder.systems.encodec.lm import EntropyLM
from voder.systems.encodec.model import EncodecCodec, Segment

Outputs = dict[str, Any]


def arithmetic_coder(case: Case) -> Outputs:
    """Tables from probabilities, coded bytes, packed bits, and tables that round over."""
    out: Outputs = {}
    for i in range(case.args["n"]):
        probabilities, symbols = case.inputs[f"pdf{i}"], case.inputs[f"symbols{i}"].tolist()
        tables = arithmetic.quantised_cdf(probabilities, case.args["total_range_bits"])
        width = math.ceil(math.log2(probabilities.shape[1]))
        coded = _encode(symbols, tables.numpy())
        decoder = arithmetic.Decoder(coded)
        assert [decoder.pull(row) for row in tables.numpy()] == symbols, "the coder must read what it wrote"
        out[f"qcdf{i}"] = tables
        out[f"bytes{i}"] = _as_tensor(coded)
        out[f"bits{i}"] = _as_tensor(bits.pack(np.array([symbols]), width))
    sharp = arithmetic.quantised_cdf(case.inputs["pdf_sharp"], case.args["total_range_bits"])
    out["qcdf_sharp"] = sharp
    out["sharp_overflow"] = (sharp[:, -1] > 1 << case.args["total_range_bits"]).nonzero()[:, 0]
    return out


def _encode(symbols: list[int], tables: np.ndarray) -> bytes:
    encoder = arithmetic.Encoder(strict=False)
    for symbol, row in zip(symbols, tables, strict=True):
        encoder.push(symbol, row)
    return encoder.finish()


def _as_tensor(data: bytes) -> Tensor:
    return torch.frombuffer(bytearray(data), dtype=torch.uint8)


@torch.no_grad()
def lm(case: Case) -> Outputs:
    """One pass, frame by frame, and in two halves."""
    model = EntropyLM(convert.lm_config(case.args))
    load_official(model, case.weights, convert.OFFICIAL_LM, case)
    indices = case.inputs["indices"]
    state, steps = None, []
    for frame in torch.split(indices, 1, dim=2):
        step = model(frame, state)
        state = step.state
        steps.append(step.probabilities)
    half = case.outputs["probs_chunk2"].shape[-1]
    first, second = indices[..., : indices.shape[-1] - half], indices[..., indices.shape[-1] - half :]
    return {
        "probs_parallel": _official_probabilities(model(indices).probabilities),
        "probs_stream": _official_probabilities(torch.cat(steps, dim=2)),
        "probs_chunk2": _official_probabilities(model(second, model(first).state).probabilities),
    }


def _official_probabilities(probabilities: Tensor) -> Tensor:
    """`[batch, code, codebook, frame]`."""
    return probabilities.permute(0, 3, 1, 2)


def ecdc_without_lm(case: Case) -> Outputs:
    """Files of packed codes: what we write, and the audio in what the original wrote."""
    codec = _codec(case)
    out: Outputs = {}
    for name, kbps, label in _recordings(case):
        wav, recorded = case.inputs[name], bytes(case.outputs[f"bytes_{label}"].tolist())
        segments = codec.encode_segments(wav[None], convert.official_codebooks(codec.config, kbps))
        header = EcdcHeader(
            model=case.args["name"],
            num_samples=wav.shape[-1],
            num_codebooks=segments[0].codes.shape[1],
            lm=False,
        )
        written = infer.write_segments(codec, header, segments)
        out |= {f"codes_{label}_f{f}": segment.codes for f, segment in enumerate(segments)}
        out[f"bytes_{label}"] = _as_tensor(_forgive_scales(codec, written, recorded, segments))
        out[f"wav_{label}"] = torch.from_numpy(infer.decompress(codec, recorded, model_name=case.args["name"]).samples)
    return out


def _recordings(case: Case) -> list[tuple[str, float, str]]:
    pairs = [(name, kbps) for name in case.inputs for kbps in case.args["target_bandwidths"]]
    labelled = [(name, kbps, f"{name}_bw{kbps}") for name, kbps in pairs]
    return [item for item in labelled if f"bytes_{item[2]}" in case.outputs]


def _forgive_scales(codec: EncodecCodec, ours: bytes, recorded: bytes, segments: list[Segment]) -> bytes:
    """Take the recorded bytes of a scale where ours is within 1e-6: its last bits depend on the order of a
    sum."""
    if not codec.config.normalize or len(ours) != len(recorded):
        return ours
    merged, width = bytearray(ours), (codec.codebook_size - 1).bit_length()
    position = len(ours) - sum(4 + bits.num_bytes(s.codes.numel(), width) for s in segments)
    for segment in segments:
        span = slice(position, position + 4)
        if _scales_agree(ours[span], recorded[span]):
            merged[span] = recorded[span]
        position += 4 + bits.num_bytes(segment.codes.numel(), width)
    return bytes(merged)


def _scales_agree(ours: bytes, recorded: bytes) -> bool:
    a, b = (float(np.frombuffer(data, dtype=">f4")[0]) for data in (ours, recorded))
    return abs(a - b) <= 1e-6 * abs(b)


@torch.no_grad()
def ecdc_with_lm(case: Case) -> Outputs:
    """Files coded with the language model.

    Their bytes hang on the last bit of every probability, so they are judged by what does not: the recorded
    tables must read and write the recorded bytes, and our own file must come back and be as short.
    """
    codec = _codec(case)
    model = EntropyLM(convert.lm_config(case.args["lm"]))
    load_official(model, case.weights_under("lm."), convert.OFFICIAL_LM, case)
    codec.lm = model
    out: Outputs = {}
    for name, kbps, label in _recordings(case):
        wav = case.inputs[name]
        segments = codec.encode_segments(wav[None], convert.official_codebooks(codec.config, kbps))
        header = EcdcHeader(
            model=case.args["name"], num_samples=wav.shape[-1], num_codebooks=segments[0].codes.shape[1], lm=True
        )
        written = infer.write_segments(codec, header, segments)
        content = infer.read_segments(codec, written, model_name=header.model)
        out |= _lm_outputs(case, model, label, segments)
        same = all(torch.equal(a.codes, b.codes) for a, b in zip(segments, content.segments, strict=True))
        out[f"bytes_{label}"] = _judge_stream(case, codec, label, header, segments, written, same)
        out[f"wav_{label}"] = torch.from_numpy(infer.decompress(codec, written, model_name=header.model).samples)
    return out


def _lm_outputs(case: Case, model: EntropyLM, label: str, segments: list[Segment]) -> Outputs:
    out: Outputs = {}
    tables = []
    for f, segment in enumerate(segments):
        probabilities = model(model.shifted(segment.codes)).probabilities
        tables.append(arithmetic.quantised_cdf(probabilities[0]).transpose(0, 1).flatten(0, 1))
        out[f"codes_{label}_f{f}"] = segment.codes
        key = f"probs_{label}_f{f}"
        if key in case.outputs:
            recorded_frames = case.outputs[key].shape[-1]
            out[key] = _official_probabilities(probabilities)[..., :recorded_frames]
    wanted = case.outputs[f"qcdf_{label}"]
    error = float((torch.cat(tables)[: len(wanted)] - wanted).abs().max())
    # one part in 10^5 of the whole range: what the recorded tolerance of a probability allows to pile up
    tolerance = 1e-5 * (1 << arithmetic.RANGE_BITS)
    out[f"qcdf_{label}"] = Judged(passed=error <= tolerance, error=error, tolerance=tolerance, note="the tables differ")
    return out


def _judge_stream(
    case: Case,
    codec: EncodecCodec,
    label: str,
    header: EcdcHeader,
    segments: list[Segment],
    written: bytes,
    round_trip: bool,
) -> Judged:
    recorded, start = bytes(case.outputs[f"bytes_{label}"].tolist()), header.to_bytes()
    tables = case.outputs[f"qcdf_{label}"].numpy()
    problems = [] if round_trip else ["our own file does not come back"]
    if recorded[: len(start)] != start:
        problems.append("the headers differ")
    position = len(start)
    for segment in segments:
        position += 4 if codec.config.normalize else 0
        symbols = segment.codes[0].T.flatten().tolist()[: len(tables)]
        decoder = arithmetic.Decoder(recorded[position:])
        if [decoder.pull(row) for row in tables[: len(symbols)]] != symbols:
            problems.append("the recorded tables do not read the recorded bytes")
        if len(symbols) < segment.codes.numel():
            break
        stream = _encode(symbols, tables[: len(symbols)])
        if recorded[position : position + len(stream)] != stream:
            problems.append("the recorded tables do not write the recorded bytes")
        position, tables = position + len(stream), tables[len(symbols) :]
    error = float(abs(len(written) - len(recorded)))
    return Judged(passed=not problems and error <= 2, error=error, tolerance=2.0, note="; ".join(problems))


def _codec(case: Case) -> EncodecCodec:
    config = convert.official_config({**case.args, "lm": None, "target_bandwidths": ()})
    codec = EncodecCodec(config)
    load_official(codec, case.weights_under("model."), convert.official_table(config.seanet), case)
    return codec
