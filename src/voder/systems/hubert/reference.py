"""How to run the reference vectors of the self-supervised encoders, of units, and of BEST-RQ's targets."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from voder.fixtures import Case, Runner, load_official
from voder.nn.quantize.rvq import nearest
from voder.roles import Units
from voder.shapes import Lengths, Mask
from voder.systems.hubert import convert
from voder.systems.hubert.config import Family, HeadConfig
from voder.systems.hubert.contrast import others_than_own
from voder.systems.hubert.heads import ClusterHead, ContrastHead
from voder.systems.hubert.model import SpeechEncoder, normalize_waveform
from voder.systems.hubert.targets import expand_spans, normalize_bands, random_projection_labels, stack_frames

Outputs = dict[str, Any]

_FAMILIES: dict[str, Family] = {
    "HubertModel": "hubert",
    "Wav2Vec2Model": "wav2vec2",
    "WavLMModel": "wavlm",
    "Data2VecAudioModel": "data2vec",
}


def _states(model: SpeechEncoder, audio: Tensor, lengths: Lengths | None) -> tuple[list[Tensor], Tensor]:
    front = model.front(audio, lengths)
    return list(model.hidden_states(front)), front.normed


def _runs(case: Case) -> dict[str, tuple[Tensor, Lengths | None]]:
    """Every recorded waveform, and the batch with and without its lengths."""
    single = {name: (audio, None) for name, audio in case.inputs.items() if name.startswith("x")}
    batch, lengths = case.inputs["batch"], case.inputs["batch_lengths"]
    return {**single, "batchmask": (batch, lengths), "batchnomask": (batch, None)}


@torch.no_grad()
def huggingface(case: Case) -> Outputs:
    """Hidden states of transformers' networks under their own names."""
    family = _FAMILIES[case.meta["hf_class"]]
    config = replace(convert.huggingface_config(case.args, family, normalize=False), padding="official")
    model = SpeechEncoder(config)
    load_official(model, case.weights, convert.HUGGINGFACE, case)
    out: Outputs = {"frames": model.num_frames(case.inputs["frame_query"])}
    for name, (audio, lengths) in _runs(case).items():
        states, normed = _states(model, audio, lengths)
        out |= {f"{name}_h{i}": state for i, state in enumerate(states)}
        out |= {f"{name}_last": model.output(states[-1]), f"{name}_extract": normed}
    return out


@torch.no_grad()
def w2v_bert(case: Case) -> Outputs:
    """Mel frames and hidden states of w2v-BERT 2.0, padded and alone."""
    model = SpeechEncoder(replace(convert.huggingface_config(case.args, "w2v_bert"), padding="official"))
    load_official(model, case.weights, convert.HUGGINGFACE, case)
    clips = sorted(case.inputs.values(), key=len)
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    front = model.front(batch, lengths)
    assert front.valid is not None
    out: Outputs = {"features": front.features, "attention_mask": front.valid.long()}
    out |= {f"h{i}": state for i, state in enumerate(model.hidden_states(front))}
    alone = model.front(clips[0][None], None)
    out |= {"single_features": alone.features}
    out |= {f"single_h{i}": state for i, state in enumerate(model.hidden_states(alone))}
    return out


def _fairseq_model(case: Case, head: HeadConfig | None) -> SpeechEncoder:
    args = case.args
    inferred = convert.fairseq_config(case.weights, num_heads=args["encoder_attention_heads"])
    padding: Literal["official", "fairseq"] = "fairseq" if inferred.family == "hubert" else "official"
    config = replace(inferred, normalize=False, padding=padding, head=head)
    model = SpeechEncoder(config)
    load_official(model, case.weights, convert.fairseq_table(config), case)
    return model


def _fairseq_layers(model: SpeechEncoder, case: Case) -> Outputs:
    out: Outputs = {}
    for name, (audio, lengths) in _runs(case).items():
        states, _ = _states(model, audio, lengths)
        out |= {f"{name}_layer{i}": state for i, state in enumerate(states) if i}
        out[f"{name}_final"] = model.output(states[-1])
    return out


def _pretrained(model: SpeechEncoder, case: Case) -> tuple[Tensor, Tensor, Tensor, Mask, Mask]:
    """Output with masked frames, features and their norm, which frames are masked and which are padding."""
    front = model.front(case.inputs["batch"], case.inputs["batch_lengths"])
    assert front.valid is not None
    masked = case.inputs["mask"].bool()
    last = list(model.hidden_states(front, masked=masked))[-1]
    return model.output(last), front.features, front.normed, masked, front.valid


@torch.no_grad()
def fairseq_hubert(case: Case) -> Outputs:
    """Layers and pre-training outputs of fairseq's HuBERT."""
    head = HeadConfig(objective="hubert", num_labels=case.meta["num_classes"][0], label_dim=case.args["final_dim"])
    model = _fairseq_model(case, head)
    out = _fairseq_layers(model, case)
    last, features, _, masked, valid = _pretrained(model, case)
    out["frame_padding_mask"] = (~valid).long()
    out["pre_features_pen"] = features.square().mean()
    target = case.inputs["target"][:, : last.shape[1]]
    assert isinstance(model.head, ClusterHead)
    for label, chosen in (("m", masked & valid), ("u", ~masked & valid)):
        out[f"pre_logit_{label}"] = model.head.against_all(last[chosen], target[chosen])
    right = torch.zeros(len(out["pre_logit_m"]), dtype=torch.int64)
    out["pre_loss_m_sum"] = F.cross_entropy(out["pre_logit_m"], right, reduction="sum")
    return out


