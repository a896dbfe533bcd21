"""How to run the reference vectors of NExT-GPT."""

import itertools
from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from voder.fixtures import Case, Runner
from voder.nn.causal_lm import CausalLmConfig
from voder.nn.lora import LoraSizes, merge_lora, set_lora_factor
from voder.systems.nextgpt import convert, generators
from voder.systems.nextgpt.config import KINDS as KIND_NAMES
from voder.systems.nextgpt.config import AudioTrunkConfig, ImageBindConfig, NextGptConfig, OutputConfig
from voder.systems.nextgpt.hearing import mel_image, normalised
from voder.systems.nextgpt.losses import caption_distance, min_snr_weights, signal_to_noise
from voder.systems.nextgpt.model import NextGpt, Read, lay_out, row_losses
from voder.systems.nextgpt.pieces import IGNORED, Piece

Outputs = dict[str, Any]
_VIDEO_SCALE = 2.0
"""Weight of a video's caption in the third stage."""


def _enlarged(pictures: Tensor) -> Tensor:
    """Every pixel 8 x 8 times, as the recording says."""
    return pictures.repeat_interleave(8, dim=-1).repeat_interleave(8, dim=-2)


@torch.no_grad()
def imagebind(case: Case) -> Outputs:
    """Both trunks, with and without the scale of sounds.

    The recording's hook fed the pictures' tokens to the head again where the video's were due. So what it holds as its
    video's vector are, in one row, those of other videos: of the pictures, each for two frames.
    """
    model = convert.imagebind_from_original(case.args["c"], case.weights, case.name)
    audio, pictures = case.inputs["audio"], _enlarged(case.inputs["vision_small"])
    assert model.vision is not None
    tokens = model.audio.tokens(audio.flatten(0, 1))
    videos = pictures[:, None, :, None].expand(-1, -1, -1, 2, -1, -1)
    return {
        "audio_scaled": model.hear(audio, logit_scale=True),
        "audio_noscale": model.hear(audio, logit_scale=False),
        "vision": model.see(pictures),
        "video": model.watch(videos).reshape(1, -1),
        "audio_tokens": tokens,
        "vision_tokens": model.vision.tokens(pictures),
        "audio_head": model.audio.trunk.vector(tokens),
    }


def imagebind_mel(case: Case) -> Outputs:
    """The front end."""
    out: Outputs = {}
    for name, audio in case.inputs.items():
        number = name.removeprefix("wav_")
        wanted = case.outputs[f"mel_{number}"].shape
        mel = mel_image(audio[None], AudioTrunkConfig(num_bands=wanted[1], num_frames=wanted[2]))
        out |= {f"mel_{number}": mel[0], f"norm_{number}": normalised(mel)[0]}
    return out


@torch.no_grad()
def output_projectors(case: Case) -> Outputs:
    """The three legacy projectors and the new one."""
    out: Outputs = {}
    for kind in (*(name for name, *_ in case.args["outs"]), "new"):
        model = convert.projector_from_original(case.weights_under(f"{kind}."), case.name)
        out[f"out_{kind}"] = model(case.inputs[f"hidden_{kind}"], case.inputs[f"embed_{kind}"])
    return out


def losses(case: Case) -> Outputs:
    """Caption distance and Min-SNR weights."""
    distance = caption_distance(case.inputs["u"], case.inputs["v"])
    schedule, times = case.inputs["alphas_cumprod"], case.inputs["timesteps"]
    return {
        "l2": distance,
        "l2_mean": distance.mean(),
        "l2_scaled_video": _VIDEO_SCALE * distance.mean(),
        "snr": signal_to_noise(schedule, times),
        "min_snr_weight": min_snr_weights(schedule, times),
    }


def _denoised(case: Case, by: Callable[[Any], generators.Predict]) -> tuple[generators.Denoised, Any]:
    """The loop over the recorded parts, whose UNet is called in one of two ways; and the VAE behind it."""
    import diffusers

    sizes = case.args["c"]
    unet = diffusers.UNet2DConditionModel(**sizes["unet"])
    vae = diffusers.AutoencoderKL(**sizes["vae"])
    for name, part in (("unet", unet), ("vae", vae)):
        part.load_state_dict(case.weights_under(f"{name}."))
        part.eval()
    done = generators.denoise(
        by(unet),
        getattr(diffusers, case.meta["scheduler_class"])(**case.meta["scheduler"]),
        case.inputs["latents"],
        case.inputs["prompt_embeds"],
        case.inputs.get("negative_prompt_embeds"),
        steps=case.args["steps"],
        guidance=case.args["guidance"],
    )
    return done, vae


