"""How to run the reference vectors of SALMONN: the bridge, the whole, its data preparation and its LoRA files."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from voder import hub
from voder.fixtures import Case, Runner
from voder.generate.decode import Decoded
from voder.generate.lm import GenerateConfig, generate_ids
from voder.interop import RenameTable, Rule, load_foreign
from voder.nn.causal_lm import CausalLmConfig, CausalLmSession, build_causal_lm
from voder.nn.lora import LoraSizes, set_lora_factor, with_lora
from voder.systems.salmonn import convert
from voder.systems.salmonn.config import BridgeConfig, SalmonnConfig
from voder.systems.salmonn.data import prepare
from voder.systems.salmonn.model import Bridge, Salmonn
from voder.systems.salmonn.prompt import answer_logits, answer_loss, assemble

Outputs = dict[str, Any]
_SHOWN, _LAST = 20_000, 2000
"""Samples of prepared recordings that are recorded."""
_FRAMES_OF_30_S = 1500
_ALONE = RenameTable(
    Rule("llama_model.base_model.model.{w...}", "base_model.model.{w...}"), ignored=("{path...}.rotary_emb.inv_freq",)
)
"""LoRA alone, without the bridge."""


def _config(args: Mapping[str, Any]) -> SalmonnConfig:
    """Translate the arguments of the recordings."""
    llama, qformer = args["llama"], args["qformer"]

    def frames(seconds: float) -> int:
        return round(_FRAMES_OF_30_S * seconds / 30)

    return SalmonnConfig(
        bridge=BridgeConfig(
            speech_width=args["whisper"]["d"],
            audio_width=args["beats"]["encoder_embed_dim"],
            width=qformer["hidden"],
            num_heads=qformer["heads"],
            num_layers=qformer.get("layers", 2),
            ffn_width=qformer["ffn"],
            num_queries=args["queries"],
            window_frames=frames(args["second_per_window"]),
            stride_frames=frames(args["second_stride"]),
        ),
        lm=CausalLmConfig(
            width=llama["hidden"],
            ffn_width=llama["inter"],
            num_layers=llama["layers"],
            num_heads=llama["heads"],
            vocabulary_size=args["llama_vocab"] + 1,
        ),
        lora=LoraSizes(rank=args["lora_rank"], alpha=args["lora_alpha"]),
    )


@torch.no_grad()
def qformer(case: Case) -> Outputs:
    """The bridge on recorded streams of different lengths."""
    config = _config(case.args["m"])
    model = nn.ModuleDict({"bridge": Bridge(config.bridge, config.lm.width)})
    load_foreign(model, case.weights, convert.OFFICIAL, case.name)
    model.eval()
    return {
        f"embeds_{i}": model["bridge"](case.inputs[f"speech_{i}"], case.inputs[f"audio_{i}"])
        for i in range(len(case.args["lens"]))
    }


def _whisper_encoder(args: Mapping[str, Any], state: Mapping[str, Tensor]) -> nn.Module:
    """Whisper's encoder in Hugging Face's layout."""
    from transformers import WhisperConfig
    from transformers.models.whisper.modeling_whisper import WhisperEncoder

    config = WhisperConfig(
        d_model=args["d"],
        encoder_layers=args["layers"],
        encoder_attention_heads=args["heads"],
        encoder_ffn_dim=args["ffn"],
        max_source_positions=args["positions"],
    )
    encoder: nn.Module = WhisperEncoder(config)
    encoder.load_state_dict(dict(state))
    return encoder.eval()


@torch.no_grad()
def whole(case: Case) -> Outputs:
    """From recording and prompt ids to logits, loss and beams at every strength of the LoRA."""
    args, given = case.args["m"], case.inputs
    speech = _whisper_encoder(args["whisper"], case.weights_under("speech_encoder."))
    original = hub.find("beats").original
    assert original is not None
    beats: Any = original(args["beats"], case.weights_under("beats."))
    model = Salmonn(_config(args))
    rest = {k: v for k, v in case.weights.items() if not k.startswith(("speech_encoder.", "beats."))}
    load_foreign(model, rest, convert.OFFICIAL, case.name)
    model.eval()
    out: Outputs = {"whisper": speech(given["spectrogram"]).last_hidden_state}
    out["beats_fbank"] = beats.spectrogram(given["wav"])
    valid = beats.valid_patches((given["wav_padding_mask"] == 0).sum(1), given["wav"].shape[1])
    out["beats"] = beats.encode_spectrogram(out["beats_fbank"], valid)
    heard = out["speech_embeds"] = model.bridge(out["whisper"], out["beats"])
    read = assemble(
        model,
        heard,
        *(given[name] for name in ("before_ids", "after_ids", "after_mask", "answer_ids", "answer_mask")),
    )
    out |= {"inputs_embeds": read.embeddings, "attention_mask": read.mask, "labels": read.labels}
    asked = assemble(model, heard, *(given[f"gen_{name}"] for name in ("before_ids", "after_ids", "after_mask")))
    out |= {"gen_inputs_embeds": asked.embeddings, "gen_attention_mask": asked.mask}
    for factor in case.args["lora_f"]:
        model.set_lora_factor(factor)
        name = f"lora{factor:g}"
        logits = answer_logits(model, read)
        out |= {f"loss_{name}": answer_loss(logits, read.labels), f"logits_{name}": logits}
        out[f"last_logits_{name}"] = logits[:, -1]
        session = CausalLmSession(model.llama, asked.embeddings, asked.mask)
        how = GenerateConfig(num_beams=4, max_new=case.args["max_new"])
        noise = [torch.Generator()] * len(asked.embeddings)
        said = generate_ids(session, how, end_ids=(model.config.lm.eos_id or 0,), generators=noise)
        out[f"beam_ids_{name}"] = _as_recorded(said, model.config.lm)
    return out


def _as_recorded(said: Sequence[Decoded], lm: CausalLmConfig) -> Tensor:
    """The version that was recorded put the begin token in front; zeros fill up behind the end."""
    ended = [[lm.bos_id, *row.ids, *([lm.eos_id] if row.stop_reason == "end" else [])] for row in said]
    rows = [torch.tensor(row) for row in ended]
    return nn.utils.rnn.pad_sequence(rows, batch_first=True)


def data_prep(case: Case) -> Outputs:
    """Joined, padded and cut recordings, and how much of each is padding in their batch."""
    prepared = []
    for i, (_, _, more) in enumerate(case.args["items"]):
        prepared.append(prepare([case.inputs[f"wav_{i}_{j}"].numpy() for j in range(1 + len(more))]))
    lengths = torch.tensor([len(samples) for samples in prepared])
    out: Outputs = {"lengths": lengths, "mask_sum": lengths.max() - lengths}
    for i, samples in enumerate(prepared):
        out[f"head_{i}"] = torch.from_numpy(samples[:_SHOWN])
        out[f"tail_{i}"] = torch.from_numpy(samples[-_LAST:])
    return out


@torch.no_grad()
def lora_delta(case: Case) -> Outputs:
    """A LoRA in SALMONN's layout over a plain Llama, at three strengths; every LoRA weight must be filled."""
    sizes, args = case.args["l"], case.args
    sizes_of_lm = CausalLmConfig(
        width=sizes["h"],
        ffn_width=sizes["i"],
        num_layers=sizes["n"],
        num_heads=sizes["heads"],
        vocabulary_size=sizes["v"],
    )
    lora, targets = LoraSizes(rank=args["r"], alpha=args["alpha"]), tuple(args["targets"])
    llama = with_lora(build_causal_lm(sizes_of_lm), lora, targets)
    base = case.weights_under("base.")
    for target in targets:
        base = {name.replace(f"{target}.", f"{target}.base_layer."): weight for name, weight in base.items()}
    base = {f"base_model.model.{name}": weight for name, weight in base.items()}
    delta = {k: v for k, v in case.weights_under("delta.").items() if k.startswith("llama_model.")}
    filled = {str(_ALONE.to_ours(k)): v for k, v in delta.items() if not _ALONE.is_ignored(k)}
    llama.load_state_dict({**base, **filled})
    llama.eval()
    out: Outputs = {}
    for name, factor in (("base", 0.0), ("half", 0.5), ("full", 1.0)):
        set_lora_factor(llama, factor)
        out[f"logits_{name}"] = llama(input_ids=case.inputs["ids"]).logits
    first = llama.base_model.model.model.layers[0].self_attn.q_proj
    out["merged_first_q_proj"] = first.base_layer.weight + first.get_delta_weight("default")
    return out


KINDS: dict[str, Runner] = {
    "salmonn/qformer": qformer,
    "salmonn/e2e": whole,
    "salmonn/data_prep": data_prep,
    "lora/salmonn_delta": lora_delta,
}
