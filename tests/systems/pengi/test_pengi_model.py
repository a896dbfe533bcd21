from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from voder.audio.io import AudioClip
from voder.errors import AudioError, ConfigError, TextError
from voder.evaluate.verify import verify_fixtures
from voder.nn.causal_lm import CausalLmSession
from voder.systems.pengi import SYSTEM, hearing
from voder.systems.pengi.beam import SearchConfig, search
from voder.systems.pengi.config import HtsatConfig, MapperConfig, PengiConfig
from voder.systems.pengi.hearing import fit_length, hear, one_channel, resample
from voder.systems.pengi.htsat import FrontEnd, join_windows, split_windows
from voder.systems.pengi.infer import Asking, PengiListener
from voder.systems.pengi.labels import match_label, stems
from voder.systems.pengi.model import Pengi, answer_loss
from voder.systems.pengi.reading import Reader
from voder.systems.pengi.reference import KINDS
from voder.systems.pengi.stages import STAGES
from voder.text.subwords import byte_tokenizer, encode_marked
from voder.train.stages import freeze_all_but

FIXTURES = Path(__file__).parents[2] / "fixtures" / "pengi"
TINY = SYSTEM.preset("tiny").model


def model(config=TINY):
    torch.manual_seed(0)
    return Pengi(config).eval().requires_grad_(False)


def listener(config=TINY):
    return PengiListener(model(config), Reader(config, byte_tokenizer(), byte_tokenizer()))


def noise(num_samples, channels=1, rate_hz=8000, seed=0):
    rng = np.random.default_rng(seed)
    return AudioClip((rng.standard_normal((channels, num_samples)) * 0.1).astype(np.float32), rate_hz)


@pytest.mark.parametrize("name", ["htsat_small", "pengi_a", "pengi_no_text_enc"])
def test_reference_vectors_are_met(name):
    (outcome,) = verify_fixtures(FIXTURES / f"{name}.json", kinds=KINDS).outcomes
    assert outcome.status == "pass", outcome.details


def test_a_mel_bank_for_32_khz_hears_44_1_khz_audio_in_lower_bands():
    def loudest(filter_rate_hz):
        front = FrontEnd(HtsatConfig(filter_rate_hz=filter_rate_hz))
        tone = torch.sin(2 * torch.pi * 5000 / 44_100 * torch.arange(8820))[None]
        return int(front(tone)[0, 10].argmax())

    assert loudest(None) == loudest(44_100) > loudest(32_000)


def test_published_seven_seconds_give_965_frames_and_fit_the_image():
    config = HtsatConfig()
    assert FrontEnd(config)(torch.zeros(1, 308_700)).shape == (1, 965, 64)
    assert config.max_frames == 1024
    with pytest.raises(ValueError, match="257 frames do not fit an image of 128"):
        model().audio_encoder.image(torch.zeros(1, 257, 8))


def test_windows_are_cut_and_joined_without_loss():
    grid = torch.randn(2, 8, 8, 3)
    assert torch.equal(join_windows(split_windows(grid, 4), 4, 8), grid)


def test_stereo_is_mixed_or_laid_behind_as_the_authors_do():
    samples = np.array([[1.0, 2.0], [3.0, 6.0]], np.float32)
    assert one_channel(samples, "mean").tolist() == [2.0, 4.0]
    assert one_channel(samples, "behind").tolist() == [1.0, 2.0, 3.0, 6.0]


def test_short_recordings_are_repeated_and_long_ones_cut():
    assert fit_length(np.arange(3, dtype=np.float32), 7).tolist() == [0, 1, 2, 0, 1, 2, 0]
    long = np.arange(9, dtype=np.float32)
    assert fit_length(long, 4).tolist() == [0, 1, 2, 3]
    starts = {fit_length(long, 4, np.random.default_rng(seed))[0] for seed in range(20)}
    assert len(starts) > 2
    assert starts <= {0, 1, 2, 3, 4, 5}
    with pytest.raises(AudioError, match="without samples"):
        fit_length(long[:0], 4)


def test_audio_of_any_rate_is_brought_to_the_models():
    heard = hear(noise(16_000, rate_hz=48_000), sample_rate_hz=44_100, num_samples=14_700)
    assert heard.shape == (14_700,)
    assert np.isfinite(heard).all()


@pytest.mark.parametrize("rate_hz", [7999, 44_100, 48_000])
def test_what_is_beyond_the_heard_seconds_is_not_resampled_and_changes_nothing(rate_hz, monkeypatch):
    clip, seen = noise(9 * rate_hz, rate_hz=rate_hz), []
    whole = fit_length(one_channel(resample(clip, 8000), "mean"), 8000)
    monkeypatch.setattr(hearing, "resample", lambda clip, rate: seen.append(clip.duration_s) or resample(clip, rate))
    assert np.array_equal(hear(clip, sample_rate_hz=8000, num_samples=8000), whole)
    assert seen == [pytest.approx(3.0, abs=0.01)]


