"""Published SALMONN checkpoints: what was trained (Q-Former, norms, projection, LoRA), beside optimiser state.

`tsinghua-ee/SALMONN/salmonn_v1.pth` (13B, about 400 MB) and `SALMONN-7B/salmonn_7b_v0.pth` (about 363 MB) on the
Hugging Face Hub, Apache-2.0: `{model, optimizer, config, scaler, epoch}`. The base language model (Vicuna, under
LLaMA's licence) and the encoders come from elsewhere: 13B wants Vicuna v1.1, another version answers nonsense.
"""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import torch
from torch import Tensor

from voder import checkpoint
from voder.errors import CheckpointError, FittedPartMismatch
from voder.files import atomic_path
from voder.interop import Coverage, Marks, RenameTable, Rule, export, read_sections, rename_all
from voder.nn.causal_lm import CausalLmConfig
from voder.published import HubSource, Published, hub_source, of_file
from voder.systems.salmonn.config import SalmonnConfig, SalmonnTaskConfig, published_model
from voder.systems.salmonn.model import Salmonn, is_trained
from voder.systems.salmonn.parts import Parts, fitted_config
from voder.train.base_lm import borrowed, borrowed_names

LAYOUTS = {"salmonn": "a .pth file of what was trained, as the authors' code loads it"}
MARKS = Marks(names=("speech_llama_proj.weight",))

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


def convert_state(own: Mapping[str, Tensor], state: Mapping[str, Tensor], where: str) -> Coverage:
    """Find a place for everything that SALMONN trains, among the weights `own` of a model.

    Raises:
        CheckpointError: a trained weight stays empty, or something in the file has no place (the frozen language
            model has none: its part holds it); all are named.
    """
    trained = {name: value for name, value in own.items() if is_trained(name)}
    return rename_all(state, trained, OFFICIAL, where, "SALMONN")


def read_delta(file: Path) -> dict[str, Tensor]:
    """Read the `model` section of a published file; optimiser and scaler are left where they are.

    Raises:
        CheckpointError: damaged, or no SALMONN checkpoint.
    """
    section = read_sections(file).get("model")
    if not isinstance(section, dict) or not all(isinstance(value, Tensor) for value in section.values()):
        raise CheckpointError(f"{file} is no SALMONN checkpoint: it must hold a table of tensors under 'model'")
    return {str(name): value.float() if value.is_floating_point() else value for name, value in section.items()}


def import_checkpoint(source: Path, output: Path, *, lm: Path, speech: Path, audio: Path) -> Coverage:
    """Convert a published file, with the parts that it was trained on, into a checkpoint folder of ours.

    Args:
        source: `salmonn_v1.pth` or `salmonn_7b_v0.pth`.
        output: the folder to write; its parts are hard links where the disk is the same.
        lm: a checkpoint of the system lm: Vicuna 13B v1.1, or 7B v1.5.
        speech: a checkpoint with Whisper large-v2's encoder.
        audio: a checkpoint of the fine-tuned BEATs iter3+ (cpt2).

    Raises:
        FittedPartMismatch: the language model is another Vicuna.
        CheckpointError: damaged, or of another model; all names are given.
    """
    state = read_delta(source)
    parts = Parts.of_task(SalmonnTaskConfig(speech=str(speech), audio=str(audio), lm=str(lm)))
    config = fitted_config(_published_like(state, source), parts)
    refuse_wrong_vicuna(config.lm, lm)
    with torch.device("meta"):
        model = Salmonn(config)
    coverage = convert_state(model.state_dict(), state, str(source))
    provenance = {"converted_from": source.name, "layout": "salmonn", "licence": "Apache-2.0, and that of the parts"}
    checkpoint.save(
        output,
        system="salmonn",
        config=config,
        state=coverage.state,
        parts=parts.folders,
        provenance=provenance,
        borrowed=borrowed(borrowed_names(model.llama, "llama.")),
    )
    return coverage


