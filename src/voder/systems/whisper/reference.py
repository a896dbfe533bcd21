"""How to run the reference vectors of Whisper: recorded behaviour of openai/whisper and of transformers' extractor."""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from voder.fixtures import Case, Runner, load_official
from voder.systems.whisper import layouts, writers
from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.convert import official_config
from voder.systems.whisper.decoding import Answer, Question, answer, compression_ratio, language_chances
from voder.systems.whisper.features import LogMel, fit_window
from voder.systems.whisper.longform import Dictation, dictate
from voder.systems.whisper.model import AudioMemory, WhisperModel
from voder.systems.whisper.normalize import normalize_text
from voder.systems.whisper.timing import median_filter, warp
from voder.systems.whisper.tokenizer import WhisperTokenizer

Outputs = dict[str, Any]
_WINDOW = 480_000


def _joined(case: Case) -> Tensor:
    """The long recording: one piece at many gains."""
    piece = case.inputs["piece"].float() / 32768
    return (case.inputs["gains"].float()[:, None] * piece[None]).flatten()[None]


@torch.no_grad()
def log_mel(case: Case) -> Outputs:
    """Filters, plain log-mels, and those with a window of zeros behind."""
    makers = {n: LogMel(n) for n in case.args["n_mels"]}
    out: Outputs = {f"filters{n}": maker.filters for n, maker in makers.items()}
    for name, x in case.inputs.items():
        for n, maker in makers.items():
            out[f"mel{n}_{name}"] = maker(x[None])[0]
        padded = makers[80](x[None], padding=case.args["padding"])[0]
        out |= {f"padhead_{name}": padded[:, :40], f"padtail_{name}": padded[:, -3:]}
    return out


