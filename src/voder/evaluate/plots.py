"""Pictures for a page that needs no library: spectrograms as indexed PNG, curves and bars as small inline SVG.

Axes are HTML around the picture and lengths inside are percentages, so a chart takes any width and its text keeps
its size. Colours are the page's (`--series-1`, `--good`, …), so a chart follows light and dark.
"""

import base64
import math
import struct
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import Any

import numpy as np
from numpy.typing import NDArray

RANGE_DB = 70.0
"""What a spectrogram shows below its loudest point."""
QUIETEST_TOP_DB = -60.0
"""Silence stays dark: the top of the colour scale is never below this (0 dB is a sine of full scale)."""
MAX_FRAMES, MAX_BINS, MAX_POINTS = 800, 256, 300
NUM_COLOURS = 6
"""Series colours that the page defines."""

Numbers = Sequence[int] | Sequence[float] | NDArray[Any]
"""A row of numbers, as a list or an array."""

_ANCHORS = ((18, 12, 43), (52, 35, 110), (52, 84, 148), (30, 129, 148), (44, 172, 130), (137, 205, 90), (246, 231, 92))


@dataclass(frozen=True, kw_only=True)
class Curve:
    """One line of a chart; curves of the same group share a chart."""

    name: str
    """The line's name."""
    steps: Numbers
    """Where the values stand."""
    values: Numbers
    """What is drawn; NaN leaves a gap."""
    group: str
    """The chart's title."""

    def __post_init__(self) -> None:
        if len(self.steps) != len(self.values) or not len(self.steps):
            raise ValueError(f"curve {self.name!r} has {len(self.steps)} steps and {len(self.values)} values")


@dataclass(frozen=True, kw_only=True, eq=False)
class Sound:
    """A signal to draw."""

    title: str
    """What it is: original, through the codec."""
    samples: NDArray[np.floating[Any]]
    """Samples [T], or [channels, T], which are averaged."""
    sample_rate_hz: int
    """Samples per second."""

    def __post_init__(self) -> None:
        if not self.samples.shape[-1] or not np.isfinite(self.samples).all():
            raise ValueError(f"sound {self.title!r} must have samples, all of them finite")

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.samples.shape[-1] / self.sample_rate_hz


def palette() -> NDArray[np.uint8]:
    """Return 256 colours [256, 3] that rise evenly from night blue over green to yellow."""
    anchors = np.array(_ANCHORS, dtype=np.float64)
    positions = np.linspace(0, len(anchors) - 1, 256)
    channels = [np.interp(positions, np.arange(len(anchors)), anchors[:, c]) for c in range(3)]
    return np.stack(channels, axis=1).round().astype(np.uint8)


