"""Reference vectors of SoundStorm: how to run each kind."""

from collections.abc import Mapping

import torch
from torch import Tensor

from voder.fixtures import Case, Runner, load_official
from voder.systems.soundstorm import convert
from voder.systems.soundstorm.masking import level_loss, mask_level
from voder.systems.soundstorm.model import SoundStorm
from voder.systems.soundstorm.refine import refine_as_published


@torch.no_grad()
def soundstorm(case: Case) -> Mapping[str, Tensor]:
    """Logits with and without padding, decoding with recorded noise, the training loss under a recorded mask."""
    config = convert.official_config(case.args["m"])
    model = SoundStorm(config)
    load_official(model, case.weights, convert.TABLE, case)
    known = case.inputs["net_x"].view(len(case.inputs["net_x"]), -1, config.num_levels)
    condition = case.inputs["net_cond"]
    out = {
        "net_logits": model.logits(known, condition, case.inputs["net_mask"].bool()).flatten(1, 2),
        "net_logits_nomask": model.logits(known, condition).flatten(1, 2),
    }
    for steps in case.args["steps"]:
        out[f"generate_steps{steps}"] = _generate(case, model, steps)
    return out | (_train(case, model) if case.args.get("train") else {})


def _generate(case: Case, model: SoundStorm, steps: int) -> Tensor:
    semantic, prompt = case.inputs["semantic"], case.inputs.get("prompt")
    count = 0

    def draw(shape: tuple[int, int, int]) -> Tensor:
        nonlocal count
        count += 1
        return case.inputs[f"uniform_steps{steps}_{count - 1}"].view(shape)

    whole = semantic if prompt is None else torch.cat((prompt[:, :, 0], semantic), dim=1)
    known = None if prompt is None else prompt[:, :, 1:]
    levels = refine_as_published(model, whole, steps=steps, draw=draw, prompt=known)
    return torch.cat((semantic[..., None], levels[:, -semantic.shape[1] :]), dim=2)


def _train(case: Case, model: SoundStorm) -> dict[str, Tensor]:
    """The frames that were masked are drawn at random there, so they are taken from what was recorded."""
    config, args = model.config, case.args["train"]
    codes, semantic = case.inputs["train_x"], case.inputs["train_cond_ids"]
    valid = (codes != config.mask_id).all(dim=-1)
    start, level = args["t"], args["q"]
    drawn = case.outputs["train_loss_mask"][:, :, level].bool()
    starts, levels = torch.full((len(codes),), start), torch.full((len(codes),), level)
    masked = mask_level(codes, drawn, starts, levels, config.mask_id)
    real = semantic != config.num_semantic
    condition = model.semantic(semantic.masked_fill(~real, 0)).masked_fill(~real[..., None], 0.0)
    loss = level_loss(model.logits(masked, condition, valid), codes, drawn, levels)
    carries = torch.zeros_like(codes)
    carries[:, :, level] = drawn.long()
    return {
        "train_loss": loss,
        "train_masked_input": masked,
        "train_loss_mask": carries,
        "train_seq_mask": valid.long(),
    }


KINDS: Mapping[str, Runner] = {"anygpt/soundstorm": soundstorm}
