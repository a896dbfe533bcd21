"""How to run the reference vectors of Pengi."""

from typing import Any

import torch
from torch import Tensor

from voder.audio.io import AudioClip
from voder.fixtures import Case, Runner
from voder.nn.causal_lm import CausalLmSession
from voder.systems.pengi import convert
from voder.systems.pengi.beam import SearchConfig, search
from voder.systems.pengi.hearing import fit_length, one_channel, resample
from voder.systems.pengi.model import Pengi, answer_loss

Outputs = dict[str, Any]
_RATE_HZ = 44_100


def audio_load(case: Case) -> Outputs:
    """Change of rate, flattened stereo, repeats; each clip fits so many seconds."""
    out: Outputs = {}
    for number, (rate_hz, _, _, seconds) in enumerate(case.args["items"]):
        clip = AudioClip(case.inputs[f"wav_{number}"].numpy(), rate_hz)
        changed = resample(clip, _RATE_HZ)
        heard = torch.from_numpy(fit_length(one_channel(changed, "behind"), round(seconds * _RATE_HZ)))
        out[f"resampled_{number}"] = torch.from_numpy(changed)
        for end in ("head", "tail"):
            wanted = len(case.outputs[f"clip_{end}_{number}"])
            out[f"clip_{end}_{number}"] = heard[:wanted] if end == "head" else heard[-wanted:]
    return out


@torch.no_grad()
def htsat(case: Case) -> Outputs:
    """The front end, and the network behind it."""
    model = convert.htsat_from_original(case.args["h"], case.weights, case.name)
    audio = case.inputs["wav"]
    bands, grid = model.front(audio), model.grid(audio)
    clip, frames = model.classify(grid)
    shown = case.outputs["power"].shape[2]
    return {
        "power": model.front.power(audio)[:, None, :shown],
        "logmel": bands[:, None],
        "logmel_f64": bands[:, None],
        "image": model.image(bands)[:, :, ::7, ::7],
        "latent": model(audio),
        "clipwise": clip,
        "framewise_sub": frames[:, ::64],
    }


@torch.no_grad()
def pengi(case: Case) -> Outputs:
    """Vectors, prefixes, logits, loss, beams."""
    model = convert.pengi_from_original(case.args["c"], case.weights, case.name)
    ids, answer = case.inputs["text_ids"], case.inputs["answer_ids"]
    valid = case.inputs["text_mask"].bool() if "text_mask" in case.inputs else None
    heard, read = model.hear(case.inputs["wav"]), model.read(ids, valid)
    prefix = model.prefix(heard, read)
    given = model.prefix(heard, read, normalise_text=False)
    logits = model.logits(prefix, answer)
    out: Outputs = {
        "audio_embed": heard,
        "text_embed": read,
        "prefix_model": prefix,
        "prefix_wrapper": given,
        "train_logits": logits,
        "answer_loss": answer_loss(logits, answer, torch.ones_like(answer, dtype=torch.bool))[0],
    }
    if model.text_encoder is not None:
        out |= {"clip_pooled": model.text_encoder.pooled(ids, valid), "clip_feature": model.text_encoder(ids, valid)}
    return out | _beams(case, model, given)


def _beams(case: Case, model: Pengi, prefix: Tensor) -> Outputs:
    """Each row's hypotheses; the end is the last id of the vocabulary."""
    out: Outputs = {}
    for num_beams, max_new, temperature in case.args["beams"]:
        config = SearchConfig(num_beams=num_beams, max_new=max_new, temperature=temperature)
        for row in range(len(prefix)):
            name = f"beam{num_beams}_len{max_new}"
            if f"{name}_ids_{row}" not in case.outputs:
                continue
            ones = torch.ones(1, prefix.shape[1], dtype=torch.long)
            session = CausalLmSession(model.lm, prefix[row : row + 1], ones)
            found = search(session, config, model.config.lm.vocabulary_size - 1)
            out[f"{name}_ids_{row}"] = torch.nn.utils.rnn.pad_sequence(
                [torch.tensor(each.ids) for each in found], batch_first=True, padding_value=-1
            )
            out[f"{name}_scores_{row}"] = torch.tensor([each.score for each in found])
    return out


KINDS: dict[str, Runner] = {
    "pengi/audio_load": audio_load,
    "pengi/htsat": htsat,
    "pengi/pengi": pengi,
    "pengi/pengi_no_text_enc": pengi,
}
