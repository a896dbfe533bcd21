from dataclasses import replace
from itertools import product

import numpy as np
import pytest
import torch

from voder import hub
from voder.audio.io import AudioClip, write_audio
from voder.data.manifest import Utterance, write_manifest
from voder.errors import ManifestError, TextError
from voder.systems.ctc import SYSTEM, CtcConfig, CtcModel
from voder.systems.ctc.augment import change_speed, vary_mel, vary_waveform, warp_bands
from voder.systems.ctc.config import CtcAugment
from voder.systems.ctc.infer import CtcTranscriber, beam_path, greedy_path
from voder.systems.ctc.train import ctc_loss

TONES = {"low": 300.0, "mid": 900.0, "high": 2500.0}


def write_corpus(folder, texts, speaker="ann"):
    """One tone per word, 0.25 s each."""
    made = []
    for number, text in enumerate(texts):
        time = np.arange(2000) / 8000
        tones = [np.sin(2 * np.pi * TONES[w] * time) * np.hanning(2000) * 0.5 for w in (text or "").split()]
        samples = np.concatenate([*tones, np.zeros(200)])[None].astype(np.float32)
        write_audio(folder / f"{number}.wav", AudioClip(samples, 8000))
        made.append(
            Utterance(
                id=str(number),
                audio=folder / f"{number}.wav",
                duration_s=samples.shape[1] / 8000,
                num_samples=samples.shape[1],
                sample_rate_hz=8000,
                channels=1,
                text=text,
                speaker=speaker,
            )
        )
    return made


@pytest.fixture(scope="module")
def corpus(tmp_path_factory):
    folder = tmp_path_factory.mktemp("words")
    made = write_corpus(folder, ["low", "mid", "high", "low mid", None, "high", "mid low"])
    write_manifest(folder / "train.jsonl", made[:5])
    write_manifest(folder / "valid.jsonl", made[5:])
    return folder


def preset(**augment):
    run = SYSTEM.preset("tiny")
    model = replace(run.model, unit="words", channels=24)
    return model, replace(run.task, augment=replace(run.task.augment, **augment), batch_items=4)


def make(corpus, **augment):
    model_config, task_config = preset(**augment)
    fitted = SYSTEM.task().fit_config(model_config, task_config, corpus)
    torch.manual_seed(0)
    model = CtcModel(fitted)
    return model, SYSTEM.task()(model, task_config, corpus, seed=3)


def random_clips(*counts):
    rng = np.random.default_rng(0)
    return [AudioClip(rng.standard_normal((1, count)).astype(np.float32) * 0.1, 8000) for count in counts]


@pytest.mark.parametrize(
    "change", [{}, {"normalize": "mean_std"}, {"normalize": "level"}, {"stem_strides": (3, 1)}, {"margin_frames": 0}]
)
def test_batched_equals_alone(change):
    torch.manual_seed(0)
    config = replace(SYSTEM.preset("tiny").model, symbols=("a", "b"), **change)
    model = CtcModel(config).eval().requires_grad_(False)
    lengths = [5000, 801, 1, 3333]
    audio = torch.zeros(4, 5000)
    for row, clip in zip(audio, random_clips(*lengths), strict=True):
        row[: clip.num_samples] = torch.from_numpy(clip.samples[0])
    logits, positions = model(audio, torch.tensor(lengths))
    for row, count in enumerate(lengths):
        alone, frames = model(audio[row : row + 1, :count], torch.tensor([count]))
        assert int(frames[0]) == int(positions[row]) == alone.shape[1]
        torch.testing.assert_close(logits[row, : alone.shape[1]], alone[0], rtol=1e-4, atol=1e-4)


def test_loudness_changes_nothing_that_is_heard():
    model = CtcModel(replace(SYSTEM.preset("tiny").model, symbols=("a", "b"))).eval()
    ears = CtcTranscriber(model)
    (clip,) = random_clips(4000)
    quiet = AudioClip(clip.samples * 0.05, 8000)
    assert ears.transcribe(clip).text == ears.transcribe(quiet).text


def test_other_rates_and_channels_are_heard():
    ears = CtcTranscriber(CtcModel(replace(SYSTEM.preset("tiny").model, symbols=("a",))).eval())
    stereo = AudioClip(np.random.default_rng(0).standard_normal((2, 8820)).astype(np.float32) * 0.1, 44100)
    heard = ears.transcribe(stereo)
    assert heard.heard_s == pytest.approx(0.2)
    assert not heard.truncated