def encode_png(pixels: NDArray[np.uint8], colours: NDArray[np.uint8]) -> bytes:
    """Encode indices [height, width] into `colours` [n, 3] as a PNG with a palette (colour type 3, 8 bits)."""
    height, width = pixels.shape

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    rows = np.concatenate([np.zeros((height, 1), np.uint8), pixels], axis=1)  # filter 0 before every row
    header = struct.pack(">IIBBBBB", width, height, 8, 3, 0, 0, 0)
    chunks = [
        (b"IHDR", header),
        (b"PLTE", colours.tobytes()),
        (b"IDAT", zlib.compress(rows.tobytes(), 9)),
        (b"IEND", b""),
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(chunk(kind, body) for kind, body in chunks)


def spectrogram_db(samples: NDArray[np.floating[Any]], sample_rate_hz: int) -> NDArray[np.float64]:
    """Magnitudes [bin, frame] in dB, where 0 is a sine of full scale; Hann windows of 32 ms, at most 800 frames.

    Row 0 is 0 Hz and the last row the Nyquist frequency; with more than 256 bins, neighbours give their maximum.
    """
    mono = np.asarray(samples, dtype=np.float64)
    mono = mono.mean(axis=0) if mono.ndim == 2 else mono
    size = max(16, round(0.032 * sample_rate_hz))
    hop = max(1, round(0.004 * sample_rate_hz), math.ceil(len(mono) / MAX_FRAMES))
    window = np.hanning(size + 1)[:-1]
    frames = np.lib.stride_tricks.sliding_window_view(np.pad(mono, size // 2), size)[::hop]
    magnitudes = np.abs(np.fft.rfft(frames * window)).T * (2 / window.sum())
    pooled = np.maximum.reduceat(magnitudes, np.arange(0, len(magnitudes), math.ceil(len(magnitudes) / MAX_BINS)))
    return 20 * np.log10(np.maximum(pooled, 1e-9))


def spectrograms(sounds: Sequence[Sound]) -> str:
    """Draw sounds side by side as HTML, with one colour scale, one time axis and one frequency axis for all."""
    pictures = [spectrogram_db(sound.samples, sound.sample_rate_hz) for sound in sounds]
    top = max(QUIETEST_TOP_DB, *(float(picture.max()) for picture in pictures))
    duration_s = max(sound.duration_s for sound in sounds)
    highest_khz = max(sound.sample_rate_hz for sound in sounds) / 2000
    panels = []
    for sound, picture in zip(sounds, pictures, strict=True):
        indices = np.clip((picture - top) / RANGE_DB + 1, 0, 1) * 255
        data = base64.b64encode(encode_png(indices[::-1].round().astype(np.uint8), palette())).decode()
        width, height = 100 * sound.duration_s / duration_s, 50 * sound.sample_rate_hz / 1000 / highest_khz
        image = (
            f'<svg role="img" aria-label="spectrogram: {escape(sound.title)}"><image x="0" y="{100 - height:.2f}%" '
            f'width="{width:.2f}%" height="{height:.2f}%" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/></svg>'
        )
        panel = axes(image, _marked(duration_s, "s"), _marked(highest_khz, "kHz"), kind="spectrogram")
        panels.append(f"<figure><figcaption>{escape(sound.title)}</figcaption>{panel}</figure>")
    gradient = ", ".join(f"rgb({r} {g} {b})" for r, g, b in _ANCHORS)
    scale = f'<i style="background: linear-gradient(90deg, {gradient})"></i>'
    legend = f'<p class="scale">{_signed(top - RANGE_DB)} {scale} {_signed(top)} dB of full scale</p>'
    return f'<div class="pair">{"".join(panels)}</div>{legend}'


def line_chart(curves: Sequence[Curve], *, x_label: str = "step") -> str:
    """Draw curves in one chart as HTML, on a logarithmic scale where positive values span more than 30 times."""
    thinned = [_thin(curve) for curve in curves]
    finite = np.concatenate([values[np.isfinite(values)] for _, values in thinned])
    if not len(finite):
        return '<p class="quiet">No finite values to draw.</p>'
    logarithmic = bool(finite.min() > 0 and finite.max() > 30 * finite.min())
    scale = _Scale.around(float(finite.min()), float(finite.max()), logarithmic)
    first, last = min(float(x[0]) for x, _ in thinned), max(float(x[-1]) for x, _ in thinned)
    first = 0.0 if 0 <= first < 0.1 * last else first
    span = (last - first) or 1.0
    ys = [(scale.place(value), f"{value:,.6g}") for value in scale.ticks()]
    xs = [((step - first) / span, f"{step:,.6g}") for step in ticks(first, last, 5)]
    paths = [
        f'<path style="stroke: var(--series-{i % NUM_COLOURS + 1})" d="{_path((x - first) / span, scale.place(y))}"/>'
        for i, (x, y) in enumerate(thinned)
    ]
    grid = "".join(f'<line x1="0" x2="100%" y1="{100 - 100 * y:.2f}%" y2="{100 - 100 * y:.2f}%"/>' for y, _ in ys)
    lines = f'<svg viewBox="0 0 1000 1000" preserveAspectRatio="none">{"".join(paths)}</svg>'
    names = escape(", ".join(curve.name for curve in curves))
    picture = f'<svg role="img" aria-label="curves: {names}"><g class="grid">{grid}</g>{lines}</svg>'
    legend = "".join(
        f'<li><i style="background: var(--series-{i % NUM_COLOURS + 1})"></i>{escape(curve.name)} {_last(curve)}</li>'
        for i, curve in enumerate(curves)
    )
    note = "<li>logarithmic</li>" if logarithmic else ""
    chart = axes(picture, xs, ys, x_label=x_label, kind="curves")
    return f'<ul class="legend">{legend}{note}</ul>{chart}'


def bar(value: float | None, *, top: float, tone: str, marks: Sequence[tuple[str, float | None]]) -> str:
    """Draw one bar of 0..`top` as SVG. `tone` is a colour class; marks are lines (`originals`: a dot) by class."""

    def at(number: float) -> str:
        return f"{100 * min(max(number / top, 0.0), 1.0):.2f}%"

    drawn = ['<rect class="track" width="100%" height="10" y="7" rx="2"/>']
    if value is not None:
        drawn.append(f'<rect class="{escape(tone)}" width="{at(value)}" height="10" y="7" rx="2"/>')
    for kind, number in marks:
        if number is not None and kind == "originals":
            drawn.append(f'<circle class="originals" cx="{at(number)}" cy="12" r="4"/>')
        elif number is not None:
            drawn.append(f'<line class="{escape(kind)}" x1="{at(number)}" x2="{at(number)}" y1="0" y2="24"/>')
    return f'<svg class="bar" aria-hidden="true">{"".join(drawn)}</svg>'


def usage_strip(counts: NDArray[np.integer[Any]], perplexity: float) -> str:
    """Draw how often each code was used: the most frequent first, unused ones blank, a line at the perplexity."""
    used = np.sort(counts[counts > 0])[::-1]
    image = ""
    if len(used):
        heat = np.log1p(used / used[-1]) / np.log1p(used[0] / used[-1])
        data = base64.b64encode(encode_png((heat * 255).round().astype(np.uint8)[None], palette())).decode()
        image = (
            f'<image width="{100 * len(used) / len(counts):.2f}%" height="100%" preserveAspectRatio="none" '
            f'href="data:image/png;base64,{data}"/>'
        )
    mark = f"{100 * perplexity / len(counts):.2f}%"
    line = f'<line x1="{mark}" x2="{mark}" y1="0" y2="100%"/>'
    return f'<svg class="strip" aria-hidden="true"><rect class="track" width="100%" height="100%"/>{image}{line}</svg>'


def ticks(low: float, high: float, count: int) -> list[float]:
    """Round values within [low, high], 1, 2, 2.5 or 5 times a power of ten apart: at least 2, at most `count` + 1."""
    if high <= low:
        return [low]
    raw = (high - low) / count
    power = 10.0 ** math.floor(math.log10(raw))
    step = next(power * factor for factor in (1, 2, 2.5, 5, 10) if power * factor >= raw * (1 - 1e-9))
    first, last = math.ceil(low / step - 1e-9), math.floor(high / step + 1e-9)
    return [float(f"{i * step:.12g}") for i in range(first, last + 1)]


def axes(
    picture: str,
    xs: Sequence[tuple[float, str]],
    ys: Sequence[tuple[float, str]],
    *,
    kind: str,
    x_label: str = "",
) -> str:
    """Put ticks (position 0..1, text) and a label around a picture, as HTML. `kind` is its class."""
    x_ticks = "".join(f'<i style="left: {100 * x:.2f}%">{escape(text)}</i>' for x, text in xs)
    y_ticks = "".join(f'<i style="bottom: {100 * y:.2f}%">{escape(text)}</i>' for y, text in ys)
    return (
        f'<div class="plot {kind}"><div class="y">{y_ticks}</div>'
        f'<div class="area">{picture}</div><div class="x">{x_ticks}</div><div class="x-label">{escape(x_label)}</div>'
        "</div>"
    )


def _signed(number: float) -> str:
    return f"{number:.0f}".replace("-", "\u2212")


def _marked(high: float, unit: str) -> list[tuple[float, str]]:
    values = ticks(0, high, 4)
    return [(value / high, f"{value:g} {unit}" if value == values[-1] else f"{value:g}") for value in values]


@dataclass(frozen=True, kw_only=True)
class _Scale:
    low: float
    high: float
    logarithmic: bool

    @classmethod
    def around(cls, low: float, high: float, logarithmic: bool) -> "_Scale":
        if logarithmic:
            return cls(low=math.log10(low) - 0.05, high=math.log10(high) + 0.05, logarithmic=True)
        margin = 0.05 * (high - low) or abs(high) * 0.1 or 1.0
        bottom = 0.0 if 0 <= low < 0.4 * high else low - margin
        return cls(low=bottom, high=high + margin, logarithmic=False)

    def place(self, value: Any) -> Any:
        value = np.log10(value) if self.logarithmic else value
        return (value - self.low) / (self.high - self.low)

    def ticks(self) -> list[float]:
        if not self.logarithmic:
            return ticks(self.low, self.high, 4)
        decades = range(math.floor(self.low), math.ceil(self.high) + 1)
        factors = (1, 2, 5) if self.high - self.low < 2 else (1,)
        values = [float(f"{factor * 10.0**decade:.6g}") for decade in decades for factor in factors]
        return [value for value in values if self.low <= math.log10(value) <= self.high]


def _thin(curve: Curve) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """At most 300 points: means of neighbours. A stretch without a finite value stays NaN."""
    steps, values = np.asarray(curve.steps, np.float64), np.asarray(curve.values, np.float64)
    parts = np.array_split(np.arange(len(steps)), min(len(steps), MAX_POINTS))
    kept = [part[np.isfinite(values[part])] for part in parts]
    means = [float(values[part].mean()) if len(part) else math.nan for part in kept]
    return np.array([steps[part].mean() for part in parts]), np.array(means)


def _path(xs: NDArray[np.float64], ys: NDArray[np.float64]) -> str:
    """An SVG path in a box of 1000 x 1000 that is lifted over gaps; a lone point is a dot (round caps)."""
    commands, pen = [], "M"
    for x, y in zip(xs, ys, strict=True):
        if math.isfinite(y):
            commands.append(f"{pen}{1000 * x:.1f} {1000 - 1000 * y:.1f}" + ("h0" if pen == "M" else ""))
        pen = "L" if math.isfinite(y) else "M"
    return "".join(commands)


def _last(curve: Curve) -> str:
    finite = [value for value in curve.values if math.isfinite(value)]
    return f"<b>{finite[-1]:.3g}</b>" if finite else ""