@torch.no_grad()
def fairseq_wav2vec2(case: Case) -> Outputs:
    """Layers and pre-training outputs of fairseq's wav2vec 2.0."""
    args = case.args
    head = HeadConfig(
        objective="wav2vec2",
        num_labels=args["latent_vars"],
        label_dim=args["final_dim"],
        num_codebooks=args["latent_groups"],
    )
    model = _fairseq_model(case, head)
    out = _fairseq_layers(model, case)
    last, features, normed, masked, valid = _pretrained(model, case)
    assert isinstance(model.head, ContrastHead)
    batch, width = len(masked), int(masked[0].sum())
    targets = model.head.quantise(normed[masked].view(batch, width, -1))
    others = others_than_own(case.inputs["neg_rand"].view(batch, width, args["num_negatives"]))
    out |= {
        "frame_padding_mask": (~valid).long(),
        "pre_features_pen": features.square().mean(),
        "pre_logits": model.head(last[masked].view(batch, width, -1), targets.frames, others),
        "pre_prob_perplexity": targets.prob_perplexity,
        "pre_code_perplexity": targets.code_perplexity,
        "pre_num_vars": torch.tensor(float(args["latent_vars"] * args["latent_groups"])),
        "pre_temp": torch.tensor(2.0),
    }
    return out


def kmeans_units(case: Case) -> Outputs:
    """Nearest centres, repeats merged, and how long each lasts."""
    found = nearest(case.inputs["x"], case.inputs["centers"]).numpy()
    merged = Units(units=found, durations=found * 0 + 1).deduplicated()
    return {
        "units": torch.from_numpy(found),
        "dedup": torch.from_numpy(merged.units),
        "durations": torch.from_numpy(merged.durations),
    }


def input_normalize(case: Case) -> Outputs:
    """Clips of different lengths, each normalised over its own samples."""
    clips = list(case.inputs.values())
    lengths = torch.tensor([len(clip) for clip in clips])
    batch = torch.nn.utils.rnn.pad_sequence(clips, batch_first=True)
    mask = torch.arange(batch.shape[1])[None] < lengths[:, None]
    return {"values": normalize_waveform(batch, lengths), "attention_mask": mask.long()}


def best_rq(case: Case) -> Outputs:
    """Targets, mask and masked input."""
    mel, noise = case.inputs["mel"], case.inputs["noise"]
    frames = torch.full((len(mel),), mel.shape[1])
    normed = normalize_bands(mel, frames, epsilon=1e-5)
    stacked = stack_frames(normed, case.args["stack"])
    spans = expand_spans(case.inputs["starts"], 40)
    return {
        "stacked": stacked,
        "labels": random_projection_labels(stacked, case.inputs["projection"], case.inputs["codebook"]),
        "mask": spans.long(),
        "masked_mel": torch.where(spans[..., None], noise, normed),
    }


@torch.no_grad()
def mhubert(case: Case) -> Outputs:
    """SpeechGPT's path from audio to units, and the strings that its language model reads."""
    sizes = case.args["h"]
    inferred = convert.fairseq_config(case.weights, num_heads=sizes["heads"])
    centers = case.weights["km.cluster_centers_"]
    config = replace(inferred, head=None, layer=case.args["layer"], num_units=len(centers))
    model = SpeechEncoder(config)
    assert model.centers is not None
    load_official(model, case.weights, convert.fairseq_table(config), case)
    model.centers.copy_(centers)
    out: Outputs = {}
    for name, audio in case.inputs.items():
        number = name.removeprefix("wav_")
        features = model.encode_batch(audio[None, None], layer=config.layer)
        units = model.encode(audio, config.sample_rate_hz)
        merged = units.deduplicated()
        out |= {
            f"features_{number}": features.values[0],
            f"units_{number}": torch.from_numpy(units.units),
            f"dedup_{number}": torch.from_numpy(merged.units),
            f"durations_{number}": torch.from_numpy(merged.durations),
        }
    return out


KINDS: Mapping[str, Runner] = {
    **{f"ssl/hf_{name}_{size}": huggingface for name in ("hubert", "wav2vec2", "wavlm") for size in ("base", "large")},
    "ssl/hf_data2vec_audio": huggingface,
    "ssl/hf_w2v_bert_2": w2v_bert,
    "ssl/hf_input_normalize": input_normalize,
    "ssl/fairseq_hubert_base": fairseq_hubert,
    "ssl/fairseq_hubert_large": fairseq_hubert,
    "ssl/fairseq_wav2vec2_base": fairseq_wav2vec2,
    "ssl/fairseq_wav2vec2_large": fairseq_wav2vec2,
    "ssl/kmeans_units": kmeans_units,
    "ssl/best_rq": best_rq,
    "speechgpt/mhubert": mhubert,
}
