"""Strings made of clips: of one speaker, never held out, and a prompt is never the recording it goes before."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from voder.data.holdout import is_held_out
from voder.data.joins import JoinConfig, StringMaker
from voder.data.shards import TokenSplit

WORDS = ("one", "two", "three")


class Clips(TokenSplit):
    """A token split of two speakers who say three words three times each."""

    def __init__(self) -> None:
        self.ids = [f"{speaker}-{word}-{take}" for take in range(3) for speaker in "ab" for word in WORDS]
        self.lengths = np.full(len(self.ids), 4)

    def __len__(self) -> int:
        return len(self.ids)

    def codes(self, index: int) -> np.ndarray:
        return np.full((2, 4), index, np.int64)

    def utterance(self, index: int) -> Any:
        speaker, word, _ = self.ids[index].split("-")
        return SimpleNamespace(id=self.ids[index], speaker=speaker, text=word)


@pytest.fixture
def strings() -> StringMaker:
    return StringMaker(
        Clips(),
        JoinConfig(held_out_fraction=0.2),
        silence=np.full((2, 25), 99),
        frame_rate_hz=25.0,
        speaker_of=lambda name: "ab".index(name or ""),
        text_of=lambda text: text,
        max_frames=64,
        max_prompt_frames=32,
    )


def test_strings_are_of_one_speaker_and_never_held_out(strings: StringMaker) -> None:
    rng = np.random.default_rng(0)
    for count in (1, 2, 3, 4):
        for _ in range(30):
            spoken = strings.joined(rng, count)
            assert spoken.text.split() == [strings.split.utterance(clip).text for clip in spoken.clips]
            assert {strings.speakers[clip] for clip in spoken.clips} == {spoken.speaker}
            assert count == 1 or not is_held_out(spoken.text, 0.2)


def test_a_prompt_is_of_the_same_speaker_and_never_the_target_itself(strings: StringMaker) -> None:
    rng = np.random.default_rng(0)
    for _ in range(50):
        target = strings.joined(rng, 1)
        prompt = strings.prompt(rng, target, 2)
        assert prompt is not None
        assert prompt.speaker == target.speaker
        assert not set(prompt.clips) & set(target.clips)
