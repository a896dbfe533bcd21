"""Where each weight stands in the three layouts that Whisper is published in.

openai        `.pt` files: {dims, model_state_dict}
huggingface   WhisperForConditionalGeneration
ctranslate2   `model.bin` of faster-whisper: projections of queries, keys and values stacked
"""

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

from voder.errors import CheckpointError
from voder.interop import RenameTable, Rule

OPENAI = RenameTable(
    Rule("encoder.positional_embedding", "encoder.positions"),
    Rule("encoder.ln_post.{w}", "encoder.final_norm.{w}"),
    Rule("encoder.{conv}.{w}", "encoder.{conv}.{w}"),
    Rule("decoder.positional_embedding", "decoder.positions"),
    Rule("decoder.token_embedding.weight", "decoder.embedding.weight"),
    Rule("decoder.ln.{w}", "decoder.final_norm.{w}"),
    Rule("{side}.blocks.{i}.attn.{part}.{w}", "{side}.blocks.{i}.attention.{part}.{w}"),
    Rule("{side}.blocks.{i}.attn_ln.{w}", "{side}.blocks.{i}.attention_norm.{w}"),
    Rule("{side}.blocks.{i}.cross_attn.{part}.{w}", "{side}.blocks.{i}.cross.{part}.{w}"),
    Rule("{side}.blocks.{i}.cross_attn_ln.{w}", "{side}.blocks.{i}.cross_norm.{w}"),
    Rule("{side}.blocks.{i}.mlp.0.{w}", "{side}.blocks.{i}.ffn_in.{w}"),
    Rule("{side}.blocks.{i}.mlp.2.{w}", "{side}.blocks.{i}.ffn_out.{w}"),
    Rule("{side}.blocks.{i}.mlp_ln.{w}", "{side}.blocks.{i}.ffn_norm.{w}"),
)

_ATTENTION = (("q_proj", "query"), ("k_proj", "key"), ("v_proj", "value"), ("out_proj", "out"))
HUGGINGFACE = RenameTable(
    Rule("model.encoder.embed_positions.weight", "encoder.positions"),
    Rule("model.encoder.layer_norm.{w}", "encoder.final_norm.{w}"),
    Rule("model.encoder.{conv}.{w}", "encoder.{conv}.{w}"),
    Rule("model.decoder.embed_positions.weight", "decoder.positions"),
    Rule("model.decoder.embed_tokens.weight", "decoder.embedding.weight"),
    Rule("model.decoder.layer_norm.{w}", "decoder.final_norm.{w}"),
    *(
        Rule(f"model.{{side}}.layers.{{i}}.{theirs}.{their_part}.{{w}}", f"{{side}}.blocks.{{i}}.{ours}.{part}.{{w}}")
        for theirs, ours in (("self_attn", "attention"), ("encoder_attn", "cross"))
        for their_part, part in _ATTENTION
    ),
    Rule("model.{side}.layers.{i}.self_attn_layer_norm.{w}", "{side}.blocks.{i}.attention_norm.{w}"),
    Rule("model.{side}.layers.{i}.encoder_attn_layer_norm.{w}", "{side}.blocks.{i}.cross_norm.{w}"),
    Rule("model.{side}.layers.{i}.fc1.{w}", "{side}.blocks.{i}.ffn_in.{w}"),
    Rule("model.{side}.layers.{i}.fc2.{w}", "{side}.blocks.{i}.ffn_out.{w}"),
    Rule("model.{side}.layers.{i}.final_layer_norm.{w}", "{side}.blocks.{i}.ffn_norm.{w}"),
    ignored=("proj_out.weight",),  # the embedding table once more
)

