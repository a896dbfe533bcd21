"""How to run the reference vectors of EnCodec, audiocraft and finite scalar quantisation.

Every runner maps the original's constructor arguments to our configuration, loads the official weights
through the rename tables of `convert`, runs, and returns the outputs under the names of the recording.
"""

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from voder.fixtures import Case, Runner, load_official
from voder.interop import WEIGHT_NORM, RenameTable, Rule
from voder.nn.balancer import Balancer
from voder.nn.conv import PaddedConv1d, PaddedConvTranspose1d
from voder.nn.discriminators import MultiScaleSTFTDiscriminator
from voder.nn.losses import MelL1Loss, MultiResolutionSTFTLoss, MultiScaleMelLoss, negative_si_snr
from voder.nn.seanet import SEANetDecoder, SEANetEncoder
from voder.systems.encodec import convert, infer, reference_coding, reference_quantizers
from voder.systems.encodec.model import EncodecCodec, overlap_add

Outputs = dict[str, Any]

_CONV = RenameTable(Rule("conv.conv.{w...}", "conv.{w...}"), Rule("conv.norm.{w}", "norm.{w}"), spelling=WEIGHT_NORM)
_CONVTR = RenameTable(
    Rule("convtr.convtr.{w...}", "conv.{w...}"), Rule("convtr.norm.{w}", "norm.{w}"), spelling=WEIGHT_NORM
)


# Layers


@torch.no_grad()
def conv_layers(case: Case) -> Outputs:
    """Padded convolutions and transposed ones, every length through every layer."""
    args = case.args
    out: Outputs = {}
    sizes = args["in_channels"], args["out_channels"]
    for i, spec in enumerate(args["conv"]):
        layer: nn.Module = PaddedConv1d(
            *sizes,
            spec["k"],
            stride=spec.get("s", 1),
            dilation=spec.get("d", 1),
            causal=spec.get("causal", False),
            norm=spec.get("norm", "weight_norm"),
            pad_mode=spec.get("pad_mode", "reflect"),
        )
        load_official(layer, case.weights_under(f"conv{i}."), _CONV, case)
        out |= {f"conv{i}_{name}": layer(x) for name, x in case.inputs.items() if name.startswith("x")}
    for i, spec in enumerate(args["convtr"]):
        layer = PaddedConvTranspose1d(
            *sizes,
            spec["k"],
            stride=spec.get("s", 1),
            causal=spec.get("causal", False),
            norm=spec.get("norm", "weight_norm"),
            trim_right=spec.get("trim", 1.0),
        )
        load_official(layer, case.weights_under(f"convtr{i}."), _CONVTR, case)
        out |= {f"convtr{i}_{name}": layer(x) for name, x in case.inputs.items() if name.startswith("t")}
    return out


@torch.no_grad()
def seanet(case: Case) -> Outputs:
    """Encoder and decoder; the decoder gets the recorded latents, so that errors do not add up."""
    config = convert.seanet_config(case.args)
    table = convert.official_table(config)
    model = nn.ModuleDict({"encoder": SEANetEncoder(config), "decoder": SEANetDecoder(config)})
    load_official(model, case.weights, table, case)
    out: Outputs = {}
    for name, x in case.inputs.items():
        out[f"z_{name}"] = model["encoder"](x)
        out[f"y_{name}"] = model["decoder"](case.outputs[f"z_{name}"])
    return out


@torch.no_grad()
def stft_discriminator(case: Case) -> Outputs:
    """Logits and feature maps; some maps are recorded in part, as their shape says."""
    args = case.args
    model = MultiScaleSTFTDiscriminator(
        channels=args.get("in_channels", 1),
        filters=args["filters"],
        n_ffts=tuple(args["n_ffts"]),
        hops=tuple(args["hop_lengths"]),
        windows=tuple(args["win_lengths"]),
    )
    load_official(model, case.weights, convert.DISCRIMINATOR, case)
    out: Outputs = {}
    for name, x in case.inputs.items():
        judged = model(x)
        for s, logits in enumerate(judged.logits):
            out[f"logit_{name}_s{s}"] = logits
            for j, feature in enumerate(judged.features[s]):
                key = f"fmap_{name}_s{s}_{j}"
                if key in case.outputs:
                    batch, channels = case.outputs[key].shape[:2]
                    out[key] = feature[:batch, :channels]
    return out


