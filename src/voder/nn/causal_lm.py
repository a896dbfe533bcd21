"""Any Hugging Face causal language model as a part: built from a config of ours, grown, saved, decoded.

The networks are transformers' own (Llama, Qwen2, GPT-2, OPT), so their checkpoints are loaded and written unchanged.
LoRA is in `voder.nn.lora`. Building works under `torch.device("meta")`. Transformers is imported when used.
"""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from voder.errors import CheckpointError, ConfigError
from voder.files import folder_written_atomically
from voder.nn.lora import lora_layers
from voder.shapes import Embeddings, Tokens

Family = Literal["llama", "qwen2", "gpt2", "opt"]
NextLogits = Float[Tensor, "batch vocabulary"]


@dataclass(frozen=True, kw_only=True)
class CausalLmConfig:
    """Sizes and ids of a language model."""

    family: Family = "llama"
    """Whose network it is."""
    vocabulary_size: int = 32_000
    """Ids."""
    width: int = 4096
    """Channels."""
    ffn_width: int = 11_008
    """Channels inside the feed-forward part."""
    num_layers: int = 32
    """Blocks."""
    num_heads: int = 32
    """Attention heads."""
    num_kv_heads: int | None = None
    """Heads of keys and values, each shared by several queries (llama, qwen2); as many as queries if not given."""
    max_positions: int = 2048
    """Longest sequence (gpt2 and opt have learned positions)."""
    norm_epsilon: float = 1e-6
    """Added to variances in the norms (opt has 1e-5 built in)."""
    rope_theta: float = 10_000.0
    """Base of the rotary positions (llama, qwen2)."""
    tie_embeddings: bool = False
    """The output layer is the embedding table; it is saved once."""
    dropout: float = 0.0
    """In training: on attention weights, and in gpt2 and opt on the residual branches."""
    bos_id: int | None = 1
    """Begins a sequence."""
    eos_id: int | None = 2
    """Ends one."""
    pad_id: int | None = None
    """Fills up a batch."""

    def __post_init__(self) -> None:
        if self.width % self.num_heads or self.num_heads % self.kv_heads:
            raise ValueError(
                f"width {self.width} must be a multiple of num_heads {self.num_heads}, "
                f"and that of num_kv_heads {self.kv_heads}"
            )
        for name in ("bos_id", "eos_id", "pad_id"):
            value = getattr(self, name)
            if value is not None and not 0 <= value < self.vocabulary_size:
                raise ValueError(f"{name} {value} is not among the {self.vocabulary_size} ids of the vocabulary")
        if self.family in ("gpt2", "opt") and self.kv_heads != self.num_heads:
            raise ValueError(f"{self.family} has as many heads of keys as of queries; leave num_kv_heads out")

    @property
    def kv_heads(self) -> int:
        """Heads of keys and values."""
        return self.num_kv_heads or self.num_heads


def _transformers() -> Any:
    """The library, which takes seconds to import."""
    import transformers

    return transformers


def build_causal_lm(config: CausalLmConfig) -> Any:
    """A fresh transformers model (`LlamaForCausalLM` and so on); of a tied head the state dict holds nothing."""
    names = {"llama": "Llama", "qwen2": "Qwen2", "gpt2": "GPT2", "opt": "OPT"}
    head = "GPT2LMHeadModel" if config.family == "gpt2" else f"{names[config.family]}ForCausalLM"
    model = getattr(_transformers(), head)(transformers_config(config))
    _save_tied_head_once(model)
    return model


def transformers_config(config: CausalLmConfig) -> Any:
    """The same settings as transformers writes them."""
    transformers = _transformers()
    shared: dict[str, Any] = {
        "vocab_size": config.vocabulary_size,
        "tie_word_embeddings": config.tie_embeddings,
        "bos_token_id": config.bos_id,
        "eos_token_id": config.eos_id,
        "pad_token_id": config.pad_id,
    }
    if config.family == "gpt2":
        return transformers.GPT2Config(
            n_positions=config.max_positions,
            n_embd=config.width,
            n_inner=config.ffn_width,
            n_layer=config.num_layers,
            n_head=config.num_heads,
            layer_norm_epsilon=config.norm_epsilon,
            **{f"{place}_pdrop": config.dropout for place in ("resid", "embd", "attn")},
            **shared,
        )
    shared |= {
        "hidden_size": config.width,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "max_position_embeddings": config.max_positions,
        "attention_dropout": config.dropout,
    }
    if config.family == "opt":
        return transformers.OPTConfig(
            ffn_dim=config.ffn_width, word_embed_proj_dim=config.width, dropout=config.dropout, **shared
        )
    kind = transformers.LlamaConfig if config.family == "llama" else transformers.Qwen2Config
    return kind(
        intermediate_size=config.ffn_width,
        num_key_value_heads=config.kv_heads,
        rms_norm_eps=config.norm_epsilon,
        rope_parameters={"rope_type": "default", "rope_theta": config.rope_theta},
        **shared,
    )


