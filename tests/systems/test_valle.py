"""VALL-E: layout, losses, training strings, growing, and speaking."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.data.holdout import is_held_out
from voder.data.joins import JoinConfig
from voder.data.manifest import Utterance
from voder.data.randomness import generator
from voder.data.shards import TokenizerInfo, TokenStore, TokenWriter
from voder.errors import (
    AudioError,
    CheckpointError,
    ConfigError,
    FittedPartMismatch,
    InputError,
    TextError,
    TokensError,
)
from voder.nn.codec_lm import CoarseSession
from voder.nn.transformer import TransformerConfig
from voder.roles import SayRequest
from voder.sequence.assemble import assemble
from voder.sequence.voices import PROMPT, TARGET, UNKNOWN, Voice
from voder.systems.valle.config import PRESETS, ValleConfig, ValleTaskConfig, tiny
from voder.systems.valle.infer import ValleSpeaker, load_speaker
from voder.systems.valle.layout import Layout
from voder.systems.valle.model import Valle
from voder.systems.valle.train import ValleTask
from voder.train import OptimizerConfig

WORDS = ("zero", "one", "two", "three", "four", "five")
RATE, HOP = 8000, 320


def make_codec(folder: Path) -> TokenizerInfo:
    """Save a fresh tiny codec and describe it."""
    torch.manual_seed(0)
    codec = hub.build("spectral/tiny")
    checkpoint.save(folder, system="spectral", config=codec.config, state=codec.state_dict())
    return TokenizerInfo(
        system="spectral",
        identity=checkpoint.identity(folder),
        num_codebooks=codec.num_codebooks,
        codebook_size=codec.codebook_size,
        frame_rate_hz=codec.frame_rate_hz,
        sample_rate_hz=codec.sample_rate_hz,
        hop=codec.hop,
    )


def utterance(id_: str, text: str | None, speaker: str | None, frames: int) -> Utterance:
    return Utterance(
        id=id_,
        audio=Path(f"/nowhere/{id_}.wav"),
        duration_s=frames * HOP / RATE,
        num_samples=frames * HOP,
        sample_rate_hz=RATE,
        channels=1,
        text=text,
        speaker=speaker,
        licence="CC0-1.0",
    )


def write_tokens(
    folder: Path, codec: Path, info: TokenizerInfo, *, speakers: tuple[str | None, ...], takes: int, words=WORDS
) -> Path:
    """Tokens where every word of every speaker has codes of its own, in several takes."""
    with TokenWriter(folder, tokenizer=info, tokenizer_folder=codec) as writer:
        for split, number in (("train", takes), ("valid", 2)):
            utterances, codes = [], []
            for s, speaker in enumerate(speakers):
                for w, word in enumerate(words):
                    for take in range(number):
                        rng = generator(0, split, s, w, take)
                        length = int(rng.integers(4, 8))
                        utterances.append(utterance(f"{split}-{s}-{w}-{take}", word, speaker, length))
                        codes.append(rng.integers(info.codebook_size, size=(info.num_codebooks, length)))
            writer.write_shard(f"{split}-00000", "key", utterances, codes)
        writer.write_silence(np.zeros((info.num_codebooks, 25), np.int64))
        writer.finish({"train": ["train-00000"], "valid": ["valid-00000"]})
    return folder


@dataclasses.dataclass
class Corpus:
    tokens: Path
    codec: Path
    info: TokenizerInfo


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Corpus:
    root = tmp_path_factory.mktemp("valle")
    info = make_codec(root / "codec")
    return Corpus(
        write_tokens(root / "tokens", root / "codec", info, speakers=("ann", "bob"), takes=3), root / "codec", info
    )


def fitted(corpus: Corpus, **changes: object) -> ValleConfig:
    preset = tiny()
    return dataclasses.replace(ValleTask.fit_config(preset.model, preset.task, corpus.tokens), **changes)


def make_task(corpus: Corpus, seed: int = 0, model: ValleConfig | None = None, **changes: object) -> ValleTask:
    torch.manual_seed(seed)
    config = dataclasses.replace(tiny().task, **changes)
    return ValleTask(Valle(model or fitted(corpus)), config, corpus.tokens, seed=seed)


@pytest.fixture(scope="module")
def speaker(corpus: Corpus) -> ValleSpeaker:
    torch.manual_seed(1)
    return ValleSpeaker(Valle(fitted(corpus)).eval(), hub.load_codec(corpus.codec))


def tone(duration_s: float) -> AudioClip:
    at = np.arange(int(duration_s * RATE)) / RATE
    return AudioClip((0.3 * np.sin(2 * np.pi * 220 * at)).astype(np.float32)[None], RATE)


# --- configuration and layout ---------------------------------------------------------------------


@pytest.mark.parametrize("name", ["tiny", "demo", "small"])
def test_presets_build(name: str) -> None:
    assert sum(p.numel() for p in Valle(PRESETS[name]().model).parameters()) > 1000


def test_the_paper_preset_has_the_sizes_of_the_paper() -> None:
    config = PRESETS["paper"]().model
    for stack in (config.ar, config.nar):
        assert (stack.num_layers, stack.width, stack.num_heads, stack.ffn_width) == (12, 1024, 16, 4096)


def test_the_data_decides_symbols_speakers_and_codec(corpus: Corpus) -> None:
    config = fitted(corpus)
    assert config.symbols == tuple(sorted(set("".join(WORDS)) | {" "}))
    assert config.speakers == ("ann", "bob")
    assert (config.num_codebooks, config.codebook_size) == (2, 16)
    assert config.codec_identity == corpus.info.identity
    assert 0.5 < config.frames_per_symbol < 2.5


def test_text_and_audio_share_a_time_line_and_the_prompt_has_its_own(corpus: Corpus) -> None:
    config = fitted(corpus, frames_per_symbol=2.0, max_prompt_frames=20)
    layout = Layout(config)
    voice = Voice(prompt_codes=np.ones((2, 5), np.int64), prompt_text="two")
    text = assemble([layout.text("one", voice)])
    audio = assemble([[*layout.audio_prompt(voice), layout.audio_target(np.array([3, 4]))]])
    assert text.positions[0].tolist() == [-2.0, -22.0, -20.0, -18.0, -16.0, 0.0, 2.0, 4.0, 6.0]
    assert text.segments[0].tolist() == [TARGET, *[PROMPT] * 4, *[TARGET] * 4]
    assert audio.positions[0].tolist() == [-22.0, -21.0, -20.0, -19.0, -18.0, -17.0, 0.0, 1.0, 2.0]
    assert audio.segments[0].tolist() == [PROMPT] * 6 + [TARGET] * 3
    assert audio.targets[0, -3:].tolist() == [3, 4, layout.end]
    frames = assemble([layout.frames(2, voice)])
    assert frames.positions[0].tolist() == [-21.0, -20.0, -19.0, -18.0, -17.0, 1.0, 2.0]


def test_what_nobody_can_say_is_named(corpus: Corpus) -> None:
    layout = Layout(fitted(corpus, max_text=10))
    with pytest.raises(TextError, match="'q'"):
        layout.text("q", Voice())
    with pytest.raises(TextError, match="11 characters; this model says at most 10"):
        layout.text("one one one", Voice())
    with pytest.raises(TextError, match="empty"):
        layout.text("", Voice())


def test_spelling_folds_space_and_capitals_as_configured(corpus: Corpus) -> None:
    assert Layout(fitted(corpus)).spell("  One\n two") == "one two"
    assert Layout(fitted(corpus, lowercase=False)).spell("One  two") == "One two"


# --- batches --------------------------------------------------------------------------------------


def test_a_batch_is_a_function_of_seed_step_and_rank(corpus: Corpus) -> None:
    one, two = make_task(corpus), make_task(corpus)
    assert torch.equal(one.batch(3, 0, 2).audio.ids, two.batch(3, 0, 2).audio.ids)
    for step, rank in ((4, 0), (3, 1)):
        assert one.describe(one.batch(3, 0, 2)) != one.describe(one.batch(step, rank, 2))


def test_every_code_and_the_end_carry_loss_and_padding_never(corpus: Corpus) -> None:
    task = make_task(corpus, max_rows=8, batch_tokens=600, prompt_share=0.0)
    for step in range(5):
        batch = task.batch(step, 0, 1)
        ends = (batch.audio.targets == task.layout.end) & batch.audio.loss
        assert ends.sum(dim=1).tolist() == [1] * len(batch.codes)
        assert torch.equal(batch.audio.loss, batch.audio.valid)
        said = (batch.frames.segments == TARGET) & batch.frames.valid
        assert torch.equal(batch.audio.loss.sum(dim=1), said.sum(dim=1) + 1)


def test_targets_are_the_clean_codes_while_some_that_are_read_are_replaced(corpus: Corpus) -> None:
    task = make_task(corpus, max_rows=32, batch_tokens=2000, prompt_share=0.0, corrupt_share=0.5)
    batch = task.batch(0, 0, 1)
    size = task.model.config.codebook_size
    read, wanted = batch.audio.ids[:, 1:], batch.audio.targets[:, :-1]
    is_code = batch.audio.valid[:, 1:]
    changed = (read != wanted)[is_code].float().mean()
    assert 0.3 < float(changed) < 0.6
    assert int(batch.audio.ids[:, 0].min()) >= size
    clean = batch.codes[:, 0][(batch.frames.segments == TARGET) & batch.frames.valid]
    assert torch.equal(wanted[is_code], clean)


def test_a_batch_keeps_its_budget_of_positions(corpus: Corpus) -> None:
    task = make_task(corpus, max_rows=64, batch_tokens=500, prompt_share=0.5)
    for step in range(20):
        batch = task.batch(step, 0, 1)
        assert len(batch.codes) * (batch.text.ids.shape[1] + batch.audio.ids.shape[1]) <= 500 + 16 * len(batch.codes)


def test_prompts_are_other_recordings_of_the_same_speaker(corpus: Corpus) -> None:
    strings = make_task(corpus).train_strings
    rng = generator(0, "test")
    for _ in range(50):
        target = strings.joined(rng, 2)
        prompt = strings.prompt(rng, target, 3)
        assert prompt is not None
        assert prompt.speaker == target.speaker
        assert not set(prompt.clips) & set(target.clips)


def test_a_prompted_row_has_no_tag_and_learns_its_prompt_only_with_text(corpus: Corpus) -> None:
    task = make_task(corpus, prompt_share=1.0, prompt_tag_share=0.0, max_rows=16, batch_tokens=1500)
    seen = set()
    for step in range(6):
        batch = task.batch(step, 0, 1)
        assert (batch.text.ids[:, 0] == 0).all()
        is_prompt = (batch.audio.segments == PROMPT) & batch.audio.valid
        has_text = ((batch.text.segments == PROMPT) & batch.text.valid).sum(dim=1) > 1
        for row in range(len(batch.codes)):
            learned = batch.audio.loss[row][is_prompt[row]]
            assert bool(learned.all()) == bool(has_text[row])
            assert bool(learned.any()) == bool(has_text[row])
            seen.add(bool(has_text[row]))
    assert seen == {True, False}


def test_strings_grow_with_the_curriculum(corpus: Corpus) -> None:
    task = make_task(corpus, joins=JoinConfig(join_max=4), curriculum_steps=1000, prompt_share=0.0)

    def longest(start: int) -> int:
        texts = [task.batch(step, 0, 1).text.valid.sum(dim=1).max() for step in range(start, start + 20)]
        return int(max(texts))

    assert longest(0) <= 2 + len("three")
    assert longest(1000) > 2 + 2 * len("three")


def test_held_out_strings_are_never_composed(corpus: Corpus) -> None:
    joins = JoinConfig(join_max=3, held_out_fraction=0.5)
    strings = make_task(corpus, joins=joins).train_strings
    rng = generator(0, "test")
    texts = [strings.joined(rng, 3) for _ in range(60)]
    assert not any(is_held_out(each.text, 0.5) for each in texts)
    prompts = [strings.prompt(rng, texts[0], 3) for _ in range(60)]
    assert not any(is_held_out(each.text, 0.5) for each in prompts if each is not None)
    open_strings = make_task(corpus, joins=JoinConfig(join_max=3, held_out_fraction=0.0)).train_strings
    assert any(is_held_out(open_strings.joined(rng, 3).text, 0.5) for _ in range(50))


def test_only_short_clips_are_joined(corpus: Corpus) -> None:
    strings = make_task(corpus, joins=JoinConfig(join_max=5, join_below_s=0.01)).train_strings
    assert strings.joined_share == 0
    assert len(strings.single(generator(0, "test")).clips) == 1


def test_clips_of_unknown_speakers_are_neither_joined_nor_prompted(corpus: Corpus, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "t", corpus.codec, corpus.info, speakers=(None,), takes=2)
    preset = tiny()
    config = ValleTask.fit_config(preset.model, preset.task, tokens)
    assert config.speakers == ()
    task = ValleTask(Valle(config), dataclasses.replace(preset.task, prompt_share=1.0), tokens, seed=0)
    assert task.train_strings.joined_share == 0
    batch = task.batch(0, 0, 1)
    assert (batch.audio.segments == TARGET).all()
    assert (batch.text.ids[:, 0] == 0).all()


def test_tokens_without_any_usable_text_are_refused(corpus: Corpus, tmp_path: Path) -> None:
    tokens = write_tokens(tmp_path / "t", corpus.codec, corpus.info, speakers=("ann",), takes=1, words=("",))
    with pytest.raises(TokensError, match="no recording of the training split has a text"):
        ValleTask.fit_config(tiny().model, tiny().task, tokens)
    with pytest.raises(TokensError, match="none of 36 clips"):
        make_task(corpus, model=fitted(corpus, max_frames=2))


def test_tokens_of_another_codec_are_refused(corpus: Corpus) -> None:
    with pytest.raises(FittedPartMismatch, match=corpus.info.identity):
        make_task(corpus, model=fitted(corpus, codec_identity="other"))


# --- losses ---------------------------------------------------------------------------------------


def test_losses_are_means_over_tokens_with_their_number(corpus: Corpus) -> None:
    task = make_task(corpus, nar_every=2)
    batch = task.batch(0, 0, 1)
    phases = dict(task.losses(batch, 0))
    assert set(phases) == {"ar", "nar"}
    assert phases["ar"].weight == int(batch.audio.loss.sum())
    assert set(dict(task.losses(batch, 1))) == {"ar"}
    logits = task.model.ar(batch.text, batch.audio)
    expected = torch.nn.functional.cross_entropy(logits[batch.audio.loss], batch.audio.targets[batch.audio.loss])
    torch.testing.assert_close(phases["ar"].value, expected)


def test_padding_rows_together_changes_no_logit(corpus: Corpus) -> None:
    task = make_task(corpus, max_rows=8, batch_tokens=800, prompt_share=1.0)
    task.model.eval()
    batch = task.batch(1, 0, 1)
    together = task.model.ar(batch.text, batch.audio)
    assert task.model.nar is not None
    fine = task.model.nar(batch.text, batch.frames, batch.codes, 1)
    for row in range(len(batch.codes)):
        picked = [
            dataclasses.replace(s, **{k: v[row : row + 1, : int(s.valid[row].sum())] for k, v in vars(s).items()})
            for s in (batch.text, batch.audio, batch.frames)
        ]
        alone = task.model.ar(picked[0], picked[1])
        torch.testing.assert_close(together[row : row + 1, : alone.shape[1]], alone, atol=1e-5, rtol=0)
        codes = batch.codes[row : row + 1, :, : picked[2].ids.shape[1]]
        alone = task.model.nar(picked[0], picked[2], codes, 1)
        torch.testing.assert_close(fine[row : row + 1, : alone.shape[1]], alone, atol=1e-5, rtol=0)


def test_the_finer_codebooks_read_coarser_ones_and_the_whole_prompt_only(corpus: Corpus) -> None:
    task = make_task(corpus, prompt_share=1.0, max_rows=1)
    task.model.eval()
    assert task.model.nar is not None
    batch = task.batch(0, 0, 1)
    is_prompt = (batch.frames.segments == PROMPT) & batch.frames.valid

    def logits(codes: torch.Tensor) -> torch.Tensor:
        return task.model.nar(batch.text, batch.frames, codes, 1)[:, ~is_prompt[0]]  # type: ignore[misc]

    plain = logits(batch.codes)
    for book, where, matters in ((1, ~is_prompt, False), (1, is_prompt, True), (0, ~is_prompt, True)):
        changed = batch.codes.clone()
        changed[:, book] = torch.where(where, (changed[:, book] + 1) % 16, changed[:, book])
        assert torch.equal(logits(changed), plain) != matters


def test_evaluation_is_the_same_twice_and_covers_both_modes(corpus: Corpus) -> None:
    task = make_task(corpus)
    task.model.eval()
    with torch.no_grad():
        first, second = task.evaluate(), task.evaluate()
    assert first == second
    assert {"tag/loss", "tag/accuracy", "prompt/loss", "prompt/accuracy"} <= first.keys()


def test_the_first_batch_can_be_shown(corpus: Corpus) -> None:
    task = make_task(corpus, prompt_share=1.0, prompt_text_share=1.0, prompt_tag_share=0.0)
    text, reads, learns = task.describe(task.batch(0, 0, 1)).splitlines()
    assert "<no tag>" in text
    assert "<sep>" in text
    assert "<begin_prompt>" in reads
    assert "<begin>" in reads
    assert learns.endswith("<end>")


# --- learning and speaking ------------------------------------------------------------------------


@pytest.fixture(scope="module")
def overfitted(corpus: Corpus) -> ValleTask:
    """A tiny model after training on single takes until it knows them by heart."""
    sizes = TransformerConfig(width=48, num_layers=2, num_heads=2, ffn_width=96, dropout=0.0)
    config = fitted(corpus, ar=sizes, nar=sizes)
    task = make_task(
        corpus,
        model=config,
        joins=JoinConfig(join_max=1),
        corrupt_share=0.0,
        prompt_share=0.0,
        no_tag_share=0.0,
        nar_every=1,
    )
    keep = task.train_strings._by_length[:1]
    task.train_strings._by_length = keep  # one utterance
    optimizers = {name: OptimizerConfig(learning_rate=3e-3).build(m) for name, m in task.optimised.items()}
    for step in range(60):
        for name, loss in task.losses(task.batch(step, 0, 1), step):
            loss.value.backward()
            optimizers[name].step()
            optimizers[name].zero_grad()
    task.model.eval()
    return task


def test_loss_falls_and_one_utterance_is_known_by_heart(overfitted: ValleTask) -> None:
    with torch.no_grad():
        losses = dict(overfitted.losses(overfitted.batch(0, 0, 1), 0))
    assert float(losses["ar"].value) < 0.1
    assert float(losses["nar"].value) < 0.1


def test_it_says_the_utterance_it_knows(overfitted: ValleTask, corpus: Corpus) -> None:
    index = int(overfitted.train_strings._by_length[0])
    split = overfitted.store.split("train")
    known = split.utterance(index)
    voice = ValleSpeaker(overfitted.model, hub.load_codec(corpus.codec))
    speech = voice.say_batch([SayRequest(text=known.text or "", speaker=known.speaker)], greedy=True)[0]
    assert np.array_equal(speech.codes, split.codes(index))
    assert speech.stop_reason == "end"
    assert not speech.truncated
    assert speech.clip.num_samples == speech.codes.shape[1] * corpus.info.hop


def requests() -> list[SayRequest]:
    return [
        SayRequest(text="one two three", speaker="ann"),
        SayRequest(text="five", prompt=tone(1.0), prompt_text="four"),
        SayRequest(text="zero", prompt=tone(0.6)),
        SayRequest(text="two two", speaker="bob", prompt=tone(0.5)),
        SayRequest(text="three"),
    ]


def test_batched_equals_alone(speaker: ValleSpeaker) -> None:
    together = speaker.say_batch(requests(), seed=3)
    for request, expected in zip(requests(), together, strict=True):
        alone = speaker.say_batch([request], seed=3)[0]
        assert np.array_equal(alone.codes, expected.codes)
        assert alone.stop_reason == expected.stop_reason
        np.testing.assert_allclose(alone.clip.samples, expected.clip.samples, atol=1e-5)


def test_cached_equals_recomputed(corpus: Corpus) -> None:
    torch.manual_seed(0)
    config = fitted(corpus)
    model, layout = Valle(config).eval(), Layout(config)
    codes = np.array([3, 1, 4, 1, 5, 9, 2, 6])
    voice = Voice(prompt_codes=np.ones((2, 9), np.int64), prompt_text="two")
    text = assemble([layout.text("one two", voice), layout.text("five", Voice(speaker=1))])
    starts = [[*layout.audio_prompt(v), layout.audio_target(codes[:0])] for v in (voice, Voice(speaker=1))]
    session = CoarseSession(model.ar, text, assemble(starts), room=len(codes))
    with torch.no_grad():
        stepped = [session.start()] + [session.step(torch.tensor([c, c])) for c in codes]
        whole = model.ar(text, assemble([[*s[:-1], layout.audio_target(codes)] for s in starts]))
    for row, start in enumerate(starts):
        first = sum(piece.ids.size for piece in start) - 1
        for step, logits in enumerate(stepped):
            torch.testing.assert_close(logits[row], whole[row, first + step], atol=1e-5, rtol=0)


def test_the_same_seed_says_the_same_and_every_option_acts(speaker: ValleSpeaker) -> None:
    def said(seed: int = 0, **sampling: object) -> list[list[int]]:
        return [s.codes[0].tolist() for s in speaker.say_batch(requests(), seed=seed, **sampling)]

    plain = said()
    assert said() == plain
    assert said(seed=1) != plain
    for option in (
        {"greedy": True},
        {"temperature": 5.0},
        {"top_k": 1},
        {"top_p": 0.05},
        {"repetition_penalty": 9.0, "repetition_window": 4},
    ):
        assert said(**option) != plain, option


def test_speech_that_never_ends_is_cut_and_says_so(corpus: Corpus) -> None:
    torch.manual_seed(0)
    model = Valle(fitted(corpus)).eval()
    with torch.no_grad():
        model.ar.head.bias[model.config.codebook_size] = -100.0
    voice = ValleSpeaker(model, hub.load_codec(corpus.codec))
    short, long = voice.say_batch([SayRequest(text="two"), SayRequest(text="two two two")])
    assert short.truncated
    assert short.stop_reason == "limit"
    assert short.codes.shape[1] < long.codes.shape[1] <= model.config.max_frames


@pytest.mark.parametrize(
    ("request_", "error", "message"),
    [
        (SayRequest(text="one", speaker="carl"), InputError, "'carl'"),
        (SayRequest(text="one", prompt=tone(0.05)), AudioError, "lasts 0.05 s; this model takes"),
        (SayRequest(text="one", prompt=tone(9.0)), AudioError, "lasts 9.00 s; this model takes"),
        (SayRequest(text="one!"), TextError, "'!'"),
        (SayRequest(text=" "), TextError, "empty"),
    ],
)
def test_bad_requests_are_refused(
    speaker: ValleSpeaker, request_: SayRequest, error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match=message):
        speaker.say_batch([request_])


def test_an_unknown_option_is_refused_with_the_nearest(speaker: ValleSpeaker) -> None:
    with pytest.raises(ConfigError, match=r"'temprature'.*temperature"):
        speaker.say_batch(requests(), temprature=1.0)


# --- checkpoints and growing ----------------------------------------------------------------------


@pytest.fixture
def saved(corpus: Corpus, tmp_path: Path) -> Path:
    task = make_task(corpus)
    folder = tmp_path / "voice"
    checkpoint.save(folder, system="valle", config=task.model.config, state=task.model.state_dict(), parts=task.parts())
    return folder


def test_a_saved_voice_speaks_as_before(saved: Path, corpus: Corpus) -> None:
    loaded = hub.load(saved)
    assert loaded.speakers == ("ann", "bob")
    fresh = ValleSpeaker(make_task(corpus).model.eval(), hub.load_codec(corpus.codec))
    for one, other in zip(loaded.say_batch(requests()), fresh.say_batch(requests()), strict=True):
        assert np.array_equal(one.codes, other.codes)


def test_a_voice_with_another_codec_is_refused(saved: Path, corpus: Corpus) -> None:
    codec = hub.build("spectral/tiny")
    folder = saved / "parts" / "codec"
    state = {name: value + 0.1 if value.is_floating_point() else value for name, value in codec.state_dict().items()}
    checkpoint.save(folder, system="spectral", config=codec.config, state=state)
    with pytest.raises(FittedPartMismatch, match=corpus.info.identity):
        hub.load(saved)


def test_a_voice_without_its_codec_is_refused(corpus: Corpus, tmp_path: Path) -> None:
    model = Valle(fitted(corpus))
    checkpoint.save(tmp_path / "v", system="valle", config=model.config, state=model.state_dict())
    with pytest.raises(CheckpointError, match="no parts/codec"):
        load_speaker(model, checkpoint.read(tmp_path / "v"))


def test_fine_tuning_takes_new_speakers_and_symbols_and_keeps_the_old(corpus: Corpus, tmp_path: Path) -> None:
    tokens = write_tokens(
        tmp_path / "t", corpus.codec, corpus.info, speakers=("carl", "ann"), takes=2, words=("six", "one")
    )
    start = fitted(corpus)
    config = ValleTask.fit_config(tiny().model, tiny().task, tokens, start)
    assert config.speakers == ("ann", "bob", "carl")
    assert config.symbols[: len(start.symbols)] == start.symbols
    assert config.symbols[len(start.symbols) :] == ("s", "x")
    torch.manual_seed(0)
    old = Valle(start).eval()
    new = Valle(config).eval()
    state = ValleTask.adapt_state(old.state_dict(), start, config)
    checkpoint.load_into(new, state, "test")
    codec = hub.load_codec(corpus.codec)
    said = [ValleSpeaker(m, codec).say_batch(requests(), seed=2) for m in (old, new)]
    for one, other in zip(*said, strict=True):
        assert np.array_equal(one.codes, other.codes)
    old_rows, new_rows = old.ar.text.ids.weight, new.ar.text.ids.weight
    torch.testing.assert_close(new_rows[-1], old_rows[-2:].mean(dim=0))
    task = ValleTask(new, tiny().task, tokens, seed=0)
    assert (task.train_strings.speakers != UNKNOWN).all()


def test_fine_tuning_on_tokens_of_another_codec_is_refused(corpus: Corpus) -> None:
    with pytest.raises(FittedPartMismatch, match="tokenize the data with the checkpoint's own codec"):
        ValleTask.fit_config(tiny().model, tiny().task, corpus.tokens, fitted(corpus, codec_identity="other"))


def test_a_codec_of_one_codebook_needs_no_second_network() -> None:
    config = dataclasses.replace(tiny().model, num_codebooks=1)
    assert Valle(config).nar is None


def test_task_settings_out_of_range_are_refused() -> None:
    for wrong in ({"join_max": 0}, {"held_out_fraction": 1.0}):
        with pytest.raises(ValueError, match=next(iter(wrong))):
            JoinConfig(**wrong)  # type: ignore[arg-type]
    assert ValleTaskConfig().prompt_share == 0.5


def test_samples_are_written(corpus: Corpus, tmp_path: Path) -> None:
    task = make_task(corpus)
    task.model.eval()
    task.samples(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["original.wav", "said.wav", "text.txt"]


def test_provenance_names_codec_and_licences(corpus: Corpus) -> None:
    found = make_task(corpus).provenance()
    assert found["tokenizer"]["identity"] == TokenStore.open(corpus.tokens).tokenizer.identity
    assert found["data"]["licences"] == ["CC0-1.0"]
