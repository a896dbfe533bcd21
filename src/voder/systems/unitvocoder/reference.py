"""How to run the reference vectors of unit and mel vocoders."""

from collections.abc import Mapping
from typing import Any

import torch

from voder.fixtures import Case, Runner, load_official
from voder.systems.unitvocoder import convert
from voder.systems.unitvocoder.config import VocoderConfig
from voder.systems.unitvocoder.convert import Layout
from voder.systems.unitvocoder.model import UnitVocoder

Outputs = dict[str, Any]


def _model(case: Case, config: VocoderConfig, layout: Layout) -> UnitVocoder:
    model = UnitVocoder(config)
    load_official(model, case.weights, convert.TABLES[layout], case)
    return model


@torch.no_grad()
def fairseq(case: Case) -> Outputs:
    """One sequence with and without predicted durations, and a batch."""
    model = _model(case, convert.fairseq_config(case.args), "fairseq")
    code, batch = case.inputs["code"], case.inputs["batch"]
    return {
        "log_dur": model.log_durations(code),
        "durations": model.predict(code),
        "wav": model.generate_batch(code)[0],
        "wav_dur": model.generate_batch(code, predict_durations=True)[0],
        "wav_batch": model.generate_batch(batch)[0],
    }


@torch.no_grad()
def speechgpt(case: Case) -> Outputs:
    """Codes with invalid ones among them, with and without predicted durations."""
    model = _model(case, convert.fairseq_config(case.args["cfg"]), "fairseq")
    out: Outputs = {}
    for name, code in case.inputs.items():
        number = name.removeprefix("code_")
        out[f"wav_{number}"] = model.generate_batch(code)[0][0, 0]
        if model.durations is not None:
            kept = code[code >= 0][None]
            out |= {
                f"wav_dur_{number}": model.generate_batch(code, predict_durations=True)[0][0, 0],
                f"log_dur_{number}": model.log_durations(kept),
                f"dur_{number}": model.predict(kept),
            }
    return out


@torch.no_grad()
def seamless(case: Case) -> Outputs:
    """Durations of padding are predicted, said and partly counted, as in the original."""
    model = _model(case, convert.seamless_config(case.args), "seamless")
    speaker, language = int(case.inputs["spk"]), int(case.inputs["lang"])
    out: Outputs = {}
    for name, suffix in (("units", ""), ("batch", "_batch")):
        units = case.inputs[name]
        durations = model.predict(units)
        frames = model.stretch(model.units(units), durations)
        out[f"wav{suffix}"] = model.synthesise(frames, speaker=speaker, language=language)[:, 0]
        ends = (units != case.args["t2u_pad_token_id"]).sum(dim=1).clamp(max=units.shape[1] - 1)
        out[f"lengths{suffix}"] = (durations.cumsum(dim=1).gather(1, ends[:, None])[:, 0] * model.hop).squeeze()
    return out


@torch.no_grad()
def speecht5(case: Case) -> Outputs:
    """Mel frames, alone and in a batch."""
    model = _model(case, convert.speecht5_config(case.args), "speecht5")
    return {
        "wav": model.vocode(case.inputs["mel"].t()[None])[0, 0],
        "wav_batch": model.vocode(case.inputs["batch"].transpose(1, 2))[:, 0],
    }


KINDS: Mapping[str, Runner] = {
    "hifigan/fairseq_code_hifigan": fairseq,
    "hifigan/hf_seamless_code_hifigan": seamless,
    "hifigan/hf_speecht5_hifigan": speecht5,
    "speechgpt/vocoder": speechgpt,
}
