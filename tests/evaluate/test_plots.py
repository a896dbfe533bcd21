"""Pictures hold the numbers they were given: PNG bytes decode, tones stand where they should, ticks are round."""

import base64
import math
import re
import struct
import zlib
from xml.etree import ElementTree

import numpy as np
import pytest

from voder.evaluate import plots
from voder.evaluate.plots import Curve, Sound


def decode_png(data):
    """Read a PNG with a palette by the specification: every chunk's CRC, filter 0 rows."""
    assert data[:8] == b"\x89PNG\r\n\x1a\n"
    chunks, at = {}, 8
    while at < len(data):
        (length,) = struct.unpack(">I", data[at : at + 4])
        kind, body = data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        assert struct.unpack(">I", data[at + 8 + length : at + 12 + length])[0] == zlib.crc32(kind + body)
        chunks[kind] = body
        at += 12 + length
    assert list(chunks) == [b"IHDR", b"PLTE", b"IDAT", b"IEND"]
    width, height, depth, colour, *rest = struct.unpack(">IIBBBBB", chunks[b"IHDR"])
    assert (depth, colour, rest) == (8, 3, [0, 0, 0])
    rows = np.frombuffer(zlib.decompress(chunks[b"IDAT"]), np.uint8).reshape(height, width + 1)
    assert not rows[:, 0].any()
    return rows[:, 1:], np.frombuffer(chunks[b"PLTE"], np.uint8).reshape(-1, 3)


def images(html):
    return [decode_png(base64.b64decode(found))[0] for found in re.findall(r"base64,([^\"]+)", html)]


def tone(hz, *, sample_rate_hz=8000, duration_s=0.5, gain=1.0):
    times = np.arange(round(duration_s * sample_rate_hz)) / sample_rate_hz
    return gain * np.sin(2 * np.pi * hz * times)


def test_png_gives_back_pixels_and_palette():
    pixels = np.arange(12, dtype=np.uint8).reshape(3, 4)
    decoded, colours = decode_png(plots.encode_png(pixels, plots.palette()))
    assert np.array_equal(decoded, pixels)
    assert np.array_equal(colours, plots.palette())


def test_palette_only_gets_lighter():
    light = plots.palette() @ np.array([0.2126, 0.7152, 0.0722])
    assert plots.palette().shape == (256, 3)
    assert (np.diff(light) > -0.5).all()
    assert light[-1] > light[0] + 150


