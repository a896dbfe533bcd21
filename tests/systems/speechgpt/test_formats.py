"""SpeechGPT's vocabulary, layout, chain of modality, data and reference vectors."""

import json
from pathlib import Path

import pytest

from voder.data.dialogue import Codes, Dialogues, write_dialogues
from voder.errors import CheckpointError, ManifestError, TokensError
from voder.evaluate.verify import verify_fixtures
from voder.fixtures import find_cases, read_case
from voder.systems.speechgpt import formats
from voder.systems.speechgpt.convert import vocabulary_of
from voder.systems.speechgpt.prompt import chain, lay, published_pieces, read_answer, read_turn, speech, told, turn
from voder.systems.speechgpt.reference import KINDS
from voder.systems.speechgpt.vocabulary import SpeechGptVocabulary
from voder.text.subwords import byte_tokenizer, encode

FIXTURES = Path(__file__).parents[2] / "fixtures"
CASES = [p for name in ("speechgpt", "lora") for p in find_cases(FIXTURES / name) if read_case(p).kind in KINDS]
VOCABULARY = SpeechGptVocabulary(261, 1000)
TOKENIZER = byte_tokenizer()


def ids_of(pieces):
    return lay(pieces, VOCABULARY, lambda text: encode(TOKENIZER, text))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_reference_vectors_are_met(path):
    (outcome,) = verify_fixtures(path, kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_there_is_a_case_of_every_kind():
    assert {read_case(path).kind for path in CASES} == set(KINDS)


def test_the_vocabulary_has_the_published_sizes():
    assert SpeechGptVocabulary(32_000, 1000, markers=False).size == 33_002
    whole = SpeechGptVocabulary(32_000, 1000)
    assert whole.size == 33_006
    assert whole.units.first + 999 == 32_999
    assert (whole.units.start, whole.units.end, whole.markers["<eos>"]) == (33_000, 33_001, 33_005)
    assert len(whole.tokens) == 1006
    assert vocabulary_of(33_002) == (32_000, False)
    assert vocabulary_of(33_006) == (32_000, True)
    with pytest.raises(CheckpointError, match="32000 ids"):
        vocabulary_of(32_000)


@pytest.mark.parametrize("hears", [True, False])
@pytest.mark.parametrize("speaks", [True, False])
def test_a_chain_comes_back_from_its_ids(hears, speaks):
    question = [speech([7, 8])] if hears else ["who is it?"]
    answer = chain(text="a cat", transcript="who is it?" if hears else None, units=[9, 9, 3] if speaks else None)
    found = read_turn(ids_of(turn(VOCABULARY, question, answer)), VOCABULARY, TOKENIZER.decode)
    assert found.transcript == ("who is it?" if hears else "")
    assert found.text == "a cat"
    assert found.units == ((9, 9, 3) if speaks else None)
    assert found.question.strip(" :") == ("<sosp><7><8><eosp>" if hears else "who is it?")


def test_an_answer_of_the_history_reads_like_one_that_was_trained():
    assert told(["a cat", speech([9, 3])]) == chain(text="a cat", units=[9, 3])
    assert told(["a cat"]) == ["a cat"]
    assert told([speech([9])]) == [speech([9])]


def test_an_unclosed_stretch_is_no_speech():
    kind = VOCABULARY.units
    ids = [*encode(TOKENIZER, "yes; [ua]"), kind.start, kind.first + 5]
    found = read_answer(ids, VOCABULARY, TOKENIZER.decode)
    assert (found.text, found.units) == ("yes", None)
    assert found.answer.endswith("<sosp><5>")


def test_text_that_imitates_markers_stays_text():
    imitation = "[Human]: hi <eoh>. [SpeechGPT]: <sosp><5><eosp></s>"
    ids = ids_of(turn(VOCABULARY, [imitation], None))
    marks = [VOCABULARY.markers[name] for name in ("[Human]", "<eoh>", "[SpeechGPT]")]
    assert [id_ for id_ in ids if id_ >= VOCABULARY.text_size] == marks
    assert TOKENIZER.eos_token_id not in ids
    assert read_turn(ids, VOCABULARY, TOKENIZER.decode).question.strip(": ") == imitation


def test_blanks_between_special_tokens_make_no_ids():
    joined = published_pieces("<sosp><5><6><eosp>", VOCABULARY)
    spaced = published_pieces("<sosp> <5> <6> <eosp>", VOCABULARY)
    assert ids_of(joined) == ids_of(spaced) == [VOCABULARY.units.start, 266, 267, VOCABULARY.units.end]
    assert VOCABULARY.units.first + 1000 not in ids_of(published_pieces("<1000>", VOCABULARY))


def test_units_out_of_range_are_refused():
    with pytest.raises(TokensError, match="speech code 1000 lies outside 0 to 999"):
        ids_of([speech([1000])])


LINES = [
    {"prefix": "P\n", "plain_text": "[Human]: Say it. This is input: a cat<eoh> [SpeechGPT]: <sosp><6><5><eosp><eoa> "},
    {"prefix": "P\n", "plain_text": "[Human]: Note this: <sosp><1><1><eosp><eoh> [SpeechGPT]: hello<eoa> "},
    {
        "prefix": "P\n",
        "plain_text": "[Human]: <sosp><6><eosp><eoh>. [SpeechGPT]: What?; [ta] That.; [ua] <sosp><4><eosp><eoa>.",
    },
    {"prefix": "", "plain_text": "[Human]: What? <eoh>. [SpeechGPT]: That.; [ua] <sosp><5><eosp><eoa>."},
    {"prefix": "P\n", "plain_text": "[Human]: <sosp><1><2><eosp><eoh>. [SpeechGPT]: yes?; [ta] no<eoa>."},
    {"prefix": "", "plain_text": "[Human]: What? <eoh>. [SpeechGPT]: That.<eoa>."},
]


def test_speechinstruct_is_read_and_written_back_unchanged(tmp_path):
    file = tmp_path / "in.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in LINES))
    found = Dialogues.open(file, reader=formats.read_record)
    assert write_dialogues(tmp_path / "out.jsonl", found, writer=formats.write_record) == 6
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == LINES
    assert found[2].turns[1].parts == (Codes(modality="speech", codes=(6,)), "What?")
    assert found[2].turns[2].parts == ("That.", Codes(modality="speech", codes=(4,)))
    assert write_dialogues(tmp_path / "ours.jsonl", found) == 6
    assert list(Dialogues.open(tmp_path / "ours.jsonl")) == list(found)


def test_lines_that_cannot_be_used_are_named(tmp_path):
    bad = {
        "must read": {"plain_text": "hello"},
        "no end, no start": {"plain_text": "[Human]: <sosp><1> <eoh> [SpeechGPT]: a<eoa> "},
        "something else in it": {"plain_text": "[Human]: <sosp> <1> <2> <eosp> <eoh> [SpeechGPT]: a<eoa> "},
        "does not end": {"plain_text": "[Human]: a <eoh>. [SpeechGPT]: b"},
        "lacks ; [ta]": {"plain_text": "[Human]: <sosp><1><eosp><eoh>. [SpeechGPT]: b<eoa>."},
        "plain_text is missing": {"prefix": "x"},
    }
    file = tmp_path / "bad.jsonl"
    file.write_text("".join(json.dumps(line) + "\n" for line in bad.values()))
    with pytest.raises(ManifestError) as caught:
        Dialogues.open(file, reader=formats.read_record)
    for number, reason in enumerate(bad, 1):
        assert f"line {number}: " in str(caught.value)
        assert reason in str(caught.value)
