"""The page says what the report holds, escapes all of it and needs nothing from outside; both files are whole."""

import json
import re
from dataclasses import replace
from html.parser import HTMLParser

import numpy as np
import pytest

from voder.errors import ResourceError
from voder.evaluate.page import compare_words
from voder.evaluate.report import (
    AudioItem,
    AudioRow,
    Change,
    CodebookUsage,
    Command,
    Curve,
    Environment,
    Figure,
    Report,
    Section,
    Sound,
    Source,
    Spectrograms,
    Stage,
    Table,
    environment,
    peak_memory_mb,
    write_report,
)

VOID = {"meta", "br", "img", "circle", "rect", "line", "path", "image"}


class Page(HTMLParser):
    """Checks that tags are closed in order; collects tags and text."""

    def __init__(self, text):
        super().__init__()
        self.open, self.tags, self.words = [], [], []
        self.feed(text)
        self.close()
        assert not self.open

    def handle_starttag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_startendtag(self, tag, attrs):
        self.tags.append((tag, dict(attrs)))

    def handle_data(self, data):
        if "style" not in self.open:
            self.words.append(data)

    @property
    def text(self):
        return " ".join(" ".join(self.words).split())


def minimal(**rest):
    made = Environment(voder="0.1", torch="2", python="3.11", threads=2, machine="a machine")
    given = {"title": "demo", "headline": "It spoke.", "command": "voder demo", "seed": 3, "environment": made}
    figures = (
        Figure(name="errors", value=6.3, unit="%", n=100, chance=89.0, must=8.0, aim=4.0, judge="ears", originals=1.0),
    )
    given |= {"duration_s": 211.0, "peak_memory_mb": 2314.0, "bundled": True, "figures": figures}
    return Report(**(given | rest))


def full(folder):
    for name in ("original.wav", "codec one.wav"):
        (folder / name).write_bytes(b"RIFF")
    samples = np.sin(np.arange(4000) / 3)
    sounds = tuple(Sound(title=title, samples=samples, sample_rate_hz=8000) for title in ("original", "codec"))
    items = (
        AudioItem(path="original.wav", title="original", text="one two three", heard="one two three", correct=True),
        AudioItem(
            path="codec one.wav", title="through it", text="one two three", heard="one nine three four", correct=False
        ),
    )
    report = minimal()
    before = Figure(name="before", value=40.0, unit="%", chance=89.0)
    after = Figure(name="after", value=30.0, unit="%", chance=89.0, must=26.67, note="two thirds")
    return replace(
        report,
        figures=(*report.figures, before, after, Figure(name="second judge", value=None, note="no weights")),
        costs=(Figure(name="wall time", value=211.0, unit="s", must=300.0, aim=180.0),),
        key_figures=("errors", "wall time"),
        stages=(Stage(name="fine-tune", duration_s=125.0, steps=402, command="voder train valle"),),
        listen=(Section(title="Codec pairs", rows=(AudioRow(items=items, title="george"),), note="listen well"),),
        changes=(Change(title="New speaker", before="before", after="after"),),
        curves=(Curve(name="train", steps=[1, 2], values=[2.0, 1.0], group="Voice loss"),),
        spectrograms=(Spectrograms(title="Pair", sounds=sounds),),
        codebooks=(CodebookUsage(title="Codes", codes=np.array([[0, 0, 1, 1], [2, 2, 2, 2]]), codebook_size=4),),
        tables=(Table(title="Rates", columns=("books", "STOI"), rows=((1, 0.78), (2, 0.8714), ("all", None))),),
        sources=(Source(name="Digits", credit="Somebody", licence="CC BY-SA 4.0", url="https://example.org/digits"),),
        own_recordings=(Command(line="voder prepare FOLDER -o data/", note="manifests"),),
        notes=("One seed.",),
        extra={"codec": "abc123"},
    )


@pytest.fixture
def written(tmp_path):
    page = write_report(tmp_path, full(tmp_path))
    assert page == tmp_path / "report.html"
    return page.read_text(encoding="utf-8"), json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))


