"""How to run the reference vectors of BEATs and of the Kaldi filterbank it listens to."""

from typing import Any

import torch

from voder.audio.fbank import FbankConfig, kaldi_fbank
from voder.fixtures import Case, Runner
from voder.roles import Features
from voder.systems.beats import convert

Outputs = dict[str, Any]


@torch.no_grad()
def fbank(case: Case) -> Outputs:
    """In float64 beside the float64 oracle, in float32 beside the float32 reference."""
    config = FbankConfig(num_bands=case.args["n_mels"])
    out: Outputs = {}
    for name, audio in case.inputs.items():
        short = name.removeprefix("wav_")
        out[f"f64_{short}"] = kaldi_fbank(audio[None], config)[0]
        out[f"ta_{short}"] = kaldi_fbank(audio[None], config, dtype=torch.float32)[0]
    return out


@torch.no_grad()
def beats(case: Case) -> Outputs:
    """The network on the recorded filterbank, the filterbank on the waveform, and what both make of padding."""
    model = convert.from_original(case.args["cfg"], case.weights, case.name)
    audio = case.inputs["wav"]
    out: Outputs = {"fbank": model.spectrogram(audio)}
    lengths = torch.full((len(audio),), audio.shape[1])
    if "wav_padding_mask" in case.inputs:
        lengths = (case.inputs["wav_padding_mask"] == 0).sum(1)
    valid = model.valid_patches(lengths, audio.shape[1])
    out["padding_mask"] = (~valid).long()
    out["features"] = model.encode_spectrogram(case.outputs["fbank"], valid)
    if model.predictor is not None:
        out["probs"] = model.classify(Features(values=out["features"], valid=valid)).sigmoid()
    return out


KINDS: dict[str, Runner] = {"salmonn/fbank": fbank, "salmonn/beats": beats}
