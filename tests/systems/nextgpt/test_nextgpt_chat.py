import builtins
from dataclasses import replace

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.errors import CheckpointError, ConfigError, InputError
from voder.generate.lm import GenerateConfig
from voder.roles import Turn
from voder.systems.nextgpt import SYSTEM
from voder.systems.nextgpt.generators import load_generator
from voder.systems.nextgpt.infer import NextGptChatter
from voder.systems.nextgpt.model import NextGpt, lay_out
from voder.systems.nextgpt.pieces import Piece, Words
from voder.systems.nextgpt.speaking import speak
from voder.systems.nextgpt.vocabulary import fill_rows
from voder.text.subwords import byte_tokenizer

TINY = SYSTEM.preset("tiny").model
CLIP = AudioClip((np.random.default_rng(0).standard_normal((1, 4000)) * 0.1).astype(np.float32), 8000)
IMAGE = np.random.default_rng(0).integers(0, 255, (12, 9, 3)).astype(np.uint8)


def chatter(config=TINY, generators=None):
    torch.manual_seed(0)
    model = NextGpt(config).eval().requires_grad_(False)
    fill_rows(model, torch.Generator().manual_seed(0))
    return NextGptChatter(model, Words(config, byte_tokenizer()), generators)


def user(*parts):
    return Turn(role="user", parts=parts)


class Whistle:
    """A generator that remembers what it was asked for."""

    def __init__(self):
        self.asked = []

    def make(self, condition, seed):
        self.asked.append((condition, seed))
        return AudioClip(np.zeros((1, 10), np.float32), 16_000)


class Broken:
    def make(self, condition, seed):
        raise RuntimeError("out of luck\nand more")


class Script:
    """A session that says given ids, whatever was said before; for anything else its logits are equal."""

    def __init__(self, size, ids):
        self.size, self.ids, self.fed = size, list(ids), []

    def start(self):
        return self._next()

    def step(self, ids):
        self.fed.append(int(ids))
        return self._next()

    def select(self, rows):
        raise AssertionError("one row only")

    def _next(self):
        logits = torch.zeros(1, self.size)
        if self.ids:
            logits[0, self.ids.pop(0)] = 9.0
        return logits


def said(ids, **changes):
    made = Words(TINY, byte_tokenizer())
    session = Script(made.vocabulary.size, ids)
    options = {"kinds": ["image", "audio"], "want": None, "room": 100} | changes
    noise = torch.Generator().manual_seed(0)
    return made, session, speak(session, made, GenerateConfig(max_new=20), noise=noise, **options)


def test_a_span_that_has_begun_is_said_to_its_end():
    made = Words(TINY, byte_tokenizer())
    first = made.signals("audio")[0]
    x = made.encode("x")[0]
    # behind the first signal the model would say text three times: the span goes on instead
    made, session, turn = said([x, first, x, x, 2, 2])
    assert turn.ids == [x, *made.signals("audio")]
    assert session.fed == [x, *made.signals("audio")]
    assert turn.shows == ["audio"]
    assert turn.text == [x]
    assert turn.stop_reason == "end"


def test_signals_never_go_on_for_ever():
    made = Words(TINY, byte_tokenizer())
    first = made.signals("audio")[0]
    _, _, turn = said([first, 0, 0, first, first, first, 2])
    assert turn.shows == ["audio"]
    assert turn.ids.count(first) == 1


def test_signals_are_said_by_their_first_alone():
    made = Words(TINY, byte_tokenizer())
    inner, mark = made.signals("audio")[1], made.vocabulary["marks"].start
    _, _, turn = said([inner, mark, 2])
    assert turn.shows == []
    assert all(id_ < made.vocabulary["text"].end for id_ in turn.ids)


def test_what_is_wanted_is_shown_even_when_the_model_forgets_it():
    made, _, turn = said([2], want="audio", kinds=["audio"])
    assert turn.shows == ["audio"]
    assert turn.ids == list(made.signals("audio"))
    made, _, turn = said([made.encode("x")[0]] * 50, want="audio", kinds=["audio"], room=10)
    assert turn.stop_reason == "limit"
    assert len(turn.ids) == 10
    assert tuple(turn.ids[-3:]) == made.signals("audio")


def test_the_old_lines_end_is_found_on_ids_and_left_out():
    made = Words(TINY, byte_tokenizer())
    _, _, turn = said([*made.encode("yes\n###"), *made.encode("more")])
    assert byte_tokenizer().decode(turn.text) == "yes"
    assert turn.stop_reason == "end"


def test_an_end_that_signals_part_takes_none_of_them_away():
    made = Words(TINY, byte_tokenizer())
    line, *marks = made.encode("\n###")
    _, _, turn = said([line, made.signals("audio")[0], 0, 0, *marks])
    assert turn.ids == [line, *made.signals("audio")]
    assert (turn.text, turn.stop_reason) == ([line], "end")


def test_a_span_without_room_is_not_begun():
    made = Words(TINY, byte_tokenizer())
    x, first = made.encode("x")[0], made.signals("audio")[0]
    made, _, turn = said([x, x, first, first, first, first], room=4)
    assert (turn.shows, len(turn.ids), turn.stop_reason) == ([], 4, "limit")
    assert all(id_ < made.vocabulary["text"].end for id_ in turn.ids)


