"""Dialogues: what is written is read back; every bad record is named."""

import json
from pathlib import Path

import pytest

from voder.data.dialogue import (
    Codes,
    Dialogue,
    Dialogues,
    DialogueTurn,
    Media,
    read_record,
    write_dialogues,
)
from voder.errors import ManifestError


def dialogue(folder, number=0):
    sound = Media(kind="audio", path=folder / "a.wav", start_s=1.5, end_s=4.0, caption="a dog")
    picture = Media(kind="image", path=folder / "sub" / "b.png", embedding=folder / "b.npy")
    return Dialogue(
        id=f"d{number}",
        turns=(
            DialogueTurn(role="system", parts=("Be kind.",)),
            DialogueTurn(role="user", parts=(sound, "Kdo štěká?")),
            DialogueTurn(
                role="assistant", parts=("A dog", picture, Codes(modality="speech", codes=(3, 1), tokenizer="t"))
            ),
        ),
        task="qa",
        licence="CC0",
        source="ours",
        language="cs",
    )


@pytest.mark.parametrize("name", ["d.jsonl", "d.json"])
def test_what_is_written_is_read_back(tmp_path, name):
    items = [dialogue(tmp_path, number) for number in range(3)]
    assert write_dialogues(tmp_path / name, items) == 3
    found = Dialogues.open(tmp_path / name)
    assert list(found) == items
    assert found[-1] == items[2]
    assert found[1:] == items[1:]
    assert items[0].turns[1].text == "Kdo štěká?"
    first = (tmp_path / name).read_bytes()
    write_dialogues(tmp_path / name, found)
    assert (tmp_path / name).read_bytes() == first


def test_every_bad_line_is_named_with_its_reason(tmp_path):
    user = {"role": "user", "parts": ["hi"]}
    lines = {
        "not JSON": "{",
        "turns must be a list": json.dumps({"id": "a"}),
        "turns are missing": json.dumps({"turns": []}),
        "role 'robot'": json.dumps({"turns": [{"role": "robot", "parts": ["x"]}]}),
        "turn 1 is empty": json.dumps({"turns": [{"role": "user", "parts": []}]}),
        "turn 2 is the system's": json.dumps({"turns": [user, {"role": "system", "parts": ["x"]}]}),
        "one of text, codes": json.dumps({"turns": [{"role": "user", "parts": [{"text": "x", "audio": "y"}]}]}),
        "modality 'smell'": json.dumps({"turns": [{"role": "user", "parts": [{"codes": [1], "modality": "smell"}]}]}),
        "one is -1": json.dumps({"turns": [{"role": "user", "parts": [{"codes": [-1], "modality": "image"}]}]}),
        "names no file": json.dumps({"turns": [{"role": "user", "parts": [{"audio": ""}]}]}),
        "must be above": json.dumps({"turns": [{"role": "user", "parts": [{"audio": "a", "start_s": 2, "end_s": 1}]}]}),
        "number of seconds": json.dumps({"turns": [{"role": "user", "parts": [{"audio": "a", "end_s": True}]}]}),
        "id 'twice' stands": json.dumps({"id": "twice", "turns": [user]}),
        "not list": "[]",
    }
    good = json.dumps({"id": "twice", "turns": [user]})
    path = tmp_path / "bad.jsonl"
    path.write_text("\n".join([good, *lines.values()]) + "\n")
    with pytest.raises(ManifestError) as caught:
        Dialogues.open(path)
    message = str(caught.value)
    for number, reason in enumerate(lines, 2):
        assert f"line {number}: " in message
        assert reason in message
    kept = Dialogues.open(path, skip_bad=True)
    assert len(kept) == 1
    assert [line for line, _ in kept.bad_lines] == list(range(2, 2 + len(lines)))


def test_a_record_without_an_id_gets_one_from_its_content(tmp_path):
    row = {"turns": [{"role": "user", "parts": ["hi"]}]}
    other = {"turns": [{"role": "user", "parts": ["ho"]}]}
    assert read_record(row, tmp_path).id == read_record(row, Path("/elsewhere")).id != read_record(other, tmp_path).id


def test_the_dialogue_that_a_format_cannot_hold_is_named(tmp_path):
    def writer(item, folder):
        raise ManifestError("no room for images")

    with pytest.raises(ManifestError, match=r"'d0'.*no room for images"):
        write_dialogues(tmp_path / "x.jsonl", [dialogue(tmp_path)], writer=writer)
    assert not (tmp_path / "x.jsonl").exists()


def test_a_file_that_is_missing_or_changed_is_one_sentence(tmp_path):
    with pytest.raises(ManifestError, match="cannot be read"):
        Dialogues.open(tmp_path / "none.jsonl")
    write_dialogues(tmp_path / "d.jsonl", [dialogue(tmp_path)])
    found = Dialogues.open(tmp_path / "d.jsonl")
    (tmp_path / "d.jsonl").write_text("{}\n")
    with pytest.raises(ManifestError, match="has changed"):
        found[0]
