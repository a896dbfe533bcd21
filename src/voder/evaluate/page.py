"""Draw a `Report` as one HTML page: no scripts, nothing from the network, everything that came from outside escaped."""

import math
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from urllib.parse import quote

from voder.evaluate.figures import Figure
from voder.evaluate.plots import Curve, bar, line_chart, spectrograms, usage_strip
from voder.evaluate.records import AudioItem, AudioRow, CodebookUsage, Report, Section, Table
from voder.text.normalize import normalize_words

CONSENT = (
    "Everything spoken by a model here is synthetic speech, and its files say so in their metadata. A voice belongs to "
    "the person who has it: prompt or train with recordings only where that person has agreed, and say that it is "
    "synthetic wherever you share it."
)
TABLE_NOTE = (
    "Small print under a value is its 95 % interval. “Originals” is what the same judge makes of the recordings."
)
_COLUMNS = ("value", "originals", "must", "aim", "chance", "n", "judge", "verdict")
_VERDICTS = {
    "aim met": ("aim-met", "✓ aim met"),
    "met": ("met", "✓ must met"),
    "missed": ("missed", "✗ must missed"),
    "reported": ("reported", "reported"),
}


def render(report: Report) -> str:
    """Return the whole page. Parts of the report that are empty leave no trace."""
    style = files("voder.evaluate").joinpath("report.css").read_text(encoding="utf-8")
    parts = [
        ("figures", "Figures", _figures(report.figures)),
        ("chance", "Error rates against chance", _rates(report.figures)),
        ("change", "Before and after", _changes(report)),
        ("listen", "Listen", "".join(_listen(section) for section in report.listen)),
        (
            "spectrograms",
            "Spectrograms",
            "".join(_titled(s.title, spectrograms(s.sounds)) for s in report.spectrograms),
        ),
        ("codebooks", "Codebook usage", "".join(_usage(usage) for usage in report.codebooks)),
        ("tables", "Bit rate and quality", "".join(_table(table) for table in report.tables)),
        ("curves", "Training curves", _curves(report.curves)),
        ("made", "What made this", _made(report)),
        ("own", "Now with your own recordings", _own(report)),
    ]
    kept = [part for part in parts if part[2]]
    links = "".join(f'<a href="#{key}">{title}</a>' for key, title, _ in kept)
    body = "".join(f'<section id="{key}"><h2>{title}</h2>{html}</section>' for key, title, html in kept)
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width, initial-scale=1">'
        f'<meta name="color-scheme" content="light dark"><title>{escape(report.title)}</title>\n'
        f"<style>\n{style}</style></head>\n<body><main>{_header(report)}<nav>{links}</nav>\n{body}</main></body></html>\n"
    )


def _prose(text: str) -> str:
    """Escape running text; a percent sign stays with its number."""
    return escape(text).replace(" %", "&nbsp;%")


def _header(report: Report) -> str:
    tiles = "".join(_tile(report.figure(name)) for name in report.key_figures)
    promised = [f.verdict() for f in (*report.figures, *report.costs) if f.must is not None]
    aimed = [f.verdict() for f in (*report.figures, *report.costs) if f.aim is not None]
    kept = f"{len(promised) - promised.count('missed')} of {len(promised)} musts" if promised else ""
    hit = f"{aimed.count('aim met')} of {len(aimed)} aims" if aimed else ""
    score = " and ".join(filter(None, (kept, hit)))
    facts = [
        f"{score} met" if score else "",
        "bundled checkpoints" if report.bundled else "trained in this run",
        f"{_duration(report.duration_s)} on {report.environment.machine}",
        f"peak memory {report.peak_memory_mb:,.0f} MB",
        f"seed {report.seed}",
    ]
    line = "".join(f"<span>{escape(fact)}</span>" for fact in facts if fact)
    return (
        f'<header><p class="kicker">{_prose(report.title)}</p><h1>{_prose(report.headline)}</h1>'
        f'<p class="facts">{line}</p><div class="tiles">{tiles}</div></header>'
    )


def _tile(figure: Figure) -> str:
    return (
        f'<div class="tile {_VERDICTS[figure.verdict()][0]}"><p class="name">{_prose(figure.name)}</p>'
        f'<p class="value">{escape(figure.shown())}</p><p class="against">{_against(figure)}</p>'
        f"{_verdict(figure)}</div>"
    )