def test_symbols_come_from_the_training_texts(corpus):
    model, _ = make(corpus)
    assert model.config.symbols == ("high", "low", "mid")
    assert model.head.out_features == 4


def test_words_outside_the_vocabulary_are_named(corpus):
    model_config, task_config = preset()
    with pytest.raises(TextError, match="'high'"):
        SYSTEM.task().fit_config(replace(model_config, symbols=("low", "mid")), task_config, corpus)


def test_a_stem_without_matching_strides_is_refused():
    with pytest.raises(ValueError, match="stem_strides"):
        CtcConfig(stem_channels=(4, 8, 16))


def test_writing_is_normalised_unless_asked(tmp_path):
    made = [
        replace(u, text=t)
        for u, t in zip(write_corpus(tmp_path, ["low", "low", "low"]), ["Low!", "low", "…"], strict=True)
    ]
    write_manifest(tmp_path / "train.jsonl", made)
    write_manifest(tmp_path / "valid.jsonl", made[:1])
    assert make(tmp_path)[0].config.symbols == ("low",)
    assert make(tmp_path)[1].texts.numbers.tolist() == [0, 1], "a text without words teaches nothing"
    model_config, task_config = preset()
    raw = SYSTEM.task().fit_config(replace(model_config, normalize_text=False), task_config, tmp_path)
    assert raw.symbols == ("Low!", "low", "…")


def test_fine_tuning_appends_new_words_and_keeps_the_old(corpus):
    _, task_config = preset()
    start = replace(preset()[0], symbols=("low", "mid"))
    grown = SYSTEM.task().fit_config(CtcConfig(), task_config, corpus, start)
    assert grown == replace(start, symbols=("low", "mid", "high"))
    old = CtcModel(start)
    state = SYSTEM.task().adapt_state(old.state_dict(), start, grown)
    new = CtcModel(grown)
    new.load_state_dict(state)
    torch.testing.assert_close(new.head.weight[:3], old.head.weight)
    torch.testing.assert_close(new.head.weight[3], old.head.weight[1:].mean(0))


def test_a_corpus_without_texts_is_refused(tmp_path):
    made = write_corpus(tmp_path, [None, None])
    for name in ("train", "valid"):
        write_manifest(tmp_path / f"{name}.jsonl", made)
    config = preset()[1]
    with pytest.raises(ManifestError, match="no recording with a text"):
        SYSTEM.task()(CtcModel(CtcConfig(symbols=("a",))), config, tmp_path, seed=0)


def test_batches_are_pure_and_independent_of_the_number_of_workers(corpus):
    _, task = make(corpus, join_max=2)
    whole, again = task.batch(9, 0, 1), make(corpus, join_max=2)[1].batch(9, 0, 1)
    assert torch.equal(whole.audio, again.audio)
    assert torch.equal(whole.targets, again.targets)
    _, single = make(corpus)
    whole, shares = single.batch(2, 0, 1), [single.batch(2, rank, 2) for rank in range(2)]
    assert sorted(whole.lengths.tolist()) == sorted(shares[0].lengths.tolist() + shares[1].lengths.tolist())


def test_joined_strings_have_the_words_of_their_clips(corpus):
    _, task = make(corpus, join_max=4, join_ramp_steps=0)
    counts = {int(n) for step in range(12) for n in task.batch(step, 0, 1).target_lengths}
    assert max(counts) >= 4
    assert task.batch(0, 0, 1).audio.shape[1] > 2000


def test_single_clips_come_first(corpus):
    _, task = make(corpus, join_max=4, join_ramp_steps=1000)
    assert all(int(task.batch(step, 0, 1).target_lengths.max()) <= 2 for step in range(5))


def test_recordings_without_text_teach_nothing(corpus):
    _, task = make(corpus)
    assert task.texts.numbers.tolist() == [0, 1, 2, 3]


def test_it_learns_to_tell_three_tones_apart(corpus):
    model, task = make(corpus, band_masks=0, frame_masks_per_s=0.0, noise_db=(-70.0, -50.0), join_max=2)
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    for step in range(100):
        model.train()
        torch.manual_seed(step)
        for _, loss in task.losses(task.batch(step, 0, 1), step):
            loss.value.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
    model.eval()
    assert task.evaluate()["word_error"] == 0.0