# Losses


def losses(case: Case) -> Outputs:
    """Reconstruction losses and their gradients."""
    args, rate = case.args, case.args["sample_rate"]
    frame = int(args["sisnr"]["segment"] * rate)
    mel, scales, stft = args["mel"], args["multiscale"], args["mr_stft"]
    functions: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
        "mel_l1": MelL1Loss(sample_rate_hz=rate, n_fft=mel["n_fft"], hop=mel["hop_length"], num_bands=mel["n_mels"]),
        "ms_mel": MultiScaleMelLoss(
            sample_rate_hz=rate,
            start=scales["range_start"],
            end=scales["range_end"],
            num_bands=scales["n_mels"],
        ),
        "mr_stft": MultiResolutionSTFTLoss(
            n_ffts=stft["n_ffts"], hops=stft["hop_lengths"], windows=stft["win_lengths"]
        ),
        "sisnr": lambda got, wanted: negative_si_snr(got, wanted, frame=frame, overlap=args["sisnr"]["overlap"]),
    }
    out: Outputs = {}
    for name, function in functions.items():
        predicted = case.inputs["y"].clone().requires_grad_()
        out[name] = function(predicted, case.inputs["x"])
        out[f"{name}_grad"] = torch.autograd.grad(out[name], predicted)[0]
    return out


def balancer(case: Case) -> Outputs:
    """Balanced gradients over several steps."""
    out: Outputs = {}
    for i, spec in enumerate(case.args["configs"]):
        module = Balancer(
            spec["weights"],
            rescale=spec.get("rescale", spec.get("balance_grads", True)),
            total_norm=spec.get("total_norm", 1.0),
            decay=spec.get("ema_decay", 0.999),
            per_item=spec.get("per_batch_item", True),
            epsilon=spec.get("epsilon", 1e-12),
        )
        for step in range(case.args["steps"]):
            y, a, b, c = (case.inputs[f"{name}{step}"] for name in "yabc")
            y = y.clone().requires_grad_()
            terms = {
                "l1": (y - a).abs().mean(),
                "l2": 100 * (y - b).square().mean(),
                "lin": 0.01 * (c * y).sum(),
            }
            balanced = module({name: terms[name] for name in spec["weights"]}, y)
            out[f"cfg{i}_eff{step}"] = balanced
            out[f"cfg{i}_grad{step}"] = torch.autograd.grad(balanced, y)[0]
    return out


# Whole models


def official_codec(case: Case, weights: Mapping[str, Tensor]) -> EncodecCodec:
    """Build a model from official arguments and weights, without its language model."""
    config = convert.official_config({**case.args, "lm": None, "target_bandwidths": ()})
    codec = EncodecCodec(config)
    load_official(codec, weights, convert.official_table(config.seanet), case)
    return codec


def _model_outputs(codec: EncodecCodec, case: Case, kbps: float, name: str, x: Tensor) -> Outputs:
    segments = codec.encode_segments(x, convert.official_codebooks(codec.config, kbps))
    label = f"{name}_bw{kbps}"
    out: Outputs = {}
    for f, segment in enumerate(segments):
        out[f"codes_{label}" + (f"_f{f}" if codec.config.segment_s else "")] = segment.codes
        if segment.scale is not None:
            out[f"scale_{label}_f{f}"] = segment.scale
    out[f"y_{label}"] = codec.decode_segments(segments)
    return out