@torch.no_grad()
def hf_feature_extractor(case: Case) -> Outputs:
    """The loudest value of a window against that of a file."""
    maker, audio = LogMel(case.args["feature_size"]), _joined(case)
    whole = maker(audio, padding=_WINDOW)[0, :, : _WINDOW // 160]
    chunk = maker(audio[:, :_WINDOW])[0]
    out: Outputs = {"hf_head": chunk[:, :100], "hf_tail": chunk[:, 2900:3000], "whisper_chunk_head": chunk[:, :100]}
    out |= {"whisper_head": whole[:, :100], "whisper_tail": whole[:, 2900:3000]}
    # ours is one implementation of both, so the second figure, their rounding, is zero here
    out["maxdiff"] = torch.stack([(chunk - whole).abs().max(), torch.tensor(0.0)])
    return out


def _listen(spec: Mapping[str, Any]) -> ListenConfig:
    """Translate decoding options of the original."""
    names: dict[str, tuple[str, Callable[[Any], Any]]] = {
        "without_timestamps": ("timestamps", lambda v: not v),
        "max_initial_timestamp": ("max_initial_timestamp_s", float),
        "suppress_tokens": ("suppress_tokens", tuple),
        "clip_timestamps": ("clip_timestamps_s", tuple),
        "temperature": ("temperatures", lambda v: (v,)),
    }
    values: dict[str, Any] = {}
    for name, value in spec.items():
        if name in names:
            ours, translate = names[name]
            values[ours] = translate(value)
        elif name not in ("name", "prompt", "prefix"):
            values[name] = value
    return replace(ListenConfig(temperatures=(0.0,)), **values)


def _decoded(found: Answer) -> dict[str, Any]:
    return {
        "language": found.language,
        "tokens": list(found.ids),
        "text": found.text,
        "avg_logprob": found.mean_log_probability,
        "no_speech_prob": found.no_speech,
        "temperature": found.temperature,
        "compression_ratio": found.compression_ratio,
    }


def _decode_cases(model: WhisperModel, memory: AudioMemory, states: Tensor, case: Case) -> dict[str, Any]:
    size, out = model.config.vocabulary_size, {}
    plain = WhisperTokenizer(size)
    row = torch.tensor([0])
    for spec in case.meta["decode"]:
        language = spec.get("language")
        if language is None:
            language = plain.codes[int(language_chances(model, states[:1], plain).argmax())]
        tokenizer = WhisperTokenizer(size, language=language, task=spec.get("task"))
        question = Question(
            tokenizer=tokenizer, previous=tuple(spec.get("prompt", ())), prefix=tuple(spec.get("prefix", ()))
        )
        found = answer(model, memory.copy(row), [question], _listen(spec), 0.0)[0]
        out[spec["name"]] = _decoded(found)
    both = [Question(tokenizer=WhisperTokenizer(size, language="en"))] * len(states)
    together = answer(model, memory, both, ListenConfig(language="en", sample_len=20), 0.0)
    return {**out, "batch2_greedy": [_decoded(found) for found in together]}


def _transcribed(model: WhisperModel, audio: Tensor, spec: Mapping[str, Any]) -> dict[str, Any]:
    config = model.config
    mel = model.log_mel(audio, padding=config.window_samples)
    size, frames = config.vocabulary_size, config.window_frames
    dictation = Dictation(mel, _listen(spec), size, frames, config.num_text_positions)
    dictate(model, [dictation])
    segments = []
    for number, s in enumerate(dictation.segments):
        segment = {"id": number, "seek": s.window_frame, "start": s.start_s, "end": s.end_s, "text": s.text}
        segment |= {"tokens": list(s.ids), "temperature": s.temperature, "avg_logprob": s.mean_log_probability}
        segment |= {"compression_ratio": s.compression_ratio, "no_speech_prob": s.no_speech}
        segments.append(segment if s.words is None else {**segment, "words": list(s.words)})
    assert dictation.tokenizer is not None
    return {"text": dictation.text, "segments": segments, "language": dictation.tokenizer.language or "en"}


@torch.no_grad()
def whole_model(case: Case) -> Outputs:
    """Encoder, logits, language, decoding with every rule, and long recordings."""
    model = WhisperModel(official_config(case.args))
    load_official(model, case.weights, layouts.OPENAI, case)
    audio, size = _joined(case), case.args["n_vocab"]
    windows = [audio[:, start : start + _WINDOW] for start in (0, _WINDOW)]
    states = model.encoder(torch.cat([fit_window(model.log_mel(w), 3000) for w in windows]))
    head, tail = case.outputs["encoder_head"].shape[1], case.outputs["encoder_tail"].shape[1]
    logits = model.decoder(case.inputs["tokens"], states)
    top = logits.topk(case.outputs["logits_top5"].shape[-1])
    out: Outputs = {
        "encoder_head": states[:, :head],
        "encoder_tail": states[:, -tail:],
        "encoder_mean": states.mean(dim=1),
        "logits_first400": logits[..., :400],
        "logits_specials": logits[..., 50_255 : 50_255 + case.outputs["logits_specials"].shape[-1]],
        "logits_last50": logits[..., -50:],
        "logits_top5": top.values,
        "logits_top5_ids": top.indices,
        "logits_lse": logits.logsumexp(dim=-1),
    }
    if model.config.multilingual:
        tokenizer = WhisperTokenizer(size)
        chances = language_chances(model, states, tokenizer)
        ids = torch.tensor(tokenizer.language_ids)
        out |= {"lang_probs": chances, "lang_token": ids[chances.argmax(dim=-1)], "languages": list(tokenizer.codes)}
    out["decode"] = _decode_cases(model, model.decoder.remember(states), states, case)
    out["transcribe"] = {s["name"]: _transcribed(model, audio, s) for s in case.meta["transcribe"]}
    return out


def tokenizer(case: Case) -> Outputs:
    """Ids, words and special tokens of the three vocabularies; language and task are told from the recorded prompt."""
    texts = case.meta["in_json"]["texts"]
    return {name: _tokenizer_facts(wanted, texts) for name, wanted in case.meta["out_json"].items()}


def _tokenizer_facts(wanted: Mapping[str, Any], texts: list[str]) -> dict[str, Any]:
    size, prompt = wanted["n_vocab"], wanted["sot_sequence"]
    t = WhisperTokenizer(size)
    if len(prompt) == 3:
        language = t.codes[t.language_ids.index(prompt[1])]
        t = WhisperTokenizer(size, language=language, task="translate" if prompt[2] == t.translate else "transcribe")
    marks = [t.timestamp_begin, *t.encode(" hi"), t.timestamp_begin + 77, t.timestamp_begin + 1500]
    words = [t.split_words([*t.encode(text), t.eot]) for text in texts[: len(wanted["words"])]]
    return {
        "eot": t.eot,
        "sot": t.sot,
        "translate": t.translate,
        "transcribe": t.transcribe,
        "sot_lm": t.sot_lm,
        "sot_prev": t.sot_prev,
        "no_speech": t.no_speech,
        "no_timestamps": t.no_timestamps,
        "timestamp_begin": t.timestamp_begin,
        "sot_sequence": list(t.prompt),
        "sot_sequence_including_notimestamps": [*t.prompt, t.no_timestamps],
        "non_speech_tokens": list(t.unspoken_ids),
        "all_language_tokens": list(t.language_ids),
        "all_language_codes": list(t.codes),
        "n_vocab": t.vocabulary_size,
        "encode": [t.encode(text) for text in texts],
        "with_timestamps": t.decode_with_timestamps(marks),
        "words": [list(pair) for pair in words],
    }


def timing(case: Case) -> Outputs:
    """Warped paths and median filters; the width is in the signal's name."""
    out: Outputs = {}
    for name, x in case.inputs.items():
        if name.startswith("cost"):
            out[f"path{name.removeprefix('cost')}"] = torch.from_numpy(warp(x.numpy()))
        else:
            out[f"med{name.removeprefix('signal')}"] = median_filter(x, int(name.rpartition("_w")[2]))
    return out


def written(case: Case) -> Outputs:
    """Whole files, and times."""
    record = case.meta["in_json"]["result"]
    out: Outputs = {format_: writers.write_transcript(record, format_) for format_ in writers.FORMATS}
    times = [row[0] for row in case.meta["out_json"]["format_timestamp"]]
    out["format_timestamp"] = [
        [t, writers.format_timestamp(t), writers.format_timestamp(t, hours=True, decimal_mark=",")] for t in times
    ]
    return out


def text_normalizer(case: Case) -> Outputs:
    """English and basic normalisation, and how far repeated texts compress."""
    texts = case.meta["in_json"]["texts"]
    return {
        "english": [normalize_text(text) for text in texts],
        "basic": [normalize_text(text, None) for text in texts],
        "basic_nodiacritics": [normalize_text(text, None, keep_diacritics=False) for text in texts],
        "compression_ratio": [compression_ratio(text * 3) for text in texts],
    }


def hf_key_map(case: Case) -> Outputs:
    """Every official name by way of ours to transformers'; the bound is met when the two agree on their meaning."""
    own = WhisperModel(official_config(case.meta["in_json"]["dims"])).state_dict()
    names = {layouts.OPENAI.to_foreign(name): layouts.HUGGINGFACE.to_foreign(name) for name in own}
    return {"map": names, "max_logit_difference_bound": case.meta["out_json"]["max_logit_difference_bound"]}


KINDS: dict[str, Runner] = {
    "whisper/english": whole_model,
    "whisper/hf_feature_extractor": hf_feature_extractor,
    "whisper/hf_key_map": hf_key_map,
    "whisper/log_mel": log_mel,
    "whisper/multilingual": whole_model,
    "whisper/text_normalizer": text_normalizer,
    "whisper/timing": timing,
    "whisper/tokenizer": tokenizer,
    "whisper/writers": written,
}
