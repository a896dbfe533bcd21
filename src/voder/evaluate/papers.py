"""The literature: cards of the systems that are here, and a file for the rest, as one list by category.

A card is the front matter of a system's README. A paper that both name is one entry: the card's words stand, what the
file adds is joined. `voder papers [QUERY]` prints `describe`.
"""

import difflib
import re
import textwrap
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

import yaml

import voder.systems
from voder.config import from_dict, read_yaml
from voder.errors import ConfigError

_FILE = Path(__file__).with_name("papers.yaml")
_SYSTEMS = Path(voder.systems.__file__).parent
_WIDTH = 100


@dataclass(frozen=True, kw_only=True)
class Reference:
    """A paper by name."""

    title: str
    year: int
    link: str = ""


@dataclass(frozen=True, kw_only=True)
class Paper:
    """One entry of the list."""

    title: str
    year: int
    venue: str = ""
    link: str = ""
    category: str
    keywords: tuple[str, ...] = ()
    models: tuple[str, ...] = ()
    """Names that its models go by."""
    systems: tuple[str, ...] = ()
    """Systems of voder that have it."""
    weights: str = ""
    """What was published, and where."""
    builds_on: tuple[Reference, ...] = ()
    """Other papers that the system is made after."""

    @property
    def text(self) -> str:
        """All that a query is looked up in."""
        others = (each.title for each in self.builds_on)
        own = (self.title, self.venue, str(self.year), self.link, self.category)
        return " ".join((*own, *self.keywords, *self.models, *self.systems, *others)).casefold()


@dataclass(frozen=True, kw_only=True)
class Category:
    """One of the seven parts of the list."""

    name: str
    description: str
    keywords: tuple[str, ...]
    key_models: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class _List:
    categories: tuple[Category, ...]
    papers: tuple[Paper, ...]


@cache
def _listed() -> _List:
    return from_dict(_List, read_yaml(_FILE), where=_FILE.name)


CATEGORIES: tuple[str, ...] = (
    "Survey",
    "Speech/Audio-Text LLM",
    "Speech Tokenization/Discretization",
    "Speech Recognition & Translation",
    "Self-supervised Pretrain Speech Model",
    "Speech Synthesis",
    "Audio/Music/Others",
)
"""What `category` in a card may be, in the order of the list."""


def categories() -> tuple[Category, ...]:
    """The seven categories with what they hold."""
    return _listed().categories


def read_card(system: str) -> dict[str, Any]:
    """The front matter of a system's card.

    Raises:
        ConfigError: there is no card, or it has none.
    """
    file = _SYSTEMS / system / "README.md"
    try:
        opening, front, _ = file.read_text(encoding="utf-8").split("---\n", 2)
        card = yaml.safe_load(front) if not opening else None
    except (OSError, ValueError, yaml.YAMLError) as error:
        raise ConfigError(f"{file} has no readable front matter ({error})") from error
    if not isinstance(card, dict):
        raise ConfigError(f"{file} has no front matter: its first line must be ---")
    return card


def papers(query: str | None = None) -> list[Paper]:
    """The list by category, newest first; with a query, those that hold every word of it.

    A word is looked for in title, venue, year, link, category, keywords, models, systems, and the papers that an entry
    builds on.
    """
    joined: list[Paper] = []
    for paper in (*_cards(), *_listed().papers):
        known = next((i for i, other in enumerate(joined) if _is_same(paper, other)), None)
        if known is None:
            joined.append(paper)
        else:
            joined[known] = _merged(joined[known], paper)
    joined.sort(key=lambda paper: (CATEGORIES.index(paper.category), -paper.year, paper.title))
    words = (query or "").casefold().split()
    return [paper for paper in joined if all(word in paper.text for word in words)]


def _cards() -> Iterator[Paper]:
    for system in voder.systems.SYSTEMS:
        if (_SYSTEMS / system).is_dir():
            yield _of_card(system, read_card(system))