def _against(figure: Figure) -> str:
    limits = [f"{word} {figure.sign} {figure.limit(x)}" for word, x in _limits(figure)]
    chance = [] if figure.chance is None else [f"chance {figure.shown(figure.chance)}"]
    return "".join(f"<span>{escape(words)}</span>" for words in limits + chance)


def _limits(figure: Figure) -> list[tuple[str, float]]:
    return [(word, limit) for word, limit in (("must", figure.must), ("aim", figure.aim)) if limit is not None]


def _verdict(figure: Figure) -> str:
    kind, words = _VERDICTS[figure.verdict()]
    words = "not measured" if figure.value is None and kind == "reported" else words
    return f'<span class="verdict {kind}">{words}</span>'


def _figure_table(figures: Sequence[Figure]) -> str:
    rows = [(figure, _figure_cells(figure)) for figure in figures]
    used = [name for name in _COLUMNS if any(cells[name] for _, cells in rows)]
    head = ['<th scope="col">figure</th>', *(f'<th scope="col" class="{name}">{name}</th>' for name in used)]
    lines = []
    for figure, cells in rows:
        note = f"<small>{_prose(figure.note)}</small>" if figure.note else ""
        columns = "".join(
            f'<td class="{name}{"" if cells[name] else " none"}" data-label="{name}">{cells[name] or "–"}</td>'
            for name in used
        )
        lines.append(f'<tr><th scope="row">{_prose(figure.name)}{note}</th>{columns}</tr>')
    return _grid(head, lines, "figures") if rows else ""


def _figures(figures: Sequence[Figure]) -> str:
    table = _figure_table(figures)
    return f'{table}<p class="quiet">{TABLE_NOTE}</p>' if table else ""


def _figure_cells(figure: Figure) -> dict[str, str]:
    """The cells of a figure's row by column; empty where there is nothing to say."""

    def limit(number: float | None) -> str:
        return "" if number is None else escape(figure.limit(number))

    low_high = f"<small>{figure.shown_interval()}</small>" if figure.interval else ""
    return {
        "value": f"<b>{escape(figure.shown())}</b>{low_high}",
        "originals": "" if figure.originals is None else escape(figure.shown(figure.originals)),
        "must": limit(figure.must),
        "aim": limit(figure.aim),
        "chance": "" if figure.chance is None else escape(figure.shown(figure.chance)),
        "n": "" if figure.n is None else f"{figure.n:,}",
        "judge": escape(figure.judge or ""),
        "verdict": _verdict(figure),
    }


def _rates(figures: Iterable[Figure]) -> str:
    rates = [figure for figure in figures if figure.unit == "%" and figure.chance is not None]
    if not rates:
        return ""
    top = max(100.0, *(figure.value or 0.0 for figure in rates))
    rows = "".join(_bar_row(figure.name, figure, top) for figure in rates)
    return f'<div class="block">{_marks(rates)}<div class="bars">{rows}{_bar_axis(top)}</div></div>'


def _marks(figures: Sequence[Figure]) -> str:
    """The legend of the marks that occur in the bars of these figures."""
    marks = (
        ("good", "measured", any(figure.verdict() != "missed" for figure in figures)),
        ("bad", "measured, must missed", any(figure.verdict() == "missed" for figure in figures)),
        ("originals", "same judge, originals", any(figure.originals is not None for figure in figures)),
        ("must", "must", any(figure.must is not None for figure in figures)),
        ("chance", "chance", any(figure.chance is not None for figure in figures)),
    )
    items = "".join(f'<li><i class="{kind}"></i>{words}</li>' for kind, words, occurs in marks if occurs)
    return f'<ul class="legend marks">{items}</ul>'


def _bar_row(label: str, figure: Figure, top: float) -> str:
    tone = "bad" if figure.verdict() == "missed" else "good"
    marks = (("chance", figure.chance), ("must", figure.must), ("originals", figure.originals))
    drawn = bar(figure.value, top=top, tone=tone, marks=marks)
    return f'<div class="bar-row"><span>{_prose(label)}</span>{drawn}<b>{escape(figure.shown())}</b></div>'


def _bar_axis(top: float) -> str:
    labels = "".join(f'<i style="left: {share}%">{top * share / 100:g}</i>' for share in (0, 25, 50, 75, 100))
    return f'<div class="bar-row"><div class="bar-axis">{labels}</div></div>'


