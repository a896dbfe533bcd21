"""How to run the reference vectors of VALL-E and VALL-F: the original network in `original.py`."""

from typing import Any

import torch
from torch import Tensor

from voder.fixtures import Case, Runner
from voder.systems.valle import convert
from voder.systems.valle.original import OriginalValle
from voder.systems.valle.original_infer import continue_speech, say
from voder.systems.valle.original_layers import AdaptiveNorm, OriginalConfig, SinePositions

Outputs = dict[str, Any]
_HEAD, _TAIL = 96, 32
"""Of the logits the first and the last classes are recorded, and the logarithm of the sum over all."""


def _model(case: Case) -> OriginalValle:
    args = case.args
    config = OriginalConfig(
        width=args["d_model"],
        num_layers=args["num_layers"],
        num_heads=args["nhead"],
        cross_attention=args["model"] == "VALL-F",
        norm_first=args.get("norm_first", True),
        prenet=args.get("add_prenet", False),
        share_embedding=args["share_embedding"],
        prefix_mode=args["prefix_mode"],
        prepend_bos=args.get("prepend_bos", False),
        num_codebooks=args["num_quantizers"],
    )
    model = OriginalValle(config)
    convert.load_original(model, case.weights, case.name)
    return model.eval()


def _recorded(name: str, logits: Tensor) -> Outputs:
    by_class = logits.transpose(1, 2)
    return {
        name: by_class[:, :_HEAD],
        f"{name}_tail": by_class[:, -_TAIL:],
        f"{name}_lse": by_class.logsumexp(dim=1),
    }


@torch.no_grad()
def forward(case: Case) -> Outputs:
    """Losses and logits of both halves, with the random choices that were recorded."""
    model, given = _model(case), case.inputs
    text_valid = torch.arange(given["x"].shape[1]) < given["x_lens"][:, None]
    codes, valid = model.padded(given["y"].transpose(1, 2), given["y_lens"])
    loss, logits = model.coarse_loss(model.ar_text(given["x"]), text_valid, codes, valid)
    out: Outputs = {"ar_loss": loss, **_recorded("ar_logits", logits)}
    for stage in case.meta["nar_stages"]:
        fine = model.fine_input(
            codes,
            valid,
            stage,
            prefix_len=int(given["prefix_len"][0]),
            starts=given["segment_starts"],
            neighbour=given["y_prompt"].transpose(1, 2),
        )
        loss, logits = model.fine_loss(model.nar_text(given["x"]), text_valid, fine, stage)
        out |= {f"nar_loss_stage{stage}": loss, **_recorded(f"nar_logits_stage{stage}", logits)}
    return out


@torch.no_grad()
def inference(case: Case) -> Outputs:
    """Greedy speech, and the continuation of a recording where it is recorded."""
    model, given = _model(case), case.inputs
    codes = given["y"].transpose(1, 2)
    said = say(model, given["x"], codes, enrolled=int(given["enroll_x_lens"][0]))
    out: Outputs = {"codes": said.transpose(1, 2)}
    if "continual_codes" in case.outputs:
        out["continual_codes"] = continue_speech(model, given["x"], codes).transpose(1, 2)
    return out


@torch.no_grad()
def positions_and_norm(case: Case) -> Outputs:
    """The table of sines, its weighted sum with an input, and the adaptive norm."""
    width, x = case.args["d"], case.inputs["x"]
    positions, norm = SinePositions(width), AdaptiveNorm(width)
    positions.alpha.fill_(case.args["alpha"])
    norm.norm.load_state_dict(case.weights_under("adaln.norm."))
    norm.projection.load_state_dict(case.weights_under("adaln.project_layer."))
    scaled = x * width**0.5 if case.args["scale"] else x
    return {
        "pos": positions(scaled),
        "pe": positions.table(0, x.shape[1]),
        "adaln": norm(x, case.inputs["stage"]),
    }


_FORWARD = ("forward_postnorm_prenet", "forward_prefix0", "forward_prefix1", "forward_prefix2", "forward_prefix4_bos")
_INFERENCE = ("inference_prefix0_bos", "inference_prefix1", "inference_prefix2")
KINDS: dict[str, Runner] = {
    **{f"valle/{name}": forward for name in (*_FORWARD, "vallf_forward")},
    **{f"valle/{name}": inference for name in _INFERENCE},
    "valle/positional_and_adaln": positions_and_norm,
}
