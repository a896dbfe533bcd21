from dataclasses import replace

import pytest
import torch

from voder.systems.whisper.config import ListenConfig
from voder.systems.whisper.decoding import (
    Answer,
    Question,
    WhisperSession,
    _least_bad,
    answer,
    answer_soundly,
    initial_ids,
    is_sound,
)
from voder.systems.whisper.features import fit_window
from voder.systems.whisper.rules import Rules
from voder.systems.whisper.tokenizer import WhisperTokenizer

TOKENIZER = WhisperTokenizer(51_865, language="en")
LISTEN = ListenConfig(sample_len=8)


@pytest.fixture(scope="module")
def memory(model, clips):
    mels = [fit_window(model.log_mel(torch.from_numpy(c.samples), 32_000), 200) for c in clips[1:]]
    return model.decoder.remember(model.encoder(torch.cat(mels)))


def questions(*previous):
    return [Question(tokenizer=TOKENIZER, previous=tuple(p), number=n) for n, p in enumerate(previous)]


PROMPTS = ((), (100, 200, 300), tuple(range(1000, 1012)))


@pytest.mark.parametrize("listen", [LISTEN, replace(LISTEN, beam_size=3, patience=1.5)], ids=["greedy", "beams"])
@pytest.mark.parametrize("temperature", [0.0, 0.7])
def test_windows_with_prompts_of_different_lengths_are_answered_as_if_alone(model, memory, listen, temperature):
    asked = questions(*PROMPTS)
    together = answer(model, memory.copy(), asked, listen, temperature)
    for row, question in enumerate(asked):
        alone = answer(model, memory.copy(torch.tensor([row])), [question], listen, temperature)[0]
        assert together[row].ids == alone.ids
        assert together[row].mean_log_probability == pytest.approx(alone.mean_log_probability, abs=1e-4)
        assert together[row].no_speech == pytest.approx(alone.no_speech, rel=1e-3)
    assert len({a.ids for a in together}) > 1  # else nothing was compared


def test_steps_through_the_cache_give_the_logits_of_the_whole(model, memory):
    ids = [initial_ids(q, LISTEN, 48) for q in questions(*PROMPTS)]
    free = ListenConfig(timestamps=False, suppress_tokens=(), suppress_blank=False)
    session = WhisperSession(
        model.decoder, memory.copy(), ids, Rules(TOKENIZER, free, 3, torch.device("cpu")), longest=4
    )
    logits = [session.start()]
    more = torch.tensor([[11, 12, 13], [21, 22, 23], [31, 32, 33]])
    logits += [session.step(more[:, step]) for step in range(3)]
    for row in range(3):
        whole = torch.tensor([[*ids[row], *more[row].tolist()]])
        one = memory.copy(torch.tensor([row]))
        hidden = model.decoder.hidden(whole, one, mask=torch.ones(1, len(whole[0]), len(whole[0])).tril().bool())
        expected = model.decoder.logits(hidden)[0, -4:]
        torch.testing.assert_close(torch.stack([step[row] for step in logits]), expected, atol=1e-3, rtol=1e-4)


@pytest.mark.parametrize("beam_size", [1, 3])
def test_the_mean_log_probability_is_that_of_the_ids_read_back(model, memory, beam_size):
    free = ListenConfig(timestamps=False, suppress_tokens=(), suppress_blank=False, sample_len=5, beam_size=beam_size)
    asked = questions(*PROMPTS)
    for row, found in enumerate(answer(model, memory.copy(), asked, free, 0.0)):
        prompt = initial_ids(asked[row], free, 48)
        said = [*found.ids, *([TOKENIZER.eot] if found.stop_reason == "end" else [])]
        whole = torch.tensor([[*prompt, *said]])
        mask = torch.ones(1, whole.shape[1], whole.shape[1]).tril().bool()
        hidden = model.decoder.hidden(whole, memory.copy(torch.tensor([row])), mask=mask)
        chances = model.decoder.logits(hidden)[0, len(prompt) - 1 : -1].log_softmax(-1)
        total = float(chances[torch.arange(len(said)), said].sum())
        assert found.mean_log_probability == pytest.approx(total / (len(found.ids) + 1), abs=1e-4)


def test_the_same_seed_draws_the_same_and_another_does_not(model, memory):
    asked = questions(*PROMPTS)
    first, again, other = (answer(model, memory.copy(), asked, replace(LISTEN, seed=s), 1.0) for s in (0, 0, 1))
    assert first == again
    assert [a.ids for a in first] != [a.ids for a in other]


def test_prompt_and_prefix_are_cut_to_half_the_positions():
    question = Question(tokenizer=TOKENIZER, previous=tuple(range(100)), prefix=tuple(range(200, 230)))
    ids = initial_ids(question, ListenConfig(sample_len=20), 48)
    assert ids[0] == TOKENIZER.sot_prev
    assert ids[1:24] == list(range(77, 100))
    assert ids[24:27] == list(TOKENIZER.prompt)
    assert ids[27:] == [226, 227, 228, 229]


def sound(**figures):
    base = {"mean_log_probability": -0.5, "no_speech": 0.1, "text": "fine"}
    values = {"ids": (1,), "language": "en", "temperature": 0.0, "stop_reason": "end", **base, **figures}
    return is_sound(Answer(**values), ListenConfig())


def test_loops_and_improbable_answers_are_not_taken_unless_nobody_speaks():
    assert sound()
    assert not sound(text="so " * 40)
    assert not sound(mean_log_probability=-1.5)
    assert sound(mean_log_probability=-1.5, no_speech=0.9)
    assert not sound(text="so " * 40, no_speech=0.9)


def test_only_answers_that_do_not_look_sound_are_asked_for_again(model, memory):
    asked = questions(*PROMPTS)
    first = answer(model, memory.copy(), asked, LISTEN, 0.0)
    middle = sorted(a.mean_log_probability for a in first)[1]
    listen = replace(
        LISTEN,
        temperatures=(0.0, 0.9),
        logprob_threshold=middle - 1e-5,
        compression_ratio_threshold=None,
        no_speech_threshold=None,
    )
    found = answer_soundly(model, memory, asked, listen)
    assert sorted(a.temperature for a in found) == [0.0, 0.0, 0.9]
    for before, after in zip(first, found, strict=True):
        assert (before.ids == after.ids) or after.temperature == 0.9


def said_at(temperature, text, probability):
    return Answer(
        ids=(1,),
        text=text,
        language="en",
        temperature=temperature,
        mean_log_probability=probability,
        no_speech=0.1,
        stop_reason="end",
    )


def test_where_nothing_sounds_right_the_likeliest_text_that_is_no_loop_is_kept():
    loop = "so " * 80
    tries = [said_at(0.0, loop, -0.1), said_at(0.2, "four three", -1.1), said_at(1.0, "Oh, Christmas!", -2.0)]
    best = _least_bad(tries, ListenConfig())
    assert best.text == "four three"
    assert best.temperature == 1.0  # so that the next window is not shown it
    worse = [said_at(0.0, loop, -0.1), said_at(1.0, "so " * 20, -3.0)]
    assert _least_bad(worse, ListenConfig()).text == "so " * 20
