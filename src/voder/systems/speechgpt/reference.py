"""Reference vectors of SpeechGPT: how to run each kind."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from voder.errors import InputError
from voder.fixtures import Case, Runner, json_difference
from voder.nn.causal_lm import CausalLmConfig, build_causal_lm
from voder.nn.lora import LoraSizes, merge_lora, set_lora_factor, with_lora
from voder.systems.speechgpt.convert import adapter_state
from voder.systems.speechgpt.prompt import PREFIX, lay, published_pieces, read_turn
from voder.systems.speechgpt.stages import STAGES
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.text.subwords import encode, read_unchanged
from voder.train.lm_rows import IGNORED, Row, blocks

_BEGIN, _END, _PAD = 1, 2, 0


class _Formats:
    """The authors' lines as ids, with the tokenizer and the vocabulary that a case names.

    Ids are those of the slow tokenizer which the authors pin: blanks beside added tokens are dropped.
    """

    def __init__(self, case: Case) -> None:
        name = str(case.meta["tokenizer"]).split(" ")[0]
        folder = next((up / name for up in case.path.parents if (up / name).is_dir()), Path(name))
        said = case.meta["vocab"]
        self.tokenizer = read_unchanged(folder, said["base"])
        self.vocabulary = SpeechGptVocabulary(said["base"], said["size_ma"] - said["base"] - 2)

    def ids(self, text: str) -> list[int]:
        pieces = published_pieces(text, self.vocabulary)
        return lay(pieces, self.vocabulary, lambda part: encode(self.tokenizer, part))

    def row(self, example: Mapping[str, Any]) -> Row:
        most = example["model_max_length"]
        ids = [_BEGIN, *self.ids(example["prefix"] + example["plain_text"])][:most]
        return Row.behind(ids + [_END] * (len(ids) < most), 1 + len(self.ids(example["prefix"])))

    def text(self, ids: Sequence[int]) -> str:
        said: str = self.tokenizer.decode(list(ids), skip_special_tokens=True)
        return said


def formats(case: Case) -> Mapping[str, Any]:
    """Vocabulary, rows of the three stages with their labels, prompts, and answers taken apart.

    Raises:
        InputError: something differs; says what.
    """
    form = _Formats(case)
    _check_vocabulary(case.meta["vocab"], form.vocabulary)
    first = case.meta["stage1_ma"]
    rows = [[_BEGIN, *form.ids(text)] for text in first["texts"]]
    grouped = blocks(rows, first["block_size"])
    _same(
        "stage1_ma",
        {k: first[k] for k in ("ids", "grouped_input_ids", "grouped_labels")},
        {"ids": rows, "grouped_input_ids": grouped, "grouped_labels": grouped},
    )
    for stage in ("stage2_cm", "stage3_com"):
        found = [form.row(example) for example in case.meta[stage]]
        for number, (example, row) in enumerate(zip(case.meta[stage], found, strict=True)):
            got = {"input_ids": row.ids, "labels": row.labels, "masked_until": row.labels.count(IGNORED)}
            _same(f"{stage}[{number}]", {key: example[key] for key in got}, got)
        batch = case.meta[f"{stage}_batch"]
        _same(f"{stage}_batch", batch, _left_padded(found[: len(batch["input_ids"])]))
    for number, prompt in enumerate(case.meta["inference_prompt"]):
        text = f"{PREFIX}[Human]: {prompt['raw']} <eoh>. [SpeechGPT]: "
        got = {"prompt": text, "ids": [_BEGIN, *form.ids(text)]}
        _same(f"inference_prompt[{number}]", {key: prompt[key] for key in got}, got)
    for number, parsed in enumerate(case.meta["chain_of_modality_parse"]):
        _same(f"chain_of_modality_parse[{number}]", *_parsed(form, parsed))
    sizes = STAGES["chain"]
    lora = case.meta["stage3_com_lora"]
    _same(
        "stage3_com_lora",
        [lora["r"], lora["alpha"], lora["target_modules"], bool(sizes.trained)],
        [8, 16, ["q_proj", "v_proj"], True],
    )
    return {}


def _check_vocabulary(said: Mapping[str, Any], vocabulary: SpeechGptVocabulary) -> None:
    kind = vocabulary.units
    got = {
        "unit_offset": kind.first,
        "unit_last": kind.first + kind.size - 1,
        "size_ma": SpeechGptVocabulary(vocabulary.text_size, kind.size, markers=False).size,
        "size_cm": vocabulary.size,
        "special": {"<sosp>": kind.start, "<eosp>": kind.end, **vocabulary.markers},
    }
    _same("vocab", {key: said[key] for key in got}, got)
    llama, official = SpeechGptVocabulary(32_000, 1000), said["official_llama"]
    _same(
        "vocab.official_llama",
        [official["size_ma"], official["size_cm"], official["<eosp>"], official["<eos>"]],
        [llama.size - 4, llama.size, llama.units.end, llama.markers["<eos>"]],
    )


def _left_padded(rows: Sequence[Row]) -> dict[str, list[list[int]]]:
    longest = -(-max(len(row.ids) for row in rows) // 8) * 8
    gaps = [longest - len(row.ids) for row in rows]
    return {
        "input_ids": [[_PAD] * gap + row.ids for gap, row in zip(gaps, rows, strict=True)],
        "attention_mask": [[0] * gap + [1] * len(row.ids) for gap, row in zip(gaps, rows, strict=True)],
        "labels": [[IGNORED] * gap + row.labels for gap, row in zip(gaps, rows, strict=True)],
    }


def _parsed(form: _Formats, case: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    """The recorded fields and ours, without blanks; the original finds no transcript where nothing is spoken."""
    found = read_turn(form.ids(case["decoded"]), form.vocabulary, form.text)
    spoken, tagged = "[ua]" in found.answer, "[ta]" in found.answer
    units = found.answer.partition("[ua]")[2]
    got = {
        "question": found.question,
        "answer": found.answer,
        "textQuestion": found.transcript if tagged else "",
        "textAnswer": found.text if spoken and tagged else "",
        "unitAnswer": units,
        "units": None if found.units is None else list(found.units),
    }
    wanted = {**case["parsed"], "units": case["units"]}
    bare = {k: "".join(v.split()) if isinstance(v, str) else v for k, v in wanted.items()}
    return bare, {k: "".join(v.split()) if isinstance(v, str) else v for k, v in got.items()}


def _same(what: str, wanted: Any, got: Any) -> None:
    if difference := json_difference(wanted, got, what):
        raise InputError(difference)


@torch.no_grad()
def adapter(case: Case) -> Mapping[str, Tensor]:
    """Logits with the published adapter at several strengths, and a matrix with it merged."""
    args = case.args
    sizes = CausalLmConfig(
        vocabulary_size=args["l"]["v"],
        width=args["l"]["h"],
        ffn_width=args["l"]["i"],
        num_layers=args["l"]["n"],
        num_heads=args["l"]["heads"],
    )
    base = build_causal_lm(sizes)
    base.load_state_dict(case.weights_under("base."))
    lora = LoraSizes(rank=args["r"], alpha=args["alpha"], dropout=0.0)
    model = with_lora(base, lora, args["targets"]).eval()
    coverage = adapter_state(case.weights_under("delta."), model, case.name)
    model.load_state_dict({**model.state_dict(), **coverage.state})
    out: dict[str, Tensor] = {}
    for name, factor in (("base", 0.0), ("half", 0.5), ("full", 1.0)):
        set_lora_factor(model, factor)
        out[f"logits_{name}"] = model(input_ids=case.inputs["ids"]).logits
    out["merged_first_q_proj"] = merge_lora(model).model.layers[0].self_attn.q_proj.weight
    return out


KINDS: Mapping[str, Runner] = {"speechgpt/formats": formats, "lora/speechgpt_adapter": adapter}