def sd_loop(case: Case) -> Outputs:
    """Stable Diffusion's loop."""
    done, vae = _denoised(case, generators.by_attention)
    return {
        "latents": done.latents,
        "image": generators.decode_image(vae, done.latents),
        "timesteps": done.timesteps,
        "noise_pred_first": done.first,
    }


def audioldm_loop(case: Case) -> Outputs:
    """AudioLDM's loop, its VAE and its vocoder."""
    from transformers import SpeechT5HifiGan, SpeechT5HifiGanConfig

    done, vae = _denoised(case, generators.by_class)
    vocoder: Any = SpeechT5HifiGan(SpeechT5HifiGanConfig(**case.args["c"]["voc"]))
    vocoder.load_state_dict(case.weights_under("vocoder."))
    vocoder.eval()
    mel = generators.decode_mel(vae, done.latents)
    num_samples = int(case.args["sec"] * vocoder.config.sampling_rate)
    return {
        "latents": done.latents,
        "mel": mel,
        "audio": generators.vocode(vocoder, mel, num_samples),
        "timesteps": done.timesteps,
    }


def _legacy_model(case: Case) -> NextGpt:
    """The network of a training case; the encoder has no part in it, so any will do."""
    args = case.args
    llama, outs = args["llama"], args["outs"]
    signals = args["n"]
    # the first number is how many vectors pictures and videos have, then the channels of each kind
    vectors, widths = outs[0], outs[1:]
    image, video, audio = (
        OutputConfig(num_signals=n, num_vectors=1 if kind == "audio" else vectors, width=width)
        for kind, n, width in zip(KIND_NAMES, signals, widths, strict=True)
    )
    model = NextGpt(
        NextGptConfig(
            encoder=_any_encoder(args["vis"]),
            lm=_llama(args["base"], llama["hidden"], llama["inter"], llama["layers"], llama["heads"]),
            lora=LoraSizes(rank=args["lora_r"], alpha=args["lora_alpha"], dropout=0.0),
            projector_width=args["h"],
            image=image,
            video=video,
            audio=audio,
        )
    )
    convert.load_official(model, case.weights, case.name)
    return model.eval()


def _any_encoder(width: int) -> ImageBindConfig:
    audio = AudioTrunkConfig(width=8, num_layers=1, num_heads=1)
    return ImageBindConfig(audio=audio, vision=None, output_width=width)


def _llama(vocabulary: int, width: int, ffn: int, layers: int, heads: int) -> CausalLmConfig:
    return CausalLmConfig(
        vocabulary_size=vocabulary, width=width, ffn_width=ffn, num_layers=layers, num_heads=heads, bos_id=1, eos_id=2
    )


@torch.no_grad()
def legacy_train(case: Case) -> Outputs:
    """Labels, embeddings, logits and losses of the three stages."""
    model = _legacy_model(case)
    runs = {entry["name"]: entry for entry in case.meta["label_building"]}
    heard = _pieces(case, runs["stage1"], media=True)
    out = _step(case, model, "stage1", heard)
    for kind in KIND_NAMES:
        out |= _step(case, model, f"stage2_{kind}", _pieces(case, runs[f"stage2_{kind}"]), kind)
    shown = runs["stage3_audio"]
    for kind in KIND_NAMES:
        scale = _VIDEO_SCALE if kind == "video" else 1.0
        out |= _step(case, model, f"stage3_{kind}", _pieces(case, shown, swap=(model, kind)), kind, scale)
    turns = _pieces(case, runs["stage3_two_turns"], media=True)
    return out | _step(case, model, "stage3_image_to_text", turns)