def test_page_is_well_formed_and_says_everything(written):
    text = Page(written[0]).text
    for words in (
        "It spoke.", "6.3 %", "must ≤ 8 %", "chance 89.0 %", "must met", "must missed", "not measured", "3 min 31 s",
        "2 of 3 musts and 0 of 2 aims met", "bundled checkpoints", "Error rates against chance",
        "Down by 25 %; two thirds", "listen well", "george", "Voice loss", "Pair", "kHz", "2 of 4", "1 of 4", "0.780",
        "0.871", "fine-tune", "2 min 5 s", "402",
        "CC BY-SA 4.0", "synthetic speech", "voder prepare FOLDER -o data/", "One seed.", "torch 2",
    ):  # fmt: skip
        assert words in text.replace("\u00a0", " "), words


def test_page_needs_no_script_and_nothing_from_outside(written):
    tags = Page(written[0]).tags
    assert not {"script", "link", "iframe"} & {tag for tag, _ in tags}
    loaded = [attrs.get("src") or attrs.get("href") for tag, attrs in tags if tag != "a"]
    assert all(url.startswith("data:image/png") or re.fullmatch(r"[\w%]+\.wav", url) for url in loaded if url)
    assert "url(" not in written[0]
    assert "@import" not in written[0]
    assert not [name for _, attrs in tags for name in attrs if name.startswith("on")]


def test_every_recording_has_a_player_beside_its_words(written):
    players = [attrs for tag, attrs in Page(written[0]).tags if tag == "audio"]
    assert [attrs["src"] for attrs in players] == ["original.wav", "codec%20one.wav"]
    assert all(attrs["preload"] == "none" and "controls" in attrs for attrs in players)
    assert "<q>one two three</q>" in written[0]
    assert 'one <del>two</del> <mark>nine</mark> three <mark class="extra">four</mark>' in written[0]


def test_links_lead_to_sections_that_exist(written):
    tags = Page(written[0]).tags
    wanted = {attrs["href"][1:] for tag, attrs in tags if tag == "a" and attrs["href"].startswith("#")}
    assert wanted == {attrs["id"] for tag, attrs in tags if tag == "section"}


def test_json_holds_every_figure_and_what_made_them(written):
    made = written[1]
    names = ["errors", "before", "after", "second judge"]
    assert [figure["name"] for figure in made["figures"]] == names
    assert made["figures"][0]["verdict"] == "met"
    assert made["costs"][0]["verdict"] == "met"
    fixed = {"voder": "0.1", "command": "voder demo", "seed": 3, "threads": 2, "torch": "2", "machine": "a machine"}
    assert fixed.items() <= made.items()
    assert (made["duration_s"], made["peak_memory_mb"], made["bundled"], made["codec"]) == (
        211.0,
        2314.0,
        True,
        "abc123",
    )
    assert made["codebooks"][0]["codebooks"][0] == {"used": 2, "total": 4, "perplexity": 2.0}
    assert [item["heard"] for item in made["audio"]] == ["one two three", "one nine three four"]
    assert made["audio"][0]["section"] == "Codec pairs"
    assert made["tables"][0]["rows"][2] == ["all", None]
    assert made["stages"][0]["steps"] == 402


def test_empty_parts_leave_no_trace(tmp_path):
    text = Page(write_report(tmp_path, minimal(figures=())).read_text(encoding="utf-8")).text
    for words in (
        "Figures",
        "Listen",
        "Spectrograms",
        "Codebook",
        "curves",
        "Stages",
        "Before",
        "own recordings",
        "musts",
    ):
        assert words not in text, words
    assert "What made this" in text