def test_the_prefix_is_two_mappers_long_and_carries_no_loss():
    config = replace(TINY, mapper=MapperConfig(width=16, prefix=4, clip=2, num_layers=1, num_heads=2))
    net = model(config)
    heard, read = net.hear(torch.randn(2, 8000)), net.read(torch.tensor([[5, 262], [6, 262]]))
    prefix = net.prefix(heard, read)
    assert prefix.shape == (2, 8, 16)
    answer, valid = torch.tensor([[5, 6, 2], [7, 2, 0]]), torch.tensor([[1, 1, 1], [1, 1, 0]]).bool()
    logits = net.logits(prefix, answer)
    value, count = answer_loss(logits, answer, valid)
    labels = torch.tensor([[-100] * 8 + [5, 6, 2], [-100] * 8 + [7, 2, -100]])
    expected = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), labels[:, 1:].flatten())
    assert count == 5
    torch.testing.assert_close(value, expected)


def test_the_authors_inference_leaves_the_text_unnormalised():
    net = model()
    heard, read = net.hear(torch.randn(1, 8000)), 3 * net.read(torch.tensor([[5, 262]]))
    assert torch.allclose(net.prefix(heard, read), net.prefix(heard, read / 3), atol=1e-6)
    assert not torch.allclose(
        net.prefix(heard, read, normalise_text=False), net.prefix(heard, read / 3, normalise_text=False)
    )


@pytest.mark.parametrize("text", [TINY.text, None])
def test_only_encoder_projections_and_mappers_learn(text):
    config = replace(TINY, text=text, max_prompt=24 if text else TINY.mapper.clip)
    net = Pengi(config)
    freeze_all_but(net, STAGES["pretrain"].trained)
    learning = {name.split(".")[0] for name, p in net.named_parameters() if p.requires_grad}
    frozen = {name.split(".")[0] for name, p in net.named_parameters() if not p.requires_grad}
    projections = {"audio_projection", "text_projection"} if text else {"audio_projection"}
    assert learning == {"audio_encoder", "audio_mapper", "text_mapper"} | projections
    assert frozen == ({"lm", "text_encoder"} if text else {"lm"})


class Chain:
    """A session over one row whose logits depend on the last id alone."""

    def __init__(self, table):
        self.table, self.ids = table, torch.zeros(1, dtype=torch.long)

    def start(self):
        return self.table[self.ids]

    def step(self, ids):
        assert len(ids) == len(self.ids)
        self.ids = ids
        return self.table[ids]

    def select(self, rows):
        self.ids = self.ids[rows]


def test_one_beam_follows_the_likeliest_ids():
    torch.manual_seed(0)
    net = model()
    session = CausalLmSession(net.lm, torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.long))
    (found,) = search(session, SearchConfig(num_beams=1, max_new=6), end_id=2)
    greedy = CausalLmSession(net.lm, torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.long))
    torch.manual_seed(0)
    again = model()
    greedy = CausalLmSession(again.lm, torch.randn(1, 5, 16), torch.ones(1, 5, dtype=torch.long))
    ids, logits = [], greedy.start()
    for _ in range(len(found.ids)):
        ids.append(int(logits.argmax()))
        logits = greedy.step(torch.tensor([ids[-1]]))
    assert list(found.ids) == ids


def test_an_ended_hypothesis_keeps_its_place_and_its_mean():
    table = torch.full((4, 4), -9.0)
    table[0, 3], table[0, 1] = 1.0, 0.9  # ends at once, or goes on with 1
    table[1, 1] = 9.0
    found = search(Chain(table), SearchConfig(num_beams=2, max_new=3), end_id=3)
    assert {each.ids for each in found} == {(3,), (1, 1, 1)}
    by_ids = {each.ids: each for each in found}
    assert by_ids[(3,)].stop_reason == "end"
    assert by_ids[(1, 1, 1)].stop_reason == "limit"
    first = table[0].log_softmax(0)
    assert by_ids[(3,)].score == pytest.approx(float(first[3]))
    assert by_ids[(1, 1, 1)].score == pytest.approx(float(first[1] + 2 * table[1].log_softmax(0)[1]) / 3, rel=1e-5)
    assert found[0].score >= found[1].score


def test_text_that_looks_like_an_end_stays_text():
    reader = Reader(TINY, byte_tokenizer(), byte_tokenizer())
    assert 2 in encode_marked(byte_tokenizer(), "</s>")
    assert reader.answer_ids("a</s>b").count(reader.end_id) == 1
    assert reader.answer(reader.answer_ids("a</s>b")) == "a</s>b"
    ids = reader.prompt_ids("x</s>")
    top = TINY.text.vocabulary_size
    assert (ids[0], ids[-1]) == (top - 2, top - 1)
    assert max(ids[1:-1]) < top - 2
    padded, valid = reader.prompts(["!"])  # "!" is what others fill up with
    assert int(valid.sum()) == 3
    assert int(padded.argmax()) == 2