def _of_card(system: str, card: Mapping[str, Any]) -> Paper:
    link = card.get("link", "")
    others = [
        Reference(title=each["title"], year=each["year"], link=each.get("link", "")) for each in card.get("papers", ())
    ]
    models = card.get("models", ())
    weights = card.get("weights") or "; ".join(f"{each['weights']} ({each['licence']})" for each in models)
    if card["category"] not in CATEGORIES:
        raise ConfigError(
            f"the card of {system} has category {card['category']!r}; allowed are {', '.join(CATEGORIES)}"
        )
    return Paper(
        title=card["title"],
        year=card["year"],
        venue=card.get("venue", ""),
        link=link,
        category=card["category"],
        keywords=tuple(card.get("keywords", ())),
        models=(*card.get("key_models", ()), *(each["name"] for each in models)),
        systems=(system,),
        weights=weights,
        builds_on=tuple(each for each in others if each.title not in card["title"]),
    )


def _number(link: str) -> str:
    """What a link points at, whatever it is spelled like: the number on arXiv or OpenReview, else the link."""
    found = re.search(r"arxiv\.org/(?:abs|pdf)/(\d+\.\d+)|openreview\.net/(?:forum|pdf)\?id=(\w+)", link)
    return next(filter(None, found.groups())) if found else link.rstrip("/").casefold()


def _is_same(one: Paper, other: Paper) -> bool:
    same_link = bool(one.link) and _number(one.link) == _number(other.link)
    # two systems may be made after one paper: each keeps its entry
    both_ours = bool(one.systems) and bool(other.systems) and one.systems != other.systems
    return not both_ours and (same_link or one.title.casefold() == other.title.casefold())


def _merged(card: Paper, more: Paper) -> Paper:
    return replace(
        card,
        keywords=tuple(dict.fromkeys((*card.keywords, *more.keywords))),
        models=tuple(dict.fromkeys((*more.models, *card.models))),
        systems=tuple(dict.fromkeys((*card.systems, *more.systems))),
        venue=card.venue or more.venue,
    )


def describe(query: str | None = None) -> str:
    """The list as `voder papers` prints it; with a query, what it finds, or the nearest if it finds nothing."""
    found = papers(query)
    if not found:
        return f"nothing in the list mentions {query!r}{_near(query or '')}"
    blocks = []
    for category in categories():
        entries = [paper for paper in found if paper.category == category.name]
        if entries:
            blocks.append("\n".join([*_heading(category), *(line for paper in entries for line in _entry(paper))]))
    return "\n\n".join(blocks)


def _heading(category: Category) -> list[str]:
    return [
        category.name,
        *_wrapped(category.description, "  "),
        *_wrapped(f"keywords: {', '.join(category.keywords)}", "  "),
        *_wrapped(f"key models: {', '.join(category.key_models)}", "  "),
    ]


def _entry(paper: Paper) -> list[str]:
    when = paper.venue if str(paper.year) in paper.venue else ", ".join(filter(None, (str(paper.year), paper.venue)))
    lines = ["", *_wrapped(f"{paper.title} ({when})", "  - ", "    ")]
    if paper.link:
        lines.append(f"    {paper.link}")
    if paper.systems:
        lines += _wrapped(f"here: {', '.join(paper.systems)}", "    ")
    for label, values in (("models", paper.models), ("keywords", paper.keywords)):
        if values:
            lines += _wrapped(f"{label}: {', '.join(values)}", "    ")
    if paper.weights:
        lines += _wrapped(f"weights: {paper.weights}", "    ")
    if paper.builds_on:
        lines += _wrapped("builds on: " + "; ".join(f"{e.title} ({e.year})" for e in paper.builds_on), "    ")
    return lines


def _wrapped(text: str, first: str, further: str | None = None) -> list[str]:
    indent = first if further is None else further
    return textwrap.wrap(text, _WIDTH, initial_indent=first, subsequent_indent=indent, break_on_hyphens=False)


def _near(query: str) -> str:
    names = dict.fromkeys(_names(papers()))
    folded = {name.casefold(): name for name in names}
    close = difflib.get_close_matches(query.casefold(), list(folded), n=1, cutoff=0.5)
    return f"; the nearest is {folded[close[0]]!r}" if close else f"; its categories are {', '.join(CATEGORIES)}"


def _names(entries: Iterable[Paper]) -> Iterator[str]:
    for paper in entries:
        yield from (*paper.models, *paper.systems, *paper.keywords, paper.category, paper.title)
        yield from (word for word in re.findall(r"[\w.-]{4,}", paper.title))