CTRANSLATE2 = RenameTable(
    Rule("{side}.position_encodings.encodings", "{side}.positions"),
    Rule("decoder.embeddings.weight", "decoder.embedding.weight"),
    Rule("{side}.layer_norm.{w}", "{side}.final_norm.{w}"),
    Rule("encoder.{conv}.{w}", "encoder.{conv}.{w}"),
    Rule("{side}.layer_{i}.self_attention.layer_norm.{w}", "{side}.blocks.{i}.attention_norm.{w}"),
    Rule("{side}.layer_{i}.self_attention.{part}.{w}", "{side}.blocks.{i}.attention.{part}.{w}"),
    Rule("{side}.layer_{i}.attention.layer_norm.{w}", "{side}.blocks.{i}.cross_norm.{w}"),
    Rule("{side}.layer_{i}.attention.{part}.{w}", "{side}.blocks.{i}.cross.{part}.{w}"),
    Rule("{side}.layer_{i}.ffn.layer_norm.{w}", "{side}.blocks.{i}.ffn_norm.{w}"),
    Rule("{side}.layer_{i}.ffn.linear_0.{w}", "{side}.blocks.{i}.ffn_in.{w}"),
    Rule("{side}.layer_{i}.ffn.linear_1.{w}", "{side}.blocks.{i}.ffn_out.{w}"),
)
"""After `unstack`."""

_STACKS = {
    "self_attention.linear_0": ("query", "key", "value"),
    "self_attention.linear_1": ("out",),
    "attention.linear_0": ("query",),
    "attention.linear_1": ("key", "value"),
    "attention.linear_2": ("out",),
}
_NORM = {"gamma": "weight", "beta": "bias"}


def _is_setting(name: str) -> bool:
    """Names of numbers that only tell CTranslate2 how to run."""
    return name.rpartition("/")[2] in ("num_heads", "pre_norm", "activation", "alignment", "start_from_zero_embedding")


def unstack(variables: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Dotted names, norms' weight and bias, and one tensor per projection, from the variables of a `model.bin`.

    Raises:
        CheckpointError: a key has a bias, which Whisper has not, or a stack cannot be cut.
    """
    state: dict[str, Tensor] = {}
    for path, value in variables.items():
        if value.ndim == 0 or _is_setting(path):
            continue
        name, _, kind = path.replace("/", ".").rpartition(".")
        parts = next((p for stack, p in _STACKS.items() if name.endswith("." + stack) and _exact(name, stack)), None)
        if parts is None:
            state[f"{name}.{_NORM.get(kind, kind)}"] = value
            continue
        if value.shape[0] % len(parts):
            raise CheckpointError(f"{path} has {value.shape[0]} rows; a multiple of {len(parts)} is wanted")
        owner = name.rpartition(".")[0]
        for part, rows in zip(parts, value.chunk(len(parts)), strict=True):
            if part == "key" and kind == "bias":
                if rows.any():
                    raise CheckpointError(f"{path} has a bias for keys; Whisper's keys have none")
                continue
            state[f"{owner}.{part}.{kind}"] = rows.clone()
    return state


def _exact(name: str, stack: str) -> bool:
    """`layer_0.self_attention.linear_0` also ends with `attention.linear_0` up to a letter; the part must be whole."""
    return name.split(".")[-2:] == stack.split(".")


def stack(state: Mapping[str, Tensor], sides: Sequence[str] = ("encoder", "decoder")) -> dict[str, Tensor]:
    """Undo `unstack`: the variables of a `model.bin`, from the names of CTRANSLATE2."""
    variables: dict[str, Tensor] = {}
    done: set[str] = set()
    for name in state:
        owner, _, last = name.rpartition(".")
        block, _, part = owner.rpartition(".")
        if part not in ("query", "key", "value", "out"):
            spelt = {"weight": "gamma", "bias": "beta"}.get(last, last) if owner.endswith("layer_norm") else last
            variables[f"{owner}.{spelt}".replace(".", "/")] = state[name]
        elif block not in done:
            done.add(block)
            kind = block.rpartition(".")[2]
            for stacked, parts in _STACKS.items():
                if stacked.split(".")[0] == kind:
                    variables |= _stacked(state, block, f"{block}.{stacked.split('.')[1]}", parts)
    return variables


def _stacked(state: Mapping[str, Tensor], block: str, name: str, parts: tuple[str, ...]) -> dict[str, Tensor]:
    weights = [state[f"{block}.{part}.weight"] for part in parts]
    biases = [state.get(f"{block}.{part}.bias", w.new_zeros(len(w))) for part, w in zip(parts, weights, strict=True)]
    path = name.replace(".", "/")
    return {f"{path}/weight": torch.cat(weights), f"{path}/bias": torch.cat(biases)}