@torch.no_grad()
def test_shown_states_are_those_of_teacher_forcing():
    role = chatter()
    pieces, vectors = role.read([user(CLIP, "what is it?")])
    turn = role._speak(pieces, vectors, GenerateConfig(max_new=6), kinds=["audio"], want="audio", seed=0)
    condition = role.conditions(pieces, vectors, turn)["audio"]
    read = lay_out([[*pieces, Piece(tuple(turn.ids))]])
    output = role.model.lm(
        inputs_embeds=role.model.embeddings(read, vectors),
        attention_mask=read.valid.long(),
        output_hidden_states=True,
        use_cache=True,
    )
    cut = read.ids.shape[1] - 3
    states = output.hidden_states[-1][:, cut:]
    projected = role.model.output_projectors["audio"](states, role.model.embed(read.ids[:, cut:]))
    torch.testing.assert_close(condition, projected[0], atol=1e-5, rtol=1e-5)


def test_without_a_generator_text_is_answered_and_the_part_named():
    turn = chatter().reply([user("let me hear a")], want="audio", max_new=5)
    assert len(turn.missing) == 1
    assert turn.missing[0].startswith("audio: no generator lies beside this checkpoint (parts/audio_generator")
    assert all(isinstance(part, str) for part in turn.parts)


def test_a_generator_that_fails_costs_its_medium_alone():
    turn = chatter(generators={"audio": Broken()}).reply([user("let me hear a")], want="audio", max_new=5)
    assert turn.missing == ("audio: its generator failed (out of luck)",)


def test_a_generator_gets_the_condition_and_the_seed():
    whistle = Whistle()
    role = chatter(generators={"audio": whistle})
    turn = role.reply([user("let me hear a")], want="audio", seed=3, max_new=5)
    assert isinstance(turn.parts[-1], AudioClip)
    ((condition, seed),) = whistle.asked
    assert (condition.shape, seed) == ((1, 8), 3)
    again = role.reply([user("hi"), turn, user("once more")], max_new=3)  # what was shown stays in the history
    assert again.role == "assistant"


def test_a_missing_package_is_named_in_the_turn(tmp_path, monkeypatch):
    real = builtins.__import__

    def absent(name, *args, **kwargs):
        if name == "diffusers":
            raise ModuleNotFoundError("No module named 'diffusers'", name="diffusers")
        return real(name, *args, **kwargs)

    monkeypatch.setattr(builtins, "__import__", absent)
    (tmp_path / "generator").mkdir()
    with pytest.raises(ConfigError, match="the package diffusers is missing"):
        load_generator("audio", tmp_path / "generator")
    model = NextGpt(TINY)
    fill_rows(model, torch.Generator().manual_seed(0))
    parts = {"audio_generator": tmp_path / "generator"}
    checkpoint.save(tmp_path / "c", system="nextgpt", config=TINY, state=model.state_dict(), parts=parts)
    turn = hub.load(tmp_path / "c").reply([user("hear a")], want="audio", max_new=3)
    assert turn.missing == ("audio: the package diffusers is missing: pip install diffusers",)


def test_a_folder_that_is_no_generator_is_refused(tmp_path, monkeypatch):
    import sys
    from types import ModuleType

    monkeypatch.setitem(sys.modules, "diffusers", ModuleType("diffusers"))
    with pytest.raises(CheckpointError, match="is no generator of image"):
        load_generator("image", tmp_path)


@pytest.mark.parametrize(
    ("turns", "words"),
    [
        ([], "must end with a user's turn"),
        ([user("a"), Turn(role="assistant", parts=("b",))], "must end with a user's turn"),
        ([Turn(role="system", parts=("be kind",)), user("a")], "turn 1 is the system's"),
        ([user(" ")], "turn 1 is empty"),
        ([user("x" * 200)], "begin a new one"),
        ([user("a"), Turn(role="assistant", parts=("b" * 200,)), user("c")], "begin a new one"),
    ],
)
def test_conversations_that_cannot_be_answered_are_refused(turns, words):
    with pytest.raises(InputError, match=words):
        chatter().reply(turns)


def test_pictures_are_taken_by_models_with_eyes_alone():
    assert chatter().takes == ("text", "audio", "image")
    assert chatter().reply([user(IMAGE, "what is it?")], max_new=3).role == "assistant"
    blind = chatter(replace(TINY, encoder=replace(TINY.encoder, vision=None)))
    assert blind.takes == ("text", "audio")
    with pytest.raises(InputError, match="this model takes text, audio"):
        blind.reply([user(IMAGE, "what is it?")])


def test_what_is_heard_and_seen_counts():
    role = chatter()
    other = AudioClip(CLIP.samples[:, ::-1].copy(), 8000)
    vectors = [role.read([user(part, "?")])[1] for part in (CLIP, other, IMAGE)]
    assert not torch.allclose(vectors[0], vectors[1])
    assert not torch.allclose(vectors[0], vectors[2])


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"want": "video"}, "gives text, audio, image, no video"),
        ({"num_beams": 3}, "without beams"),
        ({"tempreature": 1.0}, "no decoding option"),
        ({"greedy": True, "top_p": 0.5}, "nothing for top_p"),
    ],
)
def test_options_that_cannot_act_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        chatter().reply([user("a")], **options)


def test_sampling_depends_on_the_seed_alone():
    role = chatter()
    say = lambda seed: role.reply([user("a")], seed=seed, temperature=3.0, max_new=8).text  # noqa: E731
    assert say(0) == say(0)
    assert len({say(seed) for seed in range(4)}) > 1
    assert role.reply([user("a")], max_new=4) == role.reply([user("a")], max_new=4)


def test_text_alone_can_be_asked_for():
    turn = chatter().reply([user("a")], want="text", max_new=20)
    assert turn.missing == ()
    assert all(isinstance(part, str) for part in turn.parts)