_SIZES = {
    "gpt2": ("n_embd", "n_inner", "n_layer", "n_head", "n_positions", "layer_norm_epsilon", "attn_pdrop"),
    "opt": (
        "hidden_size",
        "ffn_dim",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "layer_norm_epsilon",
        "dropout",
    ),
    "llama": (
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
        "max_position_embeddings",
        "rms_norm_eps",
        "attention_dropout",
    ),
}
_SIZES["qwen2"] = _SIZES["llama"]
_SAYS_NOTHING = ("architectures", "dtype", "transformers_version", "initializer_range", "init_std", "use_cache")
"""Entries of a transformers config that change no output."""


def config_from_transformers(theirs: Any, where: str) -> CausalLmConfig:
    """Translate a transformers config.

    Raises:
        ConfigError: another network, or a setting that our config cannot say (scaled positions, other activations).
    """
    family = theirs.model_type
    if family not in get_args(Family):
        raise ConfigError(f"{where} is a {family}; language models of {', '.join(get_args(Family))} can be had")
    sizes: list[Any] = [getattr(theirs, name, None) for name in _SIZES[family]]
    width, ffn_width, num_layers, num_heads, max_positions, epsilon, dropout = sizes
    rope = getattr(theirs, "rope_parameters", None) or {}
    eos = theirs.eos_token_id
    config = CausalLmConfig(
        family=family,
        vocabulary_size=theirs.vocab_size,
        width=width,
        ffn_width=4 * width if ffn_width is None else ffn_width,
        num_layers=num_layers,
        num_heads=num_heads,
        num_kv_heads=getattr(theirs, "num_key_value_heads", None),
        max_positions=max_positions,
        norm_epsilon=1e-5 if epsilon is None else epsilon,
        rope_theta=rope.get("rope_theta", 10_000.0),
        tie_embeddings=theirs.tie_word_embeddings,
        dropout=dropout,
        bos_id=theirs.bos_token_id,
        eos_id=eos[0] if isinstance(eos, list) else eos,
        pad_id=theirs.pad_token_id,
    )
    _refuse_what_is_lost(theirs, transformers_config(config), where)
    return config


def _refuse_what_is_lost(theirs: Any, ours: Any, where: str) -> None:
    said, known = theirs.to_dict(), ours.to_dict()
    same = (*_SAYS_NOTHING, "n_inner", "eos_token_id")  # may be written in two ways
    lost = [
        f"{name}={said.get(name)!r}"
        for name in known
        if not name.startswith("_") and name not in same and said.get(name) != known[name]
    ]
    if lost:
        raise ConfigError(f"{where} asks for {', '.join(lost)}, which voder's language models do not have")


def read_plain(folder: Path) -> tuple[Any, CausalLmConfig]:
    """Load a plain Hugging Face folder (config.json and weights) in float32, every weight of it.

    Raises:
        CheckpointError: missing, damaged, or with weights that are missing or left over.
        ConfigError: a network that is not known.
    """
    transformers = _transformers()
    if not (folder / "config.json").is_file():
        raise CheckpointError(f"{folder} is no Hugging Face folder: it has no config.json")
    try:
        found = transformers.AutoConfig.from_pretrained(folder, local_files_only=True)
        config = config_from_transformers(found, str(folder))
        loaded, report = transformers.AutoModelForCausalLM.from_pretrained(
            folder, local_files_only=True, output_loading_info=True, dtype=torch.float32
        )
    except ConfigError:
        raise
    except Exception as error:  # transformers raises nearly anything on damaged files
        raise CheckpointError(f"{folder} cannot be read ({type(error).__name__}: {error})") from error
    strange = {label: sorted(report[label]) for label in ("missing_keys", "unexpected_keys") if report[label]}
    if strange:
        raise CheckpointError(f"the weights in {folder} do not fit its config.json: {strange}")
    _save_tied_head_once(loaded)
    return loaded, config


