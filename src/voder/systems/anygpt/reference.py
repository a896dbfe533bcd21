"""Reference vectors of AnyGPT and its image tokenizer: how to run each kind."""

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn

from voder.errors import InputError
from voder.fixtures import Case, Runner, json_difference, load_official
from voder.interop import RenameTable, Rule, rules
from voder.sequence.spans import Exchange
from voder.systems.anygpt import seed_convert
from voder.systems.anygpt.infer import DECODING
from voder.systems.anygpt.prompt import (
    SYSTEM,
    answers_only,
    conversation,
    pair,
    pair_question,
    published_pieces,
)
from voder.systems.anygpt.seed import SeedTokenizer, VectorQuantizer, VitBlock
from voder.systems.anygpt.vocabulary import SPELLING, AnyGptVocabulary, ModalitySizes, read_stretch
from voder.text.sentencepiece_model import read_sentencepiece
from voder.text.subwords import encode
from voder.train.lm_rows import Row, pack


@torch.no_grad()
def seed_vq_block(case: Case) -> Mapping[str, Tensor]:
    """The quantizer with its loss, and one block."""
    args = case.args
    width = args["dim"]
    ffn_width = case.weights["block.mlp.fc1.weight"].shape[0]
    model = nn.ModuleDict(
        {
            "quantize": VectorQuantizer(args["n"], args["e"]),
            "block": nn.ModuleList([VitBlock(width, args["heads"], ffn_width)]),
        }
    )
    weights = {name.replace("block.", "blocks.0.", 1): value for name, value in case.weights.items()}
    table = RenameTable(
        *rules("blocks.{i}.", "block.{i}.", seed_convert.BLOCK),
        Rule("quantize.embedding.{w}", "quantize.vectors.{w}"),
    )
    load_official(model, weights, table, case)
    quantizer = model["quantize"]
    assert isinstance(quantizer, VectorQuantizer)
    found, codes, loss = quantizer(case.inputs["z"])
    entries = quantizer.vectors(codes.flatten())
    (layer,) = model["block"].children()
    block = layer(case.inputs["x"])
    return {"zq": found, "loss": loss, "ids": codes.flatten(), "block": block, "entries": entries}


@torch.no_grad()
def seed_tokenizer(case: Case) -> Mapping[str, Tensor]:
    """An image to its codes, step by step from recorded values, and codes to the generator's embedding."""
    config = seed_convert.official_config(case.args["c"])
    model = SeedTokenizer(config)
    load_official(model, case.weights, seed_convert.TABLE, case)
    seen = model.look(case.inputs["image"])
    asked = model.ask(case.outputs["vit"])
    down = model.encode_layer(case.outputs["qformer"])
    codes = model.quantizer.nearest(case.outputs["pre_vq"])
    whole = model.quantizer.nearest(model.encode_layer(model.ask(seen)))
    return {
        "vit": seen,
        "qformer": asked,
        "pre_vq": down,
        "ids": torch.where(whole == codes, codes, -1),  # the whole chain must give them too
        "query_up": model.decode_layer(model.quantizer.vectors(codes)),
        "image_embedding": model.decode_images(codes),
    }


_BEGIN, _END = 1, 2


def formats(case: Case) -> Mapping[str, Any]:
    """Vocabulary, stretches, templates, rows of both stages with their labels, packs, prompts, decoding.

    Ids are those of the slow tokenizer that the authors pin: blanks beside added tokens are kept. Of the conversations
    only the template that is used when the model works has labels that count; of the other the prompt does.

    Raises:
        InputError: something differs; says what.
    """
    meta = case.meta
    _check_vocabulary(meta)
    _check_stretches(meta)
    for number, said in enumerate(meta["templates"]):
        _same(f"templates[{number}]", said["result"], _template(said))
    folder = next(up / "common" for up in case.path.parents if (up / "common").is_dir())
    tokenizer = read_sentencepiece(folder / "tiny_llama_tokenizer" / "tokenizer.model")
    _check_rows(meta, lambda text: encode(tokenizer, text))
    for number, packed in enumerate(meta["packing_stage1"]):
        rows = [Row(ids=ids, labels=ids) for ids in packed["input_ids"]]
        wanted = [ids for ids in packed["packed"] if ids]  # the original begins with an empty pack at times
        _same(f"packing_stage1[{number}]", wanted, [row.ids for row in pack(rows, packed["block_size"])])
    for number, prompt in enumerate(meta["conversation_prompts"]):
        _same(f"conversation_prompts[{number}]", prompt["prompt"], _prompt(prompt))
    for name in ("first", "last"):
        for number, found in enumerate(meta[f"extract_{name}"]):
            got = _first(found) if name == "first" else _last(found)
            _same(f"extract_{name}[{number}]", found["result"], got)
    for kind, wanted in meta["generation"].items():
        _same(f"generation.{kind}", *_decoding(kind, wanted))
    return {}