def test_what_comes_from_outside_is_escaped(tmp_path):
    bad = '<img src=x onerror="alert(1)">&'
    (tmp_path / "a.wav").write_bytes(b"")
    item = AudioItem(path="a.wav", title=bad, text=bad, heard=bad, note=bad)
    other = AudioItem(path="a.wav", title=bad, text="else", heard=bad)
    figures = tuple(Figure(name=bad + n, value=1.0, unit="%", chance=2.0, judge=bad, note=bad) for n in "ab")
    report = minimal(
        title=bad, headline=bad, command=bad, figures=figures, key_figures=(bad + "a",), notes=(bad,),
        environment=Environment(voder=bad, torch=bad, python=bad, threads=1, machine=bad),
        stages=(Stage(name=bad, duration_s=1.0, command=bad, note=bad),),
        listen=(Section(title=bad, rows=(AudioRow(items=(item, other), title=bad),), note=bad),),
        changes=(Change(title=bad, before=bad + "a", after=bad + "b"),),
        curves=(Curve(name=bad, steps=[1], values=[1.0], group=bad),),
        spectrograms=(Spectrograms(title=bad, sounds=(Sound(title=bad, samples=np.ones(99), sample_rate_hz=8000),)),),
        codebooks=(CodebookUsage(title=bad, codes=np.zeros((1, 1), np.int64), codebook_size=1),),
        tables=(Table(title=bad, columns=(bad,), rows=((bad,),), note=bad),),
        sources=(Source(name=bad, credit=bad, licence=bad, url="javascript:alert(1)"),),
        own_recordings=(Command(line=bad, note=bad),),
    )  # fmt: skip
    page = write_report(tmp_path, report).read_text(encoding="utf-8")
    assert bad not in page
    assert "<img" not in page
    assert 'href="javascript' not in page
    assert json.loads((tmp_path / "report.json").read_text(encoding="utf-8"))["headline"] == bad
    Page(page)


@pytest.mark.parametrize(
    ("wanted", "heard", "expected"),
    [
        ("One, two!", "one two", [("same", "one"), ("same", "two")]),
        ("one two", "one", [("same", "one"), ("missing", "two")]),
        ("one", "one two", [("same", "one"), ("extra", "two")]),
        ("one two", "one six", [("same", "one"), ("missing", "two"), ("wrong", "six")]),
        ("one", "", [("missing", "one")]),
        ("", "one", [("extra", "one")]),
    ],
)
def test_words_are_compared_as_they_are_scored(wanted, heard, expected):
    assert compare_words(wanted, heard) == expected


def test_a_recording_that_is_not_there_stops_before_anything_is_written(tmp_path):
    rows = (AudioRow(items=(AudioItem(path="gone.wav", title="x"),)),)
    with pytest.raises(ValueError, match=r"names gone\.wav"):
        write_report(tmp_path, minimal(listen=(Section(title="x", rows=rows),)))
    assert list(tmp_path.iterdir()) == []


def test_paths_outside_the_folder_are_refused():
    for path in ("/etc/passwd", "../a.wav", ""):
        with pytest.raises(ValueError, match="inside the report's folder"):
            AudioItem(path=path, title="x")


def test_names_that_clash_or_are_missing_are_refused():
    figure = Figure(name="errors", value=1.0)
    with pytest.raises(ValueError, match="two figures are called 'errors'"):
        minimal(costs=(figure,))
    with pytest.raises(ValueError, match="no figure is called 'error'"):
        minimal(key_figures=("error",))
    with pytest.raises(ValueError, match="`extra` cannot name 'seed'"):
        minimal(extra={"seed": 1}).to_dict()
    with pytest.raises(ValueError, match="a row of another length"):
        Table(title="t", columns=("a",), rows=((1, 2),))
    with pytest.raises(ValueError, match="not finite"):
        Table(title="t", columns=("a",), rows=((float("nan"),),))


def test_a_folder_that_cannot_be_written_is_named(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ResourceError, match="file"):
        write_report(tmp_path / "file", minimal())


def test_same_report_gives_the_same_bytes(tmp_path):
    first = write_report(tmp_path, full(tmp_path)).read_bytes()
    assert write_report(tmp_path, full(tmp_path)).read_bytes() == first
    assert not list(tmp_path.glob(".*"))


def test_environment_names_this_machine():
    here = environment()
    assert re.search(r"\d+ cores?, \w+$", here.machine)
    assert here.threads >= 1
    assert here.torch[0].isdigit()
    before = peak_memory_mb()
    assert 20 < before <= peak_memory_mb() < 1e6