def test_samples_list_what_was_heard(corpus, tmp_path):
    model, task = make(corpus)
    model.eval()
    task.samples(tmp_path)
    lines = (tmp_path / "heard.tsv").read_text().splitlines()
    assert lines[0] == "id\tsaid\theard"
    assert lines[1].startswith("5\thigh\t")


def test_ctc_loss_sums_over_all_alignments():
    logits = torch.randn(1, 4, 3, dtype=torch.float64)
    probabilities = logits.softmax(-1)[0]
    total = 0.0
    for path in product(range(3), repeat=4):
        merged = [s for s, before in zip(path, (0, *path[:-1]), strict=True) if s not in (0, before)]
        if merged == [1, 2]:
            total += float(torch.stack([probabilities[t, s] for t, s in enumerate(path)]).prod())
    loss = ctc_loss(logits, torch.tensor([4]), torch.tensor([1, 2]), torch.tensor([2]))
    assert float(loss) == pytest.approx(-np.log(total), rel=1e-5)


def test_audio_too_short_for_its_text_costs_nothing():
    loss = ctc_loss(torch.randn(1, 1, 3), torch.tensor([1]), torch.tensor([1, 2]), torch.tensor([2]))
    assert float(loss) == 0.0


def test_greedy_merges_repeats_between_blanks():
    best = [1, 1, 0, 1, 2, 2, 0, 0]
    assert greedy_path(torch.nn.functional.one_hot(torch.tensor(best), 3).float()) == [1, 1, 2]


def test_beam_finds_the_most_probable_string_where_greedy_does_not():
    # three ways to say [1] add up to more than the single best path, which is silence
    logits = torch.log(torch.tensor([[0.6, 0.4], [0.6, 0.4]]))
    assert greedy_path(logits) == []
    assert beam_path(logits, 4) == [1]


def test_speed_changes_length():
    assert len(change_speed(np.zeros(1000, np.float32), 1.25)) == 800


def test_warping_moves_bands_and_leaves_the_ends():
    mel = torch.zeros(1, 40, 3)
    mel[:, 10] = 1.0
    warped = warp_bands(mel, torch.tensor([1.25]))[0, :, 0]
    assert int(warped.argmax()) == 8
    torch.testing.assert_close(warp_bands(mel, torch.tensor([1.0])), mel)


def test_every_kind_of_variation_acts():
    rng = np.random.default_rng
    samples = np.random.default_rng(1).standard_normal(4000).astype(np.float32) * 0.1
    none = CtcAugment(
        tilt=0.0, gain_db=(0.0, 0.0), noise_db=(-200.0, -200.0), warp=0.0, band_offset=0.0, band_scale=0.0, band_masks=0
    )
    np.testing.assert_allclose(vary_waveform(samples, rng(0), none), samples, atol=1e-6)
    for change in ({"tilt": 0.5}, {"gain_db": (6.0, 6.0)}, {"noise_db": (-30.0, -30.0)}):
        assert np.abs(vary_waveform(samples, rng(0), replace(none, **change)) - samples).max() > 1e-3
    mel, frames = torch.randn(2, 40, 200), torch.tensor([200, 100])
    still = replace(none, frame_masks_per_s=0.0)
    mel[1, :, 100:] = 0.0
    torch.testing.assert_close(vary_mel(mel, frames, still, 0.01), mel)
    for change in (
        {"warp": 0.2},
        {"band_offset": 0.2},
        {"band_scale": 0.2},
        {"band_masks": 2},
        {"frame_masks_per_s": 2.0},
    ):
        torch.manual_seed(0)
        varied = vary_mel(mel, frames, replace(still, **change), 0.01)
        assert not torch.equal(varied, mel)
        assert not varied[1, :, 100:].any(), "padding stays silent"


@pytest.mark.parametrize("name", ["tiny", "demo", "small"])
def test_presets_build_and_hear(name):
    model = hub.build(f"ctc/{name}")
    assert isinstance(model, CtcModel)
    rate = model.config.mel.sample_rate_hz
    logits, positions = model.eval()(torch.zeros(1, rate), torch.tensor([rate]))
    assert logits.shape[1] == int(positions[0])