def _changes(report: Report) -> str:
    blocks = []
    for change in report.changes:
        before, after = report.figure(change.before), report.figure(change.after)
        numbers = [x for f in (before, after) for x in (f.value, f.must, f.chance, f.originals) if x]
        top = max(numbers, default=1.0)
        rows = _bar_row("before", before, top) + _bar_row("after", after, top)
        said = ""
        if before.value and after.value is not None:
            share = 100 * (after.value - before.value) / before.value
            parts = (f"{'Down' if share <= 0 else 'Up'} by {abs(share):.0f} %", after.note)
            said = f'<p class="quiet">{_prose("; ".join(filter(None, parts)))}.</p>'
        blocks.append(_titled(change.title, f'{_marks((before, after))}<div class="bars">{rows}</div>{said}'))
    return "".join(blocks)


def _titled(title: str, html: str) -> str:
    return f'<div class="block"><h3>{_prose(title)}</h3>{html}</div>'


def _listen(section: Section) -> str:
    note = f'<p class="quiet">{_prose(section.note)}</p>' if section.note else ""
    return _titled(section.title, note + "".join(_row(row) for row in section.rows))


def _row(row: AudioRow) -> str:
    wanted = {item.text for item in row.items if item.text is not None}
    shared = next(iter(wanted)) if len(wanted) == 1 else None
    title = f'<span class="who">{_prose(row.title)}</span>' if row.title else ""
    text = f"<q>{escape(shared)}</q>" if shared is not None else ""
    head = f'<p class="row-head">{text}{title}</p>' if text or title else ""
    players = "".join(_player(item, with_text=shared is None) for item in row.items)
    return f'<div class="row">{head}<div class="players">{players}</div></div>'


def _player(item: AudioItem, *, with_text: bool) -> str:
    lines = []
    if with_text and item.text is not None:
        lines.append(f'<p class="words">wanted <q>{escape(item.text)}</q></p>')
    if item.heard is not None:
        mark = {True: '<span class="right">✓</span> ', False: '<span class="wrong">✗</span> ', None: ""}[item.correct]
        heard = _compared(item.text, item.heard) if item.text is not None else escape(item.heard)
        lines.append(f'<p class="words">{mark}heard {heard or "<em>nothing</em>"}</p>')
    if item.note:
        lines.append(f'<p class="words note">{_prose(item.note)}</p>')
    return (
        f'<div class="player"><h4>{_prose(item.title)}</h4>'
        f'<audio controls preload="none" src="{escape(quote(item.path))}"></audio>'
        f'<p class="path">{escape(item.path)}</p>{"".join(lines)}</div>'
    )


def compare_words(wanted: str, heard: str) -> list[tuple[str, str]]:
    """Align two texts as a judge of word errors does.

    Returns (kind, word) in reading order, where kind is `same`, `wrong` (heard in place of the `missing` word before
    it), `missing` or `extra`.
    """
    import jiwer

    wanted, heard = normalize_words(wanted), normalize_words(heard)
    if not wanted:
        return [("extra", word) for word in heard.split()]
    said: list[tuple[str, str]] = []
    for chunk in jiwer.process_words(wanted, heard).alignments[0]:
        ours = wanted.split()[chunk.ref_start_idx : chunk.ref_end_idx]
        theirs = heard.split()[chunk.hyp_start_idx : chunk.hyp_end_idx]
        if chunk.type == "equal":
            said += [("same", word) for word in theirs]
        elif chunk.type == "substitute":
            pairs = zip(ours, theirs, strict=True)
            said += [item for want, got in pairs for item in (("missing", want), ("wrong", got))]
        else:
            said += [("missing", word) for word in ours] + [("extra", word) for word in theirs]
    return said


def _compared(wanted: str, heard: str) -> str:
    tags = {
        "same": "{}",
        "wrong": "<mark>{}</mark>",
        "missing": "<del>{}</del>",
        "extra": '<mark class="extra">{}</mark>',
    }
    return " ".join(tags[kind].format(escape(word)) for kind, word in compare_words(wanted, heard))


def _usage(usage: CodebookUsage) -> str:
    rows = "".join(
        f'<tr><th scope="row">{i}</th><td>{(counts > 0).sum()} of {usage.codebook_size}</td><td>{spread:.0f}</td>'
        f'<td class="wide">{usage_strip(counts, float(spread))}</td></tr>'
        for i, (counts, spread) in enumerate(zip(usage.counts(), usage.perplexity(), strict=True), start=1)
    )
    head = '<th scope="col">codebook</th><th scope="col">codes used</th><th scope="col">perplexity</th><th></th>'
    note = "Codes from most to least frequent (log scale). Blank: never used. The line stands at the perplexity."
    table = f'<table class="usage"><thead><tr>{head}</tr></thead><tbody>{rows}</tbody></table>'
    return _titled(usage.title, f'{table}<p class="quiet">{note}</p>')