def _check_vocabulary(meta: Mapping[str, Any]) -> None:
    said = meta["vocab_layout"]
    whole = AnyGptVocabulary.of_size(said["total"])
    silent = AnyGptVocabulary.of_size(said["total_without_audio"])
    _same("total_without_audio", said["total_without_audio"], silent.size)
    special = [{"token": token, "id": id_} for token, id_ in whole.markers.items()]
    _same("vocab_layout.special", said["special"], special)
    got = {
        name: {
            "prefix": SPELLING[name][0],
            "first": kind.first,
            "last": kind.first + kind.size - 1,
            "size": kind.size,
            "start_token": SPELLING[name][1],
            "start_id": kind.start,
            "end_token": SPELLING[name][2],
            "end_id": kind.end,
        }
        for name, kind in whole.layout.kinds.items()
    }
    _same("vocab_layout.modalities", said["modalities"], got)
    chat = AnyGptVocabulary(32_000, whole.sizes)
    _same("total_chat_extra", said["total_chat_extra"], list(chat.tokens[-2:]))
    points = {name: [hex(ord(point)) for point in spelling[0]] for name, spelling in SPELLING.items()}
    _same("prefix_codepoints", meta["prefix_codepoints"], points)


def _check_stretches(meta: Mapping[str, Any]) -> None:
    vocabulary = AnyGptVocabulary.of_size(meta["vocab_layout"]["total"])
    for name, kind in (("music_interleave", "music"), ("audio_interleave", "audio")):
        span = vocabulary.layout[kind]
        _same(f"{name}.codebook_size", meta[name]["codebook_size"], span.level_size)
        for number, said in enumerate(meta[name]["cases"]):
            flat = span.flatten(torch.tensor(said["codes"]).numpy()).tolist()
            _same(f"{name}[{number}]", said["string"], vocabulary.spelled(kind, flat))
            _same(f"{name}[{number}].flat_ids", said.get("flat_ids", flat), flat)
            _same(f"{name}[{number}] back", said["codes"], span.unflatten(flat).tolist())
    for number, said in enumerate(meta["music_deinterleave"]["cases"]):
        got = vocabulary.layout["music"].unflatten(said["flat_ids"]).tolist()
        _same(f"music_deinterleave[{number}]", said["codes"], [[got]])
    for number, said in enumerate(meta["modality_strings"]):
        text = vocabulary.spelled(said["modality"], said["tokens"])
        _same(f"modality_strings[{number}]", said["string"], text)
        _same(f"modality_strings[{number}] back", [said["modality"], said["tokens"]], _listed(read_stretch(text)))


def _listed(found: tuple[str, tuple[int, ...]] | None) -> Any:
    return None if found is None else [found[0], list(found[1])]


def _template(said: Mapping[str, Any]) -> str:
    """A pair as text; the length of an image is free there."""
    vocabulary = AnyGptVocabulary(32_000, ModalitySizes())
    kind, codes = read_stretch(said["modality_str"]) or ("", ()) if "modality_str" in said else (said["modality"], ())
    reads = said["direction"].endswith("x2t")
    question = pair_question(kind, said["instruction"], codes if reads else said["text"])
    answer: list[Any] = [said["text"]] if reads and "text" in said else [(kind, codes)]
    return _written(pair(vocabulary, question, None if said["direction"].startswith("infer") else answer), vocabulary)


def _written(pieces: Any, vocabulary: AnyGptVocabulary) -> str:
    text = ""
    for piece in pieces:
        if isinstance(piece, tuple):
            text += vocabulary.spelled(*piece)
        else:
            text += piece if isinstance(piece, str) else vocabulary.tokens[piece - vocabulary.text_size]
    return text