@pytest.mark.parametrize(("hz", "sample_rate_hz"), [(1000, 8000), (440, 16000), (5000, 44100)])
def test_a_full_scale_tone_is_0_db_at_its_frequency(hz, sample_rate_hz):
    picture = plots.spectrogram_db(tone(hz, sample_rate_hz=sample_rate_hz), sample_rate_hz)
    middle = picture[:, picture.shape[1] // 2]
    assert len(middle) <= plots.MAX_BINS
    assert middle.max() == pytest.approx(0.0, abs=1.5)
    assert middle.argmax() / (len(middle) - 1) * sample_rate_hz / 2 == pytest.approx(hz, abs=sample_rate_hz / 120)


def test_long_sounds_stay_small_and_channels_are_averaged():
    left = tone(500, duration_s=60.0)
    assert plots.spectrogram_db(left, 8000).shape[1] <= plots.MAX_FRAMES + 1
    assert plots.spectrogram_db(np.stack([left[:8000], -left[:8000]]), 8000).max() < -150


def test_sounds_of_a_pair_share_the_colour_scale():
    loud, quiet = tone(1000), tone(1000, gain=0.1)
    html = plots.spectrograms(
        [Sound(title="a", samples=loud, sample_rate_hz=8000), Sound(title="b", samples=quiet, sample_rate_hz=8000)]
    )
    first, second = images(html)
    assert first.max() == 255
    assert int(second.max()) == pytest.approx(255 * (1 - 20 / plots.RANGE_DB), abs=1)


def test_low_frequencies_are_at_the_bottom():
    (picture,) = images(plots.spectrograms([Sound(title="low", samples=tone(250), sample_rate_hz=8000)]))
    assert picture[:, picture.shape[1] // 2].argmax() > 0.9 * len(picture)


def test_a_shorter_or_narrower_sound_fills_its_share_of_the_axes():
    html = plots.spectrograms(
        [
            Sound(title="long", samples=tone(100, sample_rate_hz=16000, duration_s=1.0), sample_rate_hz=16000),
            Sound(title="short", samples=tone(100, duration_s=0.5), sample_rate_hz=8000),
        ]
    )
    assert 'y="50.00%" width="50.00%" height="50.00%"' in html
    assert html.count(">8 kHz</i>") == 2
    assert html.count(">1 s</i>") == 2


def test_silence_is_dark():
    (picture,) = images(plots.spectrograms([Sound(title="none", samples=np.zeros(4000), sample_rate_hz=8000)]))
    assert not picture.any()


def test_sounds_that_cannot_be_drawn_are_refused():
    for samples in (np.zeros(0), np.array([0.0, math.nan])):
        with pytest.raises(ValueError, match="'x' must have samples"):
            Sound(title="x", samples=samples, sample_rate_hz=8000)


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [(0, 1, [0, 0.2, 0.4, 0.6, 0.8, 1]), (0, 4000, [0, 1000, 2000, 3000, 4000]), (0.31, 0.72, [0.4, 0.5, 0.6, 0.7])],
)
def test_ticks_are_round(low, high, expected):
    assert plots.ticks(low, high, 5) == pytest.approx(expected)


def test_ticks_of_a_point_and_of_many_ranges_stay_inside_and_few():
    assert plots.ticks(2.0, 2.0, 5) == [2.0]
    for low, high in ((-3.0, 7.0), (1e-6, 9e-6), (123.0, 98765.0)):
        made = plots.ticks(low, high, 4)
        assert 2 <= len(made) <= 5
        assert low <= made[0] < made[-1] <= high


def path_of(html):
    return re.search(r' d="([^"]+)"', html)[1]


def test_a_curve_goes_from_corner_to_corner():
    html = plots.line_chart([Curve(name="down", steps=[0, 50, 100], values=[10.0, 5.0, 0.0], group="loss")])
    points = [tuple(map(float, xy)) for xy in re.findall(r"[ML]([\d.]+) ([\d.]+)", path_of(html))]
    assert [x for x, _ in points] == [0, 500, 1000]
    heights = [y for _, y in points]
    assert heights[0] < heights[1] < heights[2] == 1000
    assert "<b>0</b>" in html


def test_a_gap_lifts_the_pen_and_nothing_finite_says_so():
    html = plots.line_chart([Curve(name="a", steps=[1, 2, 3, 4], values=[1.0, math.nan, 2.0, 3.0], group="g")])
    assert path_of(html).count("M") == 2
    assert path_of(html).count("L") == 1
    assert "No finite values" in plots.line_chart([Curve(name="a", steps=[1], values=[math.nan], group="g")])


def test_many_points_become_means_and_a_wide_range_becomes_logarithmic():
    steps = np.arange(10_000)
    flat = plots.line_chart([Curve(name="a", steps=steps, values=1.0 + steps % 2, group="g")])
    assert path_of(flat).count("L") == plots.MAX_POINTS - 1
    assert "logarithmic" not in flat
    wide = plots.line_chart([Curve(name="a", steps=[1, 2, 3], values=[100.0, 10.0, 1.0], group="g")])
    ys = [float(y) for y in re.findall(r"[ML][\d.]+ ([\d.]+)", path_of(wide))]
    assert "logarithmic" in wide
    assert ys[1] == pytest.approx((ys[0] + ys[2]) / 2, abs=0.2)


def test_curves_of_unequal_length_are_refused():
    with pytest.raises(ValueError, match="'a' has 2 steps and 1 values"):
        Curve(name="a", steps=[1, 2], values=[1.0], group="g")


def test_a_bar_is_as_long_as_its_value_and_marks_stand_where_they_should():
    svg = ElementTree.fromstring(
        plots.bar(
            25.0, top=50.0, tone="good", marks=[("must", 10.0), ("chance", 60.0), ("aim", None), ("originals", 5.0)]
        )
    )
    shapes = {shape.get("class"): shape for shape in svg}
    assert shapes["good"].get("width") == "50.00%"
    assert shapes["must"].get("x1") == "20.00%"
    assert shapes["chance"].get("x1") == "100.00%"
    assert shapes["originals"].get("cx") == "10.00%"
    assert "aim" not in shapes
    assert len(ElementTree.fromstring(plots.bar(None, top=1.0, tone="good", marks=[]))) == 1


def test_usage_strip_shows_used_codes_sorted_and_the_perplexity():
    html = plots.usage_strip(np.array([0, 5, 50, 0]), 1.5)
    (strip,) = images(html)
    assert strip.shape == (1, 2)
    assert strip[0, 0] == 255 > strip[0, 1]
    assert 'width="50.00%"' in html
    assert 'x1="37.50%"' in html
    assert "<image" not in plots.usage_strip(np.zeros(4, np.int64), 1.0)


def test_names_are_escaped():
    bad = '<b>&"'
    sound = Sound(title=bad, samples=tone(100), sample_rate_hz=8000)
    for html in (plots.spectrograms([sound]), plots.line_chart([Curve(name=bad, steps=[1], values=[1.0], group="g")])):
        assert bad not in html
        assert "&lt;b&gt;&amp;&quot;" in html