def _grid(head: Iterable[str], rows: Iterable[str], kind: str) -> str:
    return (
        f'<div class="scroll"><table class="{kind}"><thead><tr>{"".join(head)}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _table(table: Table) -> str:
    head = [f'<th scope="col">{_prose(name)}</th>' for name in table.columns]
    columns = [_cells([row[i] for row in table.rows]) for i in range(len(table.columns))]
    rows = ["<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in zip(*columns, strict=True)]
    note = f'<p class="quiet">{_prose(table.note)}</p>' if table.note else ""
    return _titled(table.title, _grid(head, rows, "plain") + note)


def _cells(column: Sequence[str | int | float | None]) -> list[str]:
    """Write a column: its fractions with the same number of decimals, enough for three digits of the smallest."""
    decimals = 0
    for cell in column:
        if isinstance(cell, float) and cell:
            needed = len(f"{cell:.4f}".rstrip("0").partition(".")[2])
            decimals = max(decimals, min(needed, max(0, 2 - math.floor(math.log10(abs(cell))))))
    return [_cell(cell, decimals) for cell in column]


def _cell(cell: str | int | float | None, decimals: int) -> str:
    if cell is None:
        return "–"
    if isinstance(cell, str):
        return _prose(cell)
    return f"{cell:,}" if isinstance(cell, int) else f"{cell:,.{decimals}f}"


def _curves(curves: Iterable[Curve]) -> str:
    groups: dict[str, list[Curve]] = {}
    for curve in curves:
        groups.setdefault(curve.group, []).append(curve)
    charts = "".join(_titled(group, line_chart(members)) for group, members in groups.items())
    return f'<div class="charts">{charts}</div>' if charts else ""


def _made(report: Report) -> str:
    made = report.environment
    facts = (
        ("command", f"<code>{escape(report.command)}</code>"),
        ("seed", str(report.seed)),
        ("versions", escape(f"voder {made.voder}, torch {made.torch}, Python {made.python}")),
        ("machine", escape(f"{made.machine}; {made.threads} threads used")),
    )
    listed = "".join(f"<dt>{name}</dt><dd>{html}</dd>" for name, html in facts)
    notes = "".join(f"<li>{_prose(note)}</li>" for note in report.notes)
    sources = "".join(
        f"<li><b>{escape(s.name)}</b>, {escape(s.credit)}. {escape(s.licence)}. {_link(s.url)}</li>"
        for s in report.sources
    )
    costs = _titled("Time and memory", _figure_table(report.costs)) if report.costs else ""
    return "".join(
        (
            f'<dl class="facts-list">{listed}</dl>{_stages(report)}{costs}',
            _titled("Data and credit", f"<ul>{sources}</ul>") if sources else "",
            _titled("To keep in mind", f"<ul>{notes}</ul>") if notes else "",
            _titled("Synthetic speech and consent", f"<p>{CONSENT}</p>"),
        )
    )


def _link(url: str) -> str:
    if url.startswith(("https://", "http://")):
        return f'<a href="{escape(url)}" rel="noreferrer">{escape(url.partition("://")[2])}</a>'
    return escape(url)


def _stages(report: Report) -> str:
    rows = [
        f'<tr><th scope="row">{_prose(stage.name)}<small>{_prose(stage.note)}</small></th>'
        f"<td>{'reused' if stage.reused else escape(_duration(stage.duration_s))}</td>"
        f"<td>{'–' if stage.steps is None else f'{stage.steps:,}'}</td>"
        f'<td class="wide"><code>{escape(stage.command)}</code></td></tr>'
        for stage in report.stages
    ]
    head = [f'<th scope="col">{name}</th>' for name in ("stage", "time", "steps")] + ['<th class="wide">command</th>']
    return _titled("Stages", _grid(head, rows, "plain stages")) if rows else ""


def _own(report: Report) -> str:
    lines = "".join(
        f"<div><code>{escape(command.line)}</code><span>{_prose(command.note)}</span></div>"
        for command in report.own_recordings
    )
    return f'<div class="commands">{lines}</div>' if lines else ""


def _duration(seconds: float) -> str:
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest} s"
