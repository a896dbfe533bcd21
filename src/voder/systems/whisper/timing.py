"""When each word is said (2212.04356 names the idea; the recipe is the original code's): the cross-attention of a few
heads, normalised and smoothed, and the cheapest monotonic path through it by dynamic time warping.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.nn import functional as F

from voder.systems.whisper.config import FRAMES_PER_POSITION, HOP, SAMPLE_RATE_HZ
from voder.systems.whisper.model import AudioStates, WhisperModel
from voder.systems.whisper.tokenizer import WhisperTokenizer

_POSITION_S = HOP * FRAMES_PER_POSITION / SAMPLE_RATE_HZ
_MEDIAN_WIDTH = 7
_OPENING = "\"'“¿([{-"
_STOPS = frozenset(".。!！?？")
_USUAL_AT_MOST_S = 0.7
_CLOSING = "\"'.。,，!！?？:：”)]}、"


@dataclass(frozen=True, kw_only=True)
class Word:
    """One word and when it is said."""

    text: str
    """With the space before it and the punctuation around it."""
    start_s: float
    end_s: float
    probability: float
    """Mean over its ids."""


def median_filter(x: Float[Tensor, "*rows time"], width: int) -> Float[Tensor, "*rows time"]:
    """Median over `width` (odd) neighbours on the last axis, the ends reflected; short signals come back unchanged."""
    half = width // 2
    if x.shape[-1] <= half:
        return x
    rows = F.pad(x.reshape(1, -1, x.shape[-1]), (half, half), mode="reflect")
    return rows.unfold(-1, width, 1).median(dim=-1).values.view(x.shape)


def warp(cost: np.ndarray) -> Int[np.ndarray, "2 step"]:
    """The cheapest path through `[row, column]` costs from the first corner to the last, one step down, right or both.

    Diagonal steps win when strictly cheapest, then steps down; whole anti-diagonals are computed at once.
    """
    num_rows, num_columns = cost.shape
    total = np.full((num_rows + 1, num_columns + 1), np.inf, dtype=np.float32)
    total[0, 0] = 0.0
    origin = np.full((num_rows + 1, num_columns + 1), 2, dtype=np.int8)
    for diagonal in range(2, num_rows + num_columns + 1):
        i = np.arange(max(1, diagonal - num_columns), min(num_rows, diagonal - 1) + 1)
        j = diagonal - i
        both, down, right = total[i - 1, j - 1], total[i - 1, j], total[i, j - 1]
        step = np.where((both < down) & (both < right), 0, np.where((down < both) & (down < right), 1, 2))
        origin[i, j] = step
        total[i, j] = cost[i - 1, j - 1] + np.choose(step, (both, down, right))
    origin[0, :], origin[:, 0] = 2, 1
    path, i, j = [], num_rows, num_columns
    while i > 0 or j > 0:
        path.append((i - 1, j - 1))
        step = origin[i, j]
        i, j = i - int(step != 2), j - int(step != 1)
    return np.array(path[::-1], dtype=np.int64).T


def alignment_heads(model: WhisperModel) -> list[tuple[int, int]]:
    """(layer, head) pairs to look at: the published ones, or all of the upper half."""
    config = model.config
    if config.alignment_heads:
        return list(config.alignment_heads)
    layers = range(config.num_decoder_layers // 2, config.num_decoder_layers)
    return [(layer, head) for layer in layers for head in range(config.num_heads)]


@dataclass(frozen=True, kw_only=True)
class TimedWords:
    """The words of one window."""

    words: tuple[Word, ...]
    """With their punctuation."""
    usual_s: float
    """How long a word takes there: the median, at most 0.7 s."""


def time_words(
    model: WhisperModel,
    states: AudioStates,
    tokenizer: WhisperTokenizer,
    ids: Sequence[int],
    num_frames: int,
    offset_s: float = 0.0,
) -> TimedWords:
    """Words of one window's answer with their times, counted from `offset_s`.

    A path through attention has no silence: a pause is added to the word beside it. So what takes more than twice the
    usual time at the end of a sentence is cut there.
    """
    words = align_words(model, states, tokenizer, ids, num_frames, offset_s)
    lasting = [word.end_s - word.start_s for word in words if word.end_s > word.start_s]
    usual_s = min(_USUAL_AT_MOST_S, float(np.median(lasting))) if lasting else 0.0
    return TimedWords(words=tuple(join_punctuation(cut_at_stops(words, 2 * usual_s))), usual_s=usual_s)


def cut_at_stops(words: Sequence[Word], longest_s: float) -> list[Word]:
    """Shorten full stops, and words after them, that last longer: the rest is a pause."""
    cut = list(words)
    for i in range(1, len(cut)):
        if longest_s <= 0 or cut[i].end_s - cut[i].start_s <= longest_s:
            continue
        if cut[i].text in _STOPS:
            cut[i] = replace(cut[i], end_s=cut[i].start_s + longest_s)
        elif cut[i - 1].text in _STOPS:
            cut[i] = replace(cut[i], start_s=cut[i].end_s - longest_s)
    return cut


def cut_at_pause(words: Sequence[Word], usual_s: float, spoken_until_s: float) -> list[Word]:
    """Shorten the first word after a pause (and the second, if the pause went into it) to twice the usual time."""
    cut, longest_s = list(words), 2 * usual_s
    if longest_s <= 0 or cut[0].end_s - spoken_until_s <= 2 * longest_s:
        return cut
    second_ends_late = len(cut) > 1 and cut[1].end_s - cut[0].start_s > 2 * longest_s
    if cut[0].end_s - cut[0].start_s > longest_s or second_ends_late:
        if len(cut) > 1 and cut[1].end_s - cut[1].start_s > longest_s:
            border_s = cut[1].end_s - longest_s
            cut[:2] = [replace(cut[0], end_s=border_s), replace(cut[1], start_s=border_s)]
        cut[0] = replace(cut[0], start_s=max(cut[0].start_s, cut[0].end_s - longest_s))
    return cut


@torch.no_grad()
def align_words(
    model: WhisperModel,
    states: AudioStates,
    tokenizer: WhisperTokenizer,
    ids: Sequence[int],
    num_frames: int,
    offset_s: float = 0.0,
) -> list[Word]:
    """Words and marks of one window's answer with the times at which attention moves on."""
    text_ids = [i for i in ids if i < tokenizer.eot]
    texts, groups = tokenizer.split_words([*text_ids, tokenizer.eot])
    if len(groups) <= 1:
        return []
    start = [*tokenizer.prompt, tokenizer.no_timestamps]
    whole = torch.tensor([[*start, *text_ids, tokenizer.eot]], device=states.device)
    heads = alignment_heads(model)
    looks = model.attention_to_audio(whole, states)[[h[0] for h in heads], [h[1] for h in heads]]
    weights = looks[:, :, : max(num_frames // FRAMES_PER_POSITION, 1)].softmax(dim=-1)
    deviation, mean = torch.std_mean(weights, dim=-2, keepdim=True, correction=0)
    smooth = median_filter((weights - mean) / deviation.clamp(min=1e-12), _MEDIAN_WIDTH).mean(dim=0)
    rows, columns = warp(-smooth[len(tokenizer.prompt) : -1].float().cpu().numpy())
    jumps = np.concatenate(([True], np.diff(rows) > 0))
    times_s = columns[jumps] * _POSITION_S
    logits = model.decoder(whole, states)[0, len(tokenizer.prompt) : -2]
    chances = logits[:, : tokenizer.eot].softmax(dim=-1)
    each = chances[torch.arange(len(text_ids)), text_ids].tolist()
    edges = np.cumsum([0, *(len(group) for group in groups[:-1])])
    return [
        Word(
            text=text,
            start_s=float(offset_s + times_s[a]),
            end_s=float(offset_s + times_s[b]),
            probability=float(np.mean(each[a:b])),
        )
        for text, a, b in zip(texts[:-1], edges[:-1], edges[1:], strict=True)
    ]


def join_punctuation(words: Sequence[Word]) -> list[Word]:
    """Opening marks join the word after them, closing marks the one before."""
    joined: list[Word] = []
    for word in words:
        opens = bool(joined) and joined[-1].text.startswith(" ") and joined[-1].text.strip() in _OPENING
        if opens and joined[-1].text.strip():
            before = joined.pop()
            joined.append(replace(word, text=before.text + word.text))
        elif joined and word.text in _CLOSING and not joined[-1].text.endswith(" "):
            joined[-1] = replace(joined[-1], text=joined[-1].text + word.text)
        else:
            joined.append(word)
    return joined