def _pieces(
    case: Case, entry: dict[str, Any], *, media: bool = False, swap: tuple[NextGpt, str] | None = None
) -> list[list[Piece]]:
    """Rows of the recorded ids behind their beginning; `swap` puts another kind's signals in place of the audio's."""
    rows = []
    for number, (ids, labels) in enumerate(zip(entry["input_ids"], entry["labels"], strict=True)):
        kept = sum(entry["attention_mask"][number])
        ids, labels = ids[:kept], labels[:kept]
        head = case.meta["prefix_ids"]["with_media" if media else "text_only"]
        row = [Piece((1,)), Piece(tuple(head))]
        row += [Piece(medium=number)] if media else []
        for is_learned, group in itertools.groupby(zip(ids, labels, strict=True), key=lambda pair: pair[1] != IGNORED):
            row.append(Piece(tuple(id_ for id_, _ in group), is_learned))
        rows.append(row if swap is None else [_swapped(piece, *swap) for piece in row])
    return rows


def _swapped(piece: Piece, model: NextGpt, kind: str) -> Piece:
    audio, other = model.vocabulary["audio"], model.vocabulary[kind]
    ids: list[int] = []
    for id_ in piece.ids:
        if id_ == audio.start:
            ids += range(other.start, other.end)
        elif not audio.start < id_ < audio.end:
            ids.append(id_)
    return Piece(tuple(ids), piece.learned, piece.medium)


def _step(
    case: Case, model: NextGpt, name: str, rows: list[list[Piece]], kind: str | None = None, scale: float = 1.0
) -> Outputs:
    """One training step without its gradient."""
    read = lay_out(rows)
    embeddings = model.embeddings(_padded_with_end(read), case.inputs["imagebind"])
    logits, states = model.states(embeddings, read.valid)
    sums, counts = row_losses(logits, read.labels)
    loss = sums.sum() / counts.sum()
    out: Outputs = {
        f"{name}_labels": read.labels,
        f"{name}_mask": read.valid.long(),
        f"{name}_logits": logits[:, -1],
        f"{name}_embeds_sum": embeddings.sum(-1),
    }
    if kind is not None:
        projected, _ = model.project(states, read.ids, kind)
        distance = caption_distance(projected, case.inputs[f"cap_{kind}"].view_as(projected)).mean()
        loss = loss + scale * distance
        out |= {f"{name}_l2": distance, f"{name}_projected": projected}
    return out | {f"{name}_loss": loss}


def _padded_with_end(read: Read) -> Read:
    """The authors fill up rows with the end id, which shows in the embeddings of padding."""
    return replace(read, ids=read.ids.masked_fill(~read.valid, 2))


@torch.no_grad()
def delta(case: Case) -> Outputs:
    """A plain Llama with the authors' file laid over it: LoRA at three strengths, then the trained tables too."""
    sizes = case.args["l"]
    model = NextGpt(
        NextGptConfig(
            line="new",
            encoder=_any_encoder(case.inputs["media"].shape[1]),
            lm=_llama(sizes["v"], sizes["h"], sizes["i"], sizes["n"], sizes["heads"]),
            lora=LoraSizes(rank=case.args["r"], alpha=case.args["alpha"], dropout=0.0),
            image=None,
            video=None,
            audio=None,
        )
    )
    base, changes = convert.from_plain(case.weights_under("base.")), case.weights_under("delta.")
    tables = [name for name in changes if name.endswith(("embed_tokens.weight", "lm_head.weight"))]
    adapters = {name: value for name, value in changes.items() if name not in tables}
    convert.load_official(model.eval(), base | adapters, case.name)
    ids = case.inputs["ids"]
    out: Outputs = {"media_embed": model.input_projector(case.inputs["media"])}
    for name, factor in (("base", 0.0), ("half", 0.5), ("full", 1.0)):
        set_lora_factor(model.lm, factor)
        out[f"logits_{name}"] = model.lm(input_ids=ids).logits
    convert.load_official(model, convert.over(base, changes), case.name)
    out["logits_full_with_trained_embeddings"] = model.lm(input_ids=ids).logits
    merged = merge_lora(model.lm)
    return out | {"merged_first_q_proj": merged.model.layers[0].self_attn.q_proj.weight}


KINDS: dict[str, Runner] = {
    "lora/nextgpt_delta": delta,
    "nextgpt/legacy_train": legacy_train,
    "nextgpt/imagebind": imagebind,
    "nextgpt/imagebind_mel": imagebind_mel,
    "nextgpt/output_projectors": output_projectors,
    "nextgpt/losses": losses,
    "nextgpt/sd_loop": sd_loop,
    "nextgpt/audioldm_loop": audioldm_loop,
}