def _published_like(state: Mapping[str, Tensor], source: Path) -> SalmonnConfig:
    """The published configuration whose projection and LoRA have the shapes of a file's."""
    try:
        width, bridge_width = state["speech_llama_proj.weight"].shape
        ranks = {value.shape[0] for name, value in state.items() if ".lora_A." in name}
        (rank,) = ranks
    except (KeyError, ValueError) as error:
        raise CheckpointError(f"{source} lacks a projection or LoRA of one rank ({error}); it is no SALMONN") from error
    base = published_model("13b" if width == published_model("13b").lm.width else "7b")
    layers = {name.split(".")[4] for name in state if name.startswith("speech_Qformer.bert.encoder.layer.")}
    inner = state.get("speech_Qformer.bert.encoder.layer.0.intermediate_query.dense.bias")
    queries = state.get("speech_query_tokens")
    bridge = replace(
        base.bridge,
        width=bridge_width,
        num_layers=max(1, len(layers)),
        ffn_width=base.bridge.ffn_width if inner is None else inner.shape[0],
        num_queries=1 if queries is None else queries.shape[1],
    )
    return replace(base, bridge=bridge, lora=replace(base.lora, rank=rank))


def refuse_wrong_vicuna(found: CausalLmConfig, where: Path) -> None:
    """Tell the Vicuna versions apart by what their configs say.

    Raises:
        FittedPartMismatch: a language model of a published width that is not the one SALMONN was trained on.
    """
    versions = {"13b": "Vicuna 13B v1.1 (LLaMA-1)", "7b": "Vicuna 7B v1.5 (LLaMA-2)"}
    for size, version in versions.items():
        wanted = published_model(size).lm  # type: ignore[arg-type]
        if found.width != wanted.width:
            continue
        names = ("norm_epsilon", "max_positions", "num_layers", "num_heads")
        other = [name for name in names if getattr(found, name) != getattr(wanted, name)]
        if other:
            said = ", ".join(f"{name} {getattr(found, name)} instead of {getattr(wanted, name)}" for name in other)
            raise FittedPartMismatch(f"SALMONN {size} was trained on {version}; {where} is another one: {said}")


def export_checkpoint(folder: Path, output: Path, layout: str) -> list[str]:
    """Write what a checkpoint of ours has trained as the authors' code loads it.

    Raises:
        CheckpointError: not a checkpoint of this system.
    """
    found = checkpoint.read_of(folder, "salmonn")
    state = checkpoint.load_tensors(found.folder / checkpoint.WEIGHTS_FILE)
    content = {"model": export(state, OFFICIAL)}
    with atomic_path(output) as temporary:
        torch.save(content, temporary)
    return []


def _row(name: str, what: str, file: str, weights: HubSource, lm: str) -> Published:
    return Published(
        name=name,
        system="salmonn",
        what=what,
        licence="Apache-2.0, over its parts' terms",
        origin=f"the authors', as {weights.repository} has it",
        convert=of_file(file, import_checkpoint),
        hub=(weights,),
        needs={"lm": lm, "speech": "whisper-large-v2", "audio": "beats-iter3-plus"},
    )


PUBLISHED = (
    _row(
        "salmonn-7b",
        "answers about speech, sounds and music, 7 B parameters",
        "salmonn_7b_v0.pth",
        hub_source("tsinghua-ee/SALMONN-7B", "main", {"salmonn_7b_v0.pth": 363_000_000}),
        "vicuna-7b-v1.5",
    ),
    _row(
        "salmonn-13b",
        "answers about speech, sounds and music, 13 B parameters",
        "salmonn_v1.pth",
        hub_source("tsinghua-ee/SALMONN", "96bc929f4d6a57ee43cb3d92b482dedc09c79c60", {"salmonn_v1.pth": 400_000_000}),
        "vicuna-13b-v1.1",
    ),
)
