"""Listening: greedy decoding, or a prefix beam search (Hannun et al., 1408.2873, algorithm 1), no language model."""

import math
from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from voder.audio.io import AudioClip
from voder.roles import Transcriber, Transcript, collate_clips, device_of, fit_clip
from voder.systems.ctc.augment import normalize_clip
from voder.systems.ctc.model import CtcModel
from voder.text.tokenizer import SymbolTokenizer


class CtcTranscriber(Transcriber):
    """A trained network and its spelling."""

    def __init__(self, model: CtcModel, *, beam_width: int = 1) -> None:
        """`beam_width` 1 is greedy."""
        super().__init__()
        self.model = model
        self.beam_width = beam_width
        self.tokenizer = SymbolTokenizer(model.config.symbols, model.config.unit)

    @torch.no_grad()
    def transcribe_batch(self, clips: Sequence[AudioClip]) -> list[Transcript]:
        """Transcribe clips, each at the peak that the network was trained at."""
        if not clips:
            return []
        rate = self.model.config.mel.sample_rate_hz
        fitted = [fit_clip(clip, sample_rate_hz=rate, channels=1) for clip in clips]
        levelled = [AudioClip(normalize_clip(clip.samples[0])[None], rate) for clip in fitted]
        audio, lengths = collate_clips(levelled, device_of(self.model))
        logits, positions = self.model(audio[:, 0], lengths)
        texts = [
            self.tokenizer.decode(self._decode(row[: int(count)].float().cpu()))
            for row, count in zip(logits, positions, strict=True)
        ]
        return [Transcript(text=text.strip(), heard_s=clip.duration_s) for text, clip in zip(texts, clips, strict=True)]

    def _decode(self, logits: Float[Tensor, "position symbol"]) -> list[int]:
        path = greedy_path(logits) if self.beam_width == 1 else beam_path(logits, self.beam_width)
        return [symbol - 1 for symbol in path]


def greedy_path(logits: Float[Tensor, "position symbol"]) -> list[int]:
    """The best symbol at every position, repeats merged, blanks (0) out."""
    best = logits.argmax(-1).tolist()
    return [s for s, before in zip(best, [0, *best[:-1]], strict=True) if s not in (0, before)]


def beam_path(logits: Float[Tensor, "position symbol"], width: int) -> list[int]:
    """The most probable symbol string among the `width` best prefixes at every position."""
    beams: dict[tuple[int, ...], tuple[float, float]] = {(): (0.0, -math.inf)}
    for row in logits.log_softmax(-1).tolist():
        grown: dict[tuple[int, ...], list[float]] = {}
        for prefix, (blank, symbol) in beams.items():
            either = _add(blank, symbol)
            _put(grown, prefix, 0, either + row[0])
            for number in range(1, len(row)):
                repeated = bool(prefix) and prefix[-1] == number
                if repeated:
                    _put(grown, prefix, 1, symbol + row[number])
                _put(grown, (*prefix, number), 1, (blank if repeated else either) + row[number])
        ranked = sorted(grown.items(), key=lambda item: -_add(*item[1]))[:width]
        beams = {prefix: (scores[0], scores[1]) for prefix, scores in ranked}
    best, _ = max(beams.items(), key=lambda item: _add(*item[1]))
    return list(best)


def _put(grown: dict[tuple[int, ...], list[float]], prefix: tuple[int, ...], which: int, score: float) -> None:
    scores = grown.setdefault(prefix, [-math.inf, -math.inf])
    scores[which] = _add(scores[which], score)


def _add(a: float, b: float) -> float:
    """log(exp(a) + exp(b))."""
    low, high = min(a, b), max(a, b)
    return high if low == -math.inf else high + math.log1p(math.exp(low - high))
