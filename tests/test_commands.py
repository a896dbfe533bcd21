"""Every command that README, cards, docs and recipes show is one that voder takes, with settings that exist."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest

from voder import cli

ROOT = Path(__file__).parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/*.md"), *ROOT.glob("src/**/README.md")])
RECIPES = sorted(ROOT.glob("recipes/*.sh"))
ABBREVIATED = {"…", "..."}
"""A command with one of these stands for many."""


def commands(file: Path) -> Iterator[tuple[int, list[str]]]:
    """Line numbers and words of the commands in a page's indented and fenced blocks, or in a script."""
    text = file.read_text(encoding="utf-8").replace("\\\n", " ")
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.startswith("```")
        if file.suffix == ".md" and not (fenced or line.startswith("    ")):
            continue
        for piece in re.split(r";|&&|\|\|", re.sub(r"(^|\s)#.*", "", line)):
            if re.match(r"\s*voder [a-z]", piece) and not ABBREVIATED & set(piece.split()):
                yield number, shlex.split(re.sub(r"\$\{?\w+\}?", "x", piece))[1:]


FOUND = [
    pytest.param(words, id=f"{file.relative_to(ROOT)}:{number}")
    for file in (*PAGES, *RECIPES)
    for number, words in commands(file)
]


def test_commands_are_found() -> None:
    assert len(FOUND) > 100
    assert any("recipes" in str(each.id) for each in FOUND)


@pytest.mark.parametrize("words", FOUND)
def test_a_command_that_is_shown_is_taken(words: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    if words[0] == "train":
        status = cli.main([*words, "--print-config"])
        assert status == 0, capsys.readouterr().err
    else:
        assert words[0] in cli.VERBS, f"there is no verb {words[0]}"
        cli._parse(words[0], words[1:])