def _save_tied_head_once(model: Any) -> None:
    """Leave a tied head out of the state dict, and fill it in on loading."""
    if not model.config.tie_word_embeddings:
        return
    names = {id(module): name for name, module in model.named_modules()}
    table, head = (
        f"{names[id(part)]}.weight" for part in (model.get_input_embeddings(), model.get_output_embeddings())
    )

    def drop(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        state.pop(prefix + head, None)

    def fill(module: nn.Module, state: dict[str, Any], prefix: str, *_: Any) -> None:
        if prefix + table in state:
            state.setdefault(prefix + head, state[prefix + table])

    model.register_state_dict_post_hook(drop)
    model.register_load_state_dict_pre_hook(fill)


@torch.no_grad()
def expand_vocabulary(model: Any, size: int) -> None:
    """Grow (never shrink) to `size` ids; a new row is the mean of the old ones, in the head too; tied heads stay tied.

    Raises ValueError below the present size.
    """
    old = model.get_input_embeddings().weight.shape[0]
    if size < old:
        raise ValueError(f"the vocabulary has {old} ids and cannot shrink to {size}")
    model.resize_token_embeddings(size, mean_resizing=False)
    tables = {id(part.weight): part for part in (model.get_input_embeddings(), model.get_output_embeddings())}
    for part in tables.values():
        part.weight[old:] = part.weight[:old].mean(dim=0, keepdim=True)
        if getattr(part, "bias", None) is not None:
            part.bias[old:] = part.bias[:old].mean()


def save_plain(model: Any, tokenizer: Any, folder: Path) -> None:
    """Write a folder that transformers loads unchanged (`AutoModelForCausalLM`, `AutoTokenizer` if there is one).

    Raises ValueError for a model with LoRA, which has no such folder: merge it first.
    """
    if lora_layers(model):
        raise ValueError("a language model with LoRA is not plain: call merge_lora before saving it")
    with folder_written_atomically(folder) as temporary:
        state = dict(model.state_dict())
        model.save_pretrained(temporary, state_dict=state)
        if tokenizer is not None:
            tokenizer.save_pretrained(temporary)


class CausalLmSession:
    """What the decoding engine needs of a language model: a batch that was read, and its cache.

    Padding may lie on the left, on the right or in the middle of what is read: a position is the number of valid ones
    before it, and a row goes on behind its last valid one.
    """

    def __init__(self, model: Any, embeddings: Embeddings, mask: Int[Tensor, "batch position"]) -> None:
        """`mask` is 1 where a position counts; every row has one."""
        self.model, self._embeddings, self._mask = model, embeddings, mask.long()
        self._next = self._mask.sum(dim=1)
        self._cache: Any = None

    @classmethod
    def of_ids(cls, model: Any, prompts: Sequence[Sequence[int]]) -> "CausalLmSession":
        """A session of prompts of any length from 1; none sees the padding."""
        table = model.get_input_embeddings()
        device = table.weight.device
        ids = torch.zeros(len(prompts), max(map(len, prompts)), dtype=torch.long, device=device)
        mask = torch.zeros_like(ids)
        for row, prompt in enumerate(prompts):
            ids[row, : len(prompt)] = torch.tensor(prompt, device=device)
            mask[row, : len(prompt)] = 1
        return cls(model, table(ids), mask)

    @torch.no_grad()
    def start(self) -> NextLogits:
        """Read what there is."""
        positions = (self._mask.cumsum(dim=1) - 1).clamp(min=0)
        output = self.model(
            inputs_embeds=self._embeddings, attention_mask=self._mask, position_ids=positions, use_cache=True
        )
        self._cache = output.past_key_values
        places = torch.arange(self._mask.shape[1], device=self._mask.device)
        last = torch.where(self._mask > 0, places, -1).amax(dim=1)
        logits: Tensor = output.logits[torch.arange(len(last), device=last.device), last]
        return logits

    @torch.no_grad()
    def step(self, ids: Int[Tensor, " batch"]) -> NextLogits:
        """Append one id per row."""
        self._mask = torch.cat((self._mask, torch.ones_like(self._mask[:, :1])), dim=1)
        output = self.model(
            input_ids=ids[:, None],
            attention_mask=self._mask,
            position_ids=self._next[:, None],
            past_key_values=self._cache,
            use_cache=True,
        )
        self._next = self._next + 1
        logits: Tensor = output.logits[:, -1]
        return logits

    def select(self, rows: Int[Tensor, " row"]) -> None:
        """Keep these rows, in this order."""
        self._mask, self._next = self._mask[rows], self._next[rows]
        self._cache.batch_select_indices(rows)


class LanguageModel(nn.Module, ABC):
    """The role of a language model with its tokenizer."""

    network: Any
    """The transformers model."""
    tokenizer: Any
    """The transformers tokenizer."""
    config: CausalLmConfig

    @property
    @abstractmethod
    def end_ids(self) -> tuple[int, ...]:
        """Ids that end an answer: the end of text, and of a turn where there is one."""

    @abstractmethod
    def chat_ids(self, messages: Sequence[dict[str, str]]) -> list[int]:
        """Ids of a conversation (`role`, `content`) by the model's own template, ready for the assistant's turn."""

    @abstractmethod
    def generate_batch(self, prompts: Sequence[Sequence[int]], *, seed: int = 0, **options: Any) -> list[Any]:
        """What follows each row of ids, each as if it were alone."""

    @torch.no_grad()
    def logits(self, ids: Tokens) -> Float[Tensor, "batch position vocabulary"]:
        """Logits behind every position of rows without padding."""
        found: Tensor = self.network(input_ids=ids).logits
        return found
