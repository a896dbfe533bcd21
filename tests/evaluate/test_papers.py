"""The list of papers: complete, by category, found by a word, joined with the cards."""

from pathlib import Path

import pytest

import voder.systems
from voder.errors import ConfigError
from voder.evaluate import papers as module
from voder.evaluate.papers import CATEGORIES, categories, describe, papers, read_card
from voder.systems import SYSTEMS

OF_THE_LIST = {
    "2408.01319": "Survey",
    "2401.13601": "Survey",
    "2308.12792": "Survey",
    "2309.05519": "Speech/Audio-Text LLM",
    "2402.12226": "Speech/Audio-Text LLM",
    "14rn7HpKVk": "Speech/Audio-Text LLM",
    "2305.11000": "Speech/Audio-Text LLM",
    "2305.11834": "Speech/Audio-Text LLM",
    "2309.15505": "Speech Tokenization/Discretization",
    "2210.13438": "Speech Tokenization/Discretization",
    "2401.00246": "Speech Synthesis",
    "2301.02111": "Speech Synthesis",
    "2209.03143": "Audio/Music/Others",
}


def test_the_thirteen_entries_are_there_once_and_where_they_belong() -> None:
    for number, category in OF_THE_LIST.items():
        found = [paper for paper in papers() if number in paper.link]
        assert [paper.category for paper in found] == [category], number


def test_no_category_is_empty_and_each_says_what_it_holds() -> None:
    assert tuple(category.name for category in categories()) == CATEGORIES
    everything = papers()
    for category in categories():
        assert category.description
        assert category.keywords
        assert category.key_models
        assert [paper for paper in everything if paper.category == category.name]
    assert len([p for p in everything if p.category == "Speech Recognition & Translation"]) >= 5
    assert len([p for p in everything if p.category == "Self-supervised Pretrain Speech Model"]) >= 7


def test_entries_are_well_formed_and_name_systems_that_exist() -> None:
    titles = [paper.title.casefold() for paper in papers()]
    assert len(set(titles)) == len(titles)
    for paper in papers():
        assert paper.category in CATEGORIES
        assert paper.link.startswith("https://")
        assert paper.keywords, paper.title
        assert 1990 < paper.year < 2100
        assert set(paper.systems) <= set(SYSTEMS)
    named = {system for paper in papers() for system in paper.systems}
    assert named >= {name for name, line in SYSTEMS.items() if line != "a toy"}  # tests of the engine register toys


def test_cards_and_the_file_are_joined() -> None:
    (whisper,) = [paper for paper in papers() if paper.systems == ("whisper",)]
    assert "Whisper" in whisper.models
    assert whisper.weights
    found = papers("Finite Scalar VQ-VAE made")  # the paper, and the system that builds on it
    (fsq,) = [paper for paper in found if paper.title.startswith("Finite Scalar")]
    assert [paper.title for paper in found if paper is not fsq] == ["High Fidelity Neural Audio Compression"]
    assert fsq.systems == ("encodec",)
    hubert = next(paper for paper in papers("hubert") if paper.title.startswith("HuBERT"))
    assert any("wav2vec 2.0" in each.title for each in hubert.builds_on)


def test_a_query_looks_in_titles_keywords_models_and_categories() -> None:
    assert [paper.models for paper in papers("seed-asr")] == [("Seed-ASR",)]
    assert {paper.category for paper in papers("survey")} >= {"Survey"}
    assert papers("WHISPER") == papers("whisper")
    assert len(papers("codec language")) < len(papers("codec")) < len(papers())
    assert "SALMONN" in describe("q-former")
    assert "Survey\n" not in describe("q-former")


def test_all_of_it_is_printed_by_category() -> None:
    text = describe()
    places = [text.index(f"{name}\n") for name in CATEGORIES]
    assert places == sorted(places)
    assert max(map(len, text.splitlines())) <= 120
    assert "here: whisper" in text
    for number in OF_THE_LIST:
        assert number in text


def test_what_is_not_there_offers_the_nearest() -> None:
    assert describe("wisper") == "nothing in the list mentions 'wisper'; the nearest is 'whisper'"
    assert describe("qqqqqqq").startswith("nothing in the list mentions 'qqqqqqq'; its categories are Survey, ")


def test_a_card_without_front_matter_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_SYSTEMS", tmp_path)
    (tmp_path / "x").mkdir()
    with pytest.raises(ConfigError, match="no readable front matter"):
        read_card("x")
    (tmp_path / "x" / "README.md").write_text("# x\n")
    with pytest.raises(ConfigError, match="no readable front matter"):
        read_card("x")
    (tmp_path / "x" / "README.md").write_text("---\n- 1\n---\n")
    with pytest.raises(ConfigError, match="no front matter"):
        read_card("x")
    (tmp_path / "x" / "README.md").write_text('---\ntitle: x\nyear: 1\ncategory: "codec"\n---\n')
    monkeypatch.setattr(voder.systems, "SYSTEMS", {"x": "a system"})
    with pytest.raises(ConfigError, match="category 'codec'; allowed are Survey, "):
        papers()