def _check_rows(meta: Mapping[str, Any], encoded: Any) -> None:
    said = meta["stage1_tiny_vocab"]
    sizes = {**dict.fromkeys(SPELLING, 0), **said["sizes"]}
    first = AnyGptVocabulary(said["base"], ModalitySizes(**sizes), chat="none")
    _same("stage1_tiny_vocab.total", said["total"], first.size)
    marks = {k.start: SPELLING[n][1] for n, k in first.layout.kinds.items()}
    marks |= {k.end: SPELLING[n][2] for n, k in first.layout.kinds.items()}
    _same("stage1_tiny_vocab.special", said["special"], {**first.markers, **{name: id_ for id_, name in marks.items()}})
    for number, row in enumerate(meta["stage1_tokenized"]):
        ids = [_BEGIN, *first.layout.lay(published_pieces(row["text"], first), encoded), _END]
        got = {"input_ids": ids, "labels": ids}
        _same(f"stage1_tokenized[{number}]", {key: row[key] for key in got}, got)
    second = AnyGptVocabulary(said["base"], ModalitySizes(**sizes), chat="first")
    for name, system, assistant, end in (
        ("stage2_sft", SYSTEM.replace("MMGPT", "AnyGPT"), "[AnyGPT]", "<eom>"),
        ("stage2_sft_mmgpt", SYSTEM, "[MMGPT]", "<eos>"),
    ):
        for number, row in enumerate(meta[name]):
            text = _conversation(row["conversation"], system, assistant, end)
            ids = [_BEGIN, *second.layout.lay(published_pieces(row["prompt"], second), encoded), _END]
            _same(f"{name}[{number}]", [row["prompt"], row["input_ids"]], [text, ids])
            if not row["official_warning"]:
                _same(f"{name}[{number}].labels", row["labels"], answers_only(ids, second, encoded).labels)


def _conversation(messages: Any, system: str, assistant: str, end: str) -> str:
    """A conversation as text, in either of the authors' templates."""
    vocabulary = AnyGptVocabulary(32_000, ModalitySizes(), chat="first")
    said = [message["message"] for message in messages]
    exchanges: list[Exchange] = [([asked], [told]) for asked, told in zip(said[::2], said[1::2], strict=True)]
    text = _written(conversation(vocabulary, exchanges, system), vocabulary)
    return text.replace("[MMGPT]", assistant).replace("<eos>", end)


def _prompt(said: Mapping[str, Any]) -> str:
    """The recorded prompts all go on from the same three turns."""
    vocabulary = AnyGptVocabulary(32_000, ModalitySizes(), chat="first")
    name = said["template"]
    exchanges: list[Exchange] = [(["Hello!"], ["Hi!"]), (["How are you?"], None)]
    text = _written(conversation(vocabulary, exchanges, SYSTEM.replace("MMGPT", name)), vocabulary)
    text = text.replace("[MMGPT]", f"[{name}]").replace("<eos>", "<eom>" if name == "AnyGPT" else "<eos>")
    forced = [kind for kind in SPELLING if said["options"].get(f"force_{kind}_generation")]
    begun = [said["options"][key] for key in ("force_res_prefix",) if key in said["options"]]
    return " ".join([text, *begun, *(SPELLING[kind][1] for kind in forced)])


def _first(said: Mapping[str, Any]) -> str:
    before, found, after = said["text"].partition(said["tag1"])
    rest: str = after if found else before
    return rest.partition(said["tag2"])[0] if found else rest


def _last(said: Mapping[str, Any]) -> str | None:
    vocabulary = AnyGptVocabulary(32_000, ModalitySizes())
    ids = vocabulary.layout.lay(published_pieces(said["text"], vocabulary), lambda text: [1] * len(text))
    kind = next(name for name, spelling in SPELLING.items() if spelling[1] == said["tag1"])
    whole = [each.ids for each in vocabulary.layout.segments(ids) if each.kind == kind and each.closed]
    if not whole:
        return None
    _, start, end = SPELLING[kind]
    return vocabulary.spelled(kind, whole[-1]).removeprefix(start).removesuffix(end)


def _decoding(kind: str, wanted: Mapping[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
    how = DECODING[kind]
    got = {
        "temperature": how.temperature,
        "top_p": how.top_p,
        "top_k": how.top_k,
        "do_sample": not how.greedy,
        "max_new_tokens": how.max_new,
        "min_new_tokens": how.min_new,
        "repetition_penalty": how.repetition_penalty,
    }
    known = {name: value for name, value in wanted.items() if name in got}
    numbers = {
        name: float(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        for name, value in known.items()
    }
    return numbers, {name: float(got[name]) if not isinstance(got[name], bool) else got[name] for name in known}


def _same(what: str, wanted: Any, got: Any) -> None:
    if difference := json_difference(wanted, got, what):
        raise InputError(difference)


KINDS: Mapping[str, Runner] = {
    "anygpt/formats": formats,
    "anygpt/seed_vq_block": seed_vq_block,
    "anygpt/seed_tokenizer": seed_tokenizer,
}
