"""What tasks of voices share: whose turn it is, paces from texts, speakers behind those before."""

from pathlib import Path

import pytest

from voder.errors import ConfigError, TokensError
from voder.train.voices import VoiceTaskConfig, appended, codebook_learned, pace


def test_codebooks_take_turns_on_every_nth_step_of_both_and_on_every_step_alone():
    both, alone = VoiceTaskConfig(nar_every=2), VoiceTaskConfig(stage="nar", nar_every=2)
    assert [codebook_learned(both, step, 4) for step in range(9)] == [1, None, 2, None, 3, None, 1, None, 2]
    assert [codebook_learned(alone, step, 4) for step in range(4)] == [1, 2, 3, 1]
    assert codebook_learned(VoiceTaskConfig(stage="ar"), 0, 4) is None
    assert codebook_learned(both, 0, 1) is None


def test_a_voice_that_goes_on_keeps_its_pace_and_may_only_say_longer():
    tokens = Path("tokens")
    assert pace(tokens, [2.0, 3.0, 8.0], None) == (3.0, 10.0)
    assert pace(tokens, [2.0, 3.0, 8.0], (2.5, 4.0)) == (2.5, 10.0)
    assert pace(tokens, [2.0], (2.5, 4.0)) == (2.5, 4.0)
    with pytest.raises(TokensError, match="tokens: no recording of the training split has a text"):
        pace(tokens, [], None)


def test_new_names_follow_the_old_in_order():
    assert appended(("b", "a"), {"d", "a", "c"}) == ("b", "a", "c", "d")


def test_settings_below_one_are_refused():
    with pytest.raises(ConfigError, match=r"task\.nar_every is 0; at least 1 is wanted"):
        VoiceTaskConfig(nar_every=0)