def test_what_lies_behind_a_prompts_end_changes_nothing():
    net = model()
    ids = torch.tensor([[261, 9, 262, 0, 0], [261, 9, 262, 55, 66]])
    read = net.read(ids)
    torch.testing.assert_close(read[0], read[1])


@pytest.mark.parametrize("prompt", ["", "   ", "x" * 30])
def test_prompts_that_do_not_fit_are_refused(prompt):
    with pytest.raises(TextError, match="from 1 to 22 are read"):
        listener().answer(noise(4000), prompt)


def test_only_the_first_seconds_are_heard_and_the_answer_says_so():
    role = listener()
    long, short = noise(20_000), noise(4000)
    answer = role.answer(long, "what?", max_new=3)
    assert answer.heard_s == 1.0
    assert answer.truncated
    assert role.answer(short, "what?", max_new=3).heard_s == 0.5
    beginning = AudioClip(long.samples[:, :8000], 8000)
    assert role.answer(beginning, "what?", max_new=3).text == answer.text
    assert (
        role._prefix(long, "a", Asking(published=True), 0).ne(role._prefix(long, "a", Asking(published=True), 1)).any()
    )


def test_as_published_stereo_is_flattened():
    role = listener()
    both = noise(3000, channels=2)
    left = AudioClip(both.samples[:1], 8000)
    mean = AudioClip(both.samples.mean(axis=0, keepdims=True), 8000)
    assert torch.equal(role._prefix(both, "a", Asking(), 0), role._prefix(mean, "a", Asking(), 0))
    published = role._prefix(both, "a", Asking(published=True), 0)
    assert published.ne(role._prefix(left, "a", Asking(published=True), 0)).any()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"top_p": 0.5}, "takes no 'top_p'"),
        ({"lora_factor": 0.5}, "takes no 'lora_factor'"),
        ({"greedy": True, "beam": 4}, "nothing for beam 4"),
        ({"beam": 0}, "must be at least 1"),
        ({"temperature": 0.0}, "above 0"),
    ],
)
def test_options_that_cannot_act_are_refused(options, words):
    with pytest.raises(ConfigError, match=words):
        listener().answer(noise(4000), "what?", **options)


def test_greedy_is_one_beam():
    role = listener()
    assert role.answer(noise(4000), "what?", greedy=True) == role.answer(noise(4000), "what?", beam=1)


def test_three_prompts_describe_a_recording():
    assert list(listener().describe(noise(4000), max_new=2)) == [
        "generate audio caption",
        "generate metadata",
        "this is a sound of",
    ]


def test_labels_are_ranked_by_their_likelihood():
    role = listener()
    ranked = role.rank_labels(noise(4000), ["ab", "c", "</s>"])
    assert sorted(label for label, _ in ranked) == ["</s>", "ab", "c"]
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    with pytest.raises(TextError, match="none may be empty"):
        role.rank_labels(noise(4000), ["a", " "])


def test_a_free_answer_means_the_label_whose_words_it_says():
    labels = ["dog", "crying_baby", "clock alarm", "rain"]
    for label in labels:
        assert match_label(label, labels) == label
    assert match_label("A dog is barking.", labels) == "dog"
    assert match_label("babies cry loudly, a baby", labels) == "crying_baby"
    assert match_label("an alarm", labels) == "clock alarm"
    assert match_label("silence", labels) is None
    assert stems("Barking dogs") == {"bark", "dog"}
    with pytest.raises(TextError, match="no labels"):
        match_label("a", [])


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"clip_s": 0.0}, "clip_s 0.0"),
        ({"clip_s": 30.0}, "fewer frames"),
        ({"max_prompt": 99}, "max_prompt 99 must lie in 3 to 32"),
        ({"text": None}, "must be mapper.clip"),
        ({"mapper": replace(TINY.mapper, prefix=40)}, "leave no room"),
        ({"lm": replace(TINY.lm, bos_id=1)}, "must be null"),
    ],
)
def test_settings_that_contradict_one_another_are_refused(changes, words):
    with pytest.raises(ValueError, match=words):
        replace(TINY, **changes)


def test_the_published_sizes_are_the_papers():
    with torch.device("meta"):
        net = Pengi(PengiConfig())
    counts = {name: sum(p.numel() for p in part.parameters()) for name, part in net.named_children()}
    assert counts["audio_encoder"] == pytest.approx(30.24e6, rel=1e-3)
    assert counts["audio_mapper"] == pytest.approx(50.4e6, rel=1e-3)
    assert counts["lm"] == pytest.approx(124.4e6, rel=1e-3)
