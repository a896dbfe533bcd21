"""Reference vectors of SpeechTokenizer: how to run each kind."""

from collections.abc import Mapping

import torch
from torch import Tensor

from voder.fixtures import Case, Runner, load_official
from voder.systems.speechtokenizer import convert
from voder.systems.speechtokenizer.model import SpeechTokenizerCodec


@torch.no_grad()
def speechtokenizer(case: Case) -> Mapping[str, Tensor]:
    """Latents, codes of all and of some codebooks, audio of all and of some, and the semantic feature.

    Audio is decoded from the recorded codes, so that errors do not add up. The original's codes are [codebook, batch].
    """
    config = convert.official_config(case.args["cfg"])
    model = SpeechTokenizerCodec(config)
    load_official(model, case.weights, convert.table(config), case)
    out: dict[str, Tensor] = {}
    for name in case.outputs:
        what, _, item = name.rpartition("_")
        audio = case.inputs[f"wav_{item}"]
        codes = case.outputs[f"codes_{item}"].transpose(0, 1)
        if what == "latent":
            out[name] = model.encoder(audio)
        elif what == "codes":
            out[name] = model.encode_levels(audio).transpose(0, 1)
        elif what.startswith("codes_st"):
            out[name] = model.encode_levels(audio, start=_number(what, "codes_st")).transpose(0, 1)
        elif what.startswith("codes_nq"):
            out[name] = model.encode_levels(audio, end=_number(what, "codes_nq")).transpose(0, 1)
        elif what.startswith("wav_st"):
            start = _number(what, "wav_st")
            out[name] = model.decode_levels(codes[:, start:], start=start)
        elif what.startswith("wav_level"):
            level = _number(what, "wav_level")
            out[name] = model.decode_levels(codes[:, level : level + 1], start=level)
        elif what == "wav":
            out[name] = model.decode_levels(codes)
        elif what == "forward_wav":
            out[name] = model.decode_levels(model.encode_levels(audio))
        elif what == "feature":
            out[name] = model.semantic_of(model.encode_levels(audio))
    return out


def _number(name: str, before: str) -> int:
    return int(name.removeprefix(before))


KINDS: Mapping[str, Runner] = {"anygpt/speechtokenizer": speechtokenizer}
