"""Published SALMONN checkpoints: what was trained (Q-Former, norms, projection, LoRA), beside optimiser state.

`tsinghua-ee/SALMONN/salmonn_v1.pth` (13B, about 400 MB) and `SALMONN-7B/salmonn_7b_v0.pth` (about 363 MB) on the
Hugging Face Hub, Apache-2.0: `{model, optimizer, config, scaler, epoch}`. The base language model (Vicuna, under
LLaMA's licence) and the encoders come from elsewhere: 13B wants Vicuna v1.1, another version answers nonsense.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from voder.errors import CheckpointError
from voder.interop import RenameTable, Rule, read_sections, rename
from voder.systems.salmonn.model import Salmonn

_LAYER = "speech_Qformer.bert.encoder.layer.{i}."
_OURS = "bridge.layers.{i}."
_LLAMA = "base_model.model.model.layers.{i}.self_attn."


def _attention(theirs: str, ours: str) -> tuple[Rule, ...]:
    return (
        Rule(_LAYER + theirs + ".output.dense.{w}", _OURS + ours + ".out.{w}"),
        Rule(_LAYER + theirs + ".output.LayerNorm.{w}", _OURS + ours + ".norm.{w}"),
        Rule(_LAYER + theirs + ".self.{part}.{w}", _OURS + ours + ".{part}.{w}"),
    )


OFFICIAL = RenameTable(
    Rule("ln_speech.{w}", "bridge.speech_norm.{w}"),
    Rule("ln_audio.{w}", "bridge.audio_norm.{w}"),
    Rule("speech_query_tokens", "bridge.queries"),
    Rule("speech_Qformer.bert.embeddings.LayerNorm.{w}", "bridge.query_norm.{w}"),
    *_attention("attention", "attention"),
    *_attention("crossattention", "cross"),
    Rule(_LAYER + "intermediate_query.dense.{w}", _OURS + "ffn_in.{w}"),
    Rule(_LAYER + "output_query.dense.{w}", _OURS + "ffn_out.{w}"),
    Rule(_LAYER + "output_query.LayerNorm.{w}", _OURS + "ffn_norm.{w}"),
    Rule("speech_llama_proj.{w}", "bridge.projection.{w}"),
    # peft has kept the frozen layer under `base_layer` since 0.5
    *(
        Rule(f"llama_model.{_LLAMA}{name}.weight", f"llama.{_LLAMA}{name}.base_layer.weight")
        for name in ("q_proj", "v_proj")
    ),
    Rule("llama_model.{w...}", "llama.{w...}"),
    ignored=("{path...}.rotary_emb.inv_freq", "{path...}.position_ids"),
)


def is_trained(name: str) -> bool:
    """Whether a weight of ours is one that SALMONN trains, and its checkpoints hold."""
    return name.startswith("bridge.") or ".lora_" in name


@dataclass(frozen=True, kw_only=True)
class Delta:
    """What a published checkpoint brought."""

    filled: tuple[str, ...]
    """Our names."""
    ignored: tuple[str, ...]
    """Foreign names that are known to carry nothing."""


def load_delta(model: Salmonn, state: Mapping[str, Tensor], where: str) -> Delta:
    """Fill everything that SALMONN trains; the frozen language model stays as it is.

    Raises:
        CheckpointError: a trained weight stays empty, or something in the file has no place; all are named.
    """
    own = model.state_dict()
    found = rename(state, own, OFFICIAL)
    empty = [name for name in found.missing if is_trained(name)]
    problems = {
        "left over": found.leftover,
        "missing": tuple(empty),
        "of another shape": found.wrong_shape,
        "claimed twice": found.twice,
    }
    said = "; ".join(f"{label}: {', '.join(names)}" for label, names in problems.items() if names)
    if said:
        raise CheckpointError(f"the weights in {where} do not fit this SALMONN: {said}")
    model.load_state_dict({**own, **found.state})
    return Delta(filled=tuple(found.state), ignored=found.ignored)


def read_delta(file: Path) -> dict[str, Tensor]:
    """Read the `model` section of a published file; optimiser and scaler are left where they are.

    Raises:
        CheckpointError: damaged, or no SALMONN checkpoint.
    """
    section = read_sections(file).get("model")
    if not isinstance(section, dict) or not all(isinstance(value, Tensor) for value in section.values()):
        raise CheckpointError(f"{file} is no SALMONN checkpoint: it must hold a table of tensors under 'model'")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in section.items()}
