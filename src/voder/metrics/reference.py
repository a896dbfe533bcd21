"""How to run the reference vectors of the measures: error rates, translation scores, and distances of waveforms."""

import importlib
from collections.abc import Mapping
from typing import Any, Literal

import numpy as np
from torch import Tensor

from voder.fixtures import Case, Runner
from voder.metrics.audio import pesq, si_sdr, snr, stoi
from voder.metrics.text import EditCounts, corpus_edits, count_edits, pooled
from voder.metrics.translation import bleu, chrf, sentence_bleu, ter


def audio_metrics(case: Case) -> Mapping[str, Any]:
    """Every other signal against `clean`; ModuleNotFoundError names the package that is missing."""
    for package in ("pesq", "pystoi"):
        importlib.import_module(package)
    rate = int(case.args["sample_rate"])
    signals = {name: _samples(value) for name, value in case.inputs.items()}
    clean = signals.pop("clean")
    out: dict[str, Any] = {}
    for name, wanted in case.meta["out_json"].items():
        values = _distances(clean, signals[name], rate)
        out[name] = {key: values[key] for key in wanted}
    return out


def _samples(value: Tensor) -> np.ndarray:
    """16-bit integers become numbers in [-1, 1); floats stay."""
    array = value.numpy()
    return array.astype(np.float64) / 32768 if np.issubdtype(array.dtype, np.integer) else array.astype(np.float64)


def _distances(clean: np.ndarray, given: np.ndarray, rate: int) -> dict[str, float]:
    wide = {"pesq_wb": pesq(clean, given, rate, band="wide")} if rate == 16_000 else {}
    return wide | {
        "pesq_nb": pesq(clean, given, rate, band="narrow"),
        "stoi": stoi(clean, given, rate),
        "estoi": stoi(clean, given, rate, extended=True),
        "si_sdr": si_sdr(clean, given),
        "si_sdr_nomean": si_sdr(clean, given, zero_mean=False),
        "snr": snr(clean, given),
    }


def text_metrics(case: Case) -> Mapping[str, Any]:
    """Error rates of every pair and of all, and the translation scores."""
    given = case.meta["in_json"]
    pairs = [(reference, hypothesis) for reference, hypothesis in given["asr_pairs"]]
    hypotheses, references = zip(*given["mt_pairs"], strict=True)
    words, characters = (_pooled(pairs, unit) for unit in ("words", "characters"))
    return {
        "pairs": [_pair(reference, hypothesis) for reference, hypothesis in pairs],
        "corpus": _rates(words) | {"cer": characters.rate},
        "mt": _translation(hypotheses, references) | _chinese(given.get("zh_pair")),
    }


def _counts(reference: str, hypothesis: str, unit: Literal["words", "characters"]) -> EditCounts:
    return count_edits(reference, hypothesis, unit=unit, normalize=False)


def _pooled(pairs: list[tuple[str, str]], unit: Any) -> EditCounts:
    references, hypotheses = zip(*pairs, strict=True)
    return pooled(corpus_edits(references, hypotheses, unit=unit, normalize=False))


def _rates(words: EditCounts) -> dict[str, Any]:
    return {
        "wer": words.rate,
        "mer": words.match_error_rate,
        "wil": words.information_lost,
    }


def _pair(reference: str, hypothesis: str) -> dict[str, Any]:
    words, characters = _counts(reference, hypothesis, "words"), _counts(reference, hypothesis, "characters")
    named = {"": words, "char_": characters}
    kinds = ("hits", "substitutions", "deletions", "insertions")
    counts = {f"{prefix}{kind}": getattr(edits, kind) for prefix, edits in named.items() for kind in kinds}
    return _rates(words) | {"wip": words.information_preserved, "cer": characters.rate} | counts


def _translation(hypotheses: tuple[str, ...], references: tuple[str, ...]) -> dict[str, Any]:
    found = bleu(hypotheses, references)
    return {
        "bleu": found.score,
        "precisions": found.precisions,
        "bp": found.brevity_penalty,
        "sys_len": found.hypothesis_length,
        "ref_len": found.reference_length,
        "counts": found.counts,
        "totals": found.totals,
        "chrf": chrf(hypotheses, references),
        "chrf_pp": chrf(hypotheses, references, word_order=2),
        "ter": ter(hypotheses, references),
        "sentence_bleu": [sentence_bleu(*pair) for pair in zip(hypotheses, references, strict=True)],
        "bleu_lower": bleu(hypotheses, references, lowercase=True).score,
        "bleu_none": bleu(hypotheses, references, tokenize="none").score,
    }


def _chinese(pair: list[str] | None) -> dict[str, float]:
    if pair is None:
        return {}
    hypothesis, reference = pair
    return {
        "bleu_zh": bleu([hypothesis], [reference], tokenize="zh").score,
        "bleu_char": bleu([hypothesis], [reference], tokenize="char").score,
    }


KINDS: dict[str, Runner] = {"metrics/audio_metrics": audio_metrics, "metrics/text_metrics": text_metrics}