def model(case: Case) -> Outputs:
    """Encode and decode with an official model."""
    codec = official_codec(case, case.weights)
    out: Outputs = {}
    for name, x in case.inputs.items():
        for kbps in case.args["target_bandwidths"]:
            if f"y_{name}_bw{kbps}" in case.outputs:
                out |= _model_outputs(codec, case, kbps, name, x)
    return out


def huggingface(case: Case) -> Outputs:
    """Encode and decode with weights under Hugging Face names; codes come chunk by chunk, zero-padded."""
    count = sum(key.endswith("codebook.embed") for key in case.weights)
    codec = EncodecCodec(convert.huggingface_config({**case.args, "target_bandwidths": ()}, count))
    load_official(codec, case.weights, convert.HUGGINGFACE, case)
    out: Outputs = {}
    for name, x in case.inputs.items():
        for kbps in case.args["target_bandwidths"]:
            segments = codec.encode_segments(x, convert.official_codebooks(codec.config, kbps))
            longest = max(segment.codes.shape[-1] for segment in segments)
            padded = [nn.functional.pad(s.codes, (0, longest - s.codes.shape[-1])) for s in segments]
            label = f"{name}_bw{kbps}"
            out[f"codes_{label}"] = torch.stack(padded)
            out |= {f"scale_{label}_f{i}": segment.scale for i, segment in enumerate(segments)}
            out[f"y_{label}"] = codec.decode_segments(segments)
    return out


@torch.no_grad()
def join_segments(case: Case) -> Outputs:
    """Overlap-add of given frames."""
    out: Outputs = {}
    for i, group in enumerate(case.args["groups"]):
        parts = [case.inputs[f"g{i}_frame{j}"] for j in range(group["frames"])]
        out[f"g{i}"] = overlap_add(parts, group["stride"])
    return out


def convert_audio(case: Case) -> Outputs:
    """Channel mix, then sample rate."""
    return {
        f"y{i}": infer.convert_audio(case.inputs[f"x{i}"], spec["sr"], spec["target_sr"], spec["target_channels"])
        for i, spec in enumerate(case.args["conversions"])
    }


KINDS: dict[str, Runner] = {
    "encodec/arithmetic_coder": reference_coding.arithmetic_coder,
    "encodec/balancer": balancer,
    "encodec/codebook_ema_step": reference_quantizers.codebook_ema_step,
    "encodec/conv_layers": conv_layers,
    "encodec/convert_audio": convert_audio,
    "encodec/ecdc_lm_off_24khz": reference_coding.ecdc_without_lm,
    "encodec/ecdc_lm_off_48khz": reference_coding.ecdc_without_lm,
    "encodec/ecdc_lm_on_24khz": reference_coding.ecdc_with_lm,
    "encodec/ecdc_lm_on_48khz": reference_coding.ecdc_with_lm,
    "encodec/hf_encodec_24khz": huggingface,
    "encodec/hf_encodec_48khz": huggingface,
    "encodec/lm": reference_coding.lm,
    "encodec/model_24khz_style": model,
    "encodec/model_48khz_style": model,
    "encodec/msstftd": stft_discriminator,
    "encodec/overlap_add": join_segments,
    "encodec/rvq": reference_quantizers.rvq,
    "encodec/rvq_train_forward": reference_quantizers.rvq_train_forward,
    "encodec/seanet_audiocraft_style": seanet,
    "encodec/seanet_causal_weightnorm": seanet,
    "encodec/seanet_noncausal_groupnorm": seanet,
    "audiocraft/losses": losses,
    "audiocraft/rvq_train_forward": reference_quantizers.audiocraft_rvq_train_forward,
    "audiocraft/seanet": seanet,
    "fsq/notebook": reference_quantizers.fsq_notebook,
    "fsq/official_vs_vqp_disagreement": reference_quantizers.fsq_disagreement,
    "fsq/vqp_default": reference_quantizers.fsq_vqp,
    "fsq/vqp_residual_fsq": reference_quantizers.fsq_residual,
    "fsq/vqp_symmetric": reference_quantizers.fsq_vqp,
}
