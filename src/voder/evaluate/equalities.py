"""The equalities that voder promises, checked on the `tiny` preset of a system that was trained for a few steps.

    batched = alone           padding and batching change no output
    streamed = whole          piece by piece gives what the whole recording gives, pieces of any size
    cached = recomputed       the key-value cache changes no hidden state
    loaded = saved            a checkpoint read and written again has the same identity
    resumed = uninterrupted   the second half of a run, gone on with from its first half, ends in the same weights
    repeated = first          nothing is random unless another seed is asked for

A system gets these by its roles and by the shared parts it is built from; it writes nothing for them.
"""

import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.config import to_dict
from voder.corpus.prepare import prepare_corpus
from voder.corpus.tokenize import tokenize_corpus
from voder.data.manifest import Manifest
from voder.data.paired import UNITS_FOLDER
from voder.data.randomness import generator, torch_generator
from voder.evaluate.suites import read_clips
from voder.evaluate.synthetic import write_recordings
from voder.nn.attention import causal_mask
from voder.nn.cache import StaticCache
from voder.nn.causal_lm import CausalLmSession, LanguageModel
from voder.nn.transformer import Transformer
from voder.roles import (
    Chatter,
    Codec,
    Continuer,
    Encoder,
    Generator,
    Listener,
    SayRequest,
    Speaker,
    SpeakerEncoder,
    Transcriber,
    Turn,
    UnitTokenizer,
    collate_clips,
)
from voder.train.run import RunRequest, train

CODEC = "spectral"
"""Whose tokens systems that train on tokens get."""
UNITS = "hubert"
"""Whose units those that train on units get."""

STEPS = 6


@dataclass(frozen=True, kw_only=True)
class Equality:
    """One equality, and how far it is from holding."""

    name: str
    difference: float
    """Largest difference found: ids that differ, or an absolute value."""
    tolerance: float

    @property
    def holds(self) -> bool:
        """Whether the difference is tolerated (NaN is not)."""
        return self.difference <= self.tolerance


class Bench:
    """What the checks stand on: a synthetic corpus and tiny systems trained on it, each made once."""

    def __init__(self, folder: Path, *, seed: int = 0) -> None:
        self.folder, self.seed = folder, seed
        self.recordings = folder / "data"
        if not self.recordings.exists():
            write_recordings(folder / "recordings", seed=seed)
            prepare_corpus(
                folder / "recordings", self.recordings, valid_fraction=0.15, test_fraction=0.15, workers=1, seed=seed
            )

    def data(self, system: str) -> Path:
        """The folder that a system trains on."""
        kind = hub.find(system.partition("/")[0]).trains_on
        if kind == "recordings":
            return self.recordings
        tokens = self.folder / "tokens"
        if not tokens.exists():
            codec = checkpoint.resolve(self.trained(CODEC))
            tokenize_corpus(self.recordings, hub.load_codec(codec), codec, tokens)
        if kind == "tokens and units" and not (tokens / UNITS_FOLDER).exists():
            units = checkpoint.resolve(self.trained(UNITS))
            tokenize_corpus(self.recordings, hub.load_role(units, "UnitTokenizer"), units, tokens / UNITS_FOLDER)
        return tokens

    def request(self, system: str, output: Path) -> RunRequest:
        """A run of the tiny preset (or of `system/preset`) that saves in its middle and at its end."""
        name, _, preset = system.partition("/")
        config = hub.find(name).preset(preset or "tiny")
        loop = replace(
            config.loop, steps=STEPS, save_every=STEPS // 2, evaluate_every=STEPS, log_every=2, keep=2, precision="fp32"
        )
        return RunRequest(
            system=name,
            config=replace(config, loop=loop),
            data=self.data(system),
            output=output,
            seed=self.seed,
            device="cpu",
        )

    def trained(self, system: str) -> Path:
        """The run folder of a system."""
        run = self.folder / "runs" / system.replace("/", "-")
        if not run.exists():
            train(self.request(system, run), say=_quiet)
        return run

    def test_clips(self) -> list[AudioClip]:
        """Recordings outside training, of different lengths, the shortest cut to a few samples."""
        clips = read_clips(list(Manifest.open(self.recordings / "test.jsonl")))
        rate = clips[0].sample_rate_hz
        noise = generator(self.seed, "noise").uniform(-0.5, 0.5, (1, rate // 3 + 1)).astype(np.float32)
        return [*clips[:4], AudioClip(clips[0].samples[:, :401], rate), AudioClip(noise, rate)]


def tiny_presets(systems: Iterable[str]) -> list[str]:
    """Every preset made for tests: `system`, and `system/preset` where a system has several."""
    return [
        name if preset == "tiny" else f"{name}/{preset}"
        for name in systems
        for preset in hub.find(name).presets
        if preset == "tiny" or preset.endswith("_tiny")
    ]


def check(system: str, bench: Bench) -> list[Equality]:
    """Check every equality that applies to a system (its preset `tiny`, or `system/preset`).

    Raises:
        ConfigError: no such system.
    """
    run = bench.trained(system)
    role = hub.load(run)
    results = [_loaded_is_saved(run, bench.folder / "again"), _resumed_is_uninterrupted(system, run, bench)]
    for kind, check_role in ROLES.items():
        if isinstance(role, kind):
            results += check_role(role, bench)
    return results + list(_cached_is_recomputed(role, bench.seed))


def _quiet(text: str) -> None:
    """Say nothing."""


def _loaded_is_saved(run: Path, again: Path) -> Equality:
    model, found, config = hub.load_model(run)
    shutil.rmtree(again, ignore_errors=True)
    own = {name: value for name, value in model.state_dict().items() if name not in found.borrowed}
    parts, borrowed = found.parts, found.borrowed
    checkpoint.save(again, system=found.system, config=config, state=own, parts=parts, borrowed=borrowed)
    differing = float(checkpoint.identity(again) != checkpoint.identity(run))
    differing += float(checkpoint.read(again).config != to_dict(config))
    return Equality(name="loaded = saved", difference=differing, tolerance=0)


def _resumed_is_uninterrupted(system: str, run: Path, bench: Bench) -> Equality:
    """Take away all that came after the middle of a run, go on, and compare the ends."""
    resumed, middle, last = run.with_name(f"{run.name}-resumed"), f"step-{STEPS // 2:08d}", f"step-{STEPS:08d}"
    shutil.rmtree(resumed, ignore_errors=True)
    shutil.copytree(run, resumed)
    shutil.rmtree(resumed / "checkpoints" / last)
    (resumed / "checkpoints" / "best.json").unlink()
    (resumed / "trainer" / f"{last}.pt").unlink()
    if not (resumed / "checkpoints" / middle).is_dir():
        raise AssertionError(f"{run} has no checkpoint of its middle")
    train(bench.request(system, resumed), say=_quiet)
    ends = [checkpoint.load_state(folder / "checkpoints" / last) for folder in (run, resumed)]
    worst = max(_distance(ends[0][name], ends[1][name]) for name in ends[0])
    same_log = (run / "metrics.jsonl").read_text() == (resumed / "metrics.jsonl").read_text()
    return Equality(name="resumed = uninterrupted", difference=worst if same_log else float("inf"), tolerance=0)


def _distance(first: torch.Tensor, second: torch.Tensor) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float((first.double() - second.double()).abs().max()) if first.numel() else 0.0


def _different_ids(first: np.ndarray, second: np.ndarray) -> float:
    if first.shape != second.shape:
        return float("inf")
    return float((first != second).sum())


def _codec(codec: Codec, bench: Bench) -> Iterator[Equality]:
    clips = [clip.at_rate(codec.sample_rate_hz).with_channels(codec.channels) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    padded = nn.functional.pad(audio, (0, 3 * codec.hop + 7))
    with torch.no_grad():
        together = codec.encode_batch(padded, lengths)
        sound = codec.decode_batch(together)
        ids = samples = 0.0
        for row, clip in enumerate(clips):
            alone = codec.encode_batch(*collate_clips([clip], torch.device("cpu")))
            frames = int(together.lengths[row])
            ids += _different_ids(together.codes[row, :, :frames].numpy(), alone.codes[0].numpy())
            restored = codec.decode_batch(alone)[0]
            samples = max(samples, _distance(sound[row, :, : clip.num_samples], restored[:, : clip.num_samples]))
    yield Equality(name="batched = alone (codes)", difference=ids, tolerance=0)
    yield Equality(name="batched = alone (samples)", difference=samples, tolerance=1e-4)
    repeated = _different_ids(codec.encode(clips[0]), codec.encode(clips[0]))
    yield Equality(name="repeated = first", difference=repeated, tolerance=0)
    if codec.is_causal:
        yield from _streamed(codec, clips)


@torch.no_grad()
def _streamed(codec: Codec, clips: Sequence[AudioClip]) -> Iterator[Equality]:
    """From single samples to the whole recording at once."""
    ids = samples = 0.0
    for number, clip in enumerate(clips):
        audio, _ = collate_clips([clip], torch.device("cpu"))
        audio = audio[..., : 40 * codec.hop + 7]  # enough to pass every layer's reach many times
        whole = codec.encode_batch(audio)
        sound = codec.decode_batch(whole)
        sizes = (1, codec.hop - 1, 5 * codec.hop + 3, audio.shape[-1])
        for size in sizes if number == 0 else sizes[2:]:
            encoder, decoder = codec.encoding_stream(), codec.decoding_stream()
            codes = torch.cat([*map(encoder.push, torch.split(audio, size, dim=-1)), encoder.push(last=True)], dim=-1)
            ids += _different_ids(codes[0].numpy(), whole.codes[0].numpy())
            pieces = torch.split(whole.codes, max(1, size // codec.hop), dim=-1)
            heard = torch.cat([*map(decoder.push, pieces), decoder.push(last=True)], dim=-1)[..., : audio.shape[-1]]
            samples = max(samples, _distance(heard, sound))
    yield Equality(name="streamed = whole (codes)", difference=ids, tolerance=0)
    yield Equality(name="streamed = whole (samples)", difference=samples, tolerance=1e-4)


def _transcriber(transcriber: Transcriber, bench: Bench) -> Iterator[Equality]:
    clips = bench.test_clips()
    together = transcriber.transcribe_batch(clips)
    alone = [transcriber.transcribe(clip) for clip in clips]
    different = sum(a != b for a, b in zip(together, alone, strict=True))
    yield Equality(name="batched = alone (transcripts)", difference=float(different), tolerance=0)
    again = sum(a != b for a, b in zip(transcriber.transcribe_batch(clips), together, strict=True))
    yield Equality(name="repeated = first", difference=float(again), tolerance=0)


def _speaker(speaker: Speaker, bench: Bench) -> Iterator[Equality]:
    utterances = list(Manifest.open(bench.recordings / "test.jsonl"))
    texts = [utterance.text or "" for utterance in utterances]
    clips = read_clips(utterances)
    requests = [
        SayRequest(text=texts[0], speaker=speaker.speakers[0]),
        SayRequest(text=texts[1] * 3, speaker=speaker.speakers[-1]),
        SayRequest(text=texts[2], prompt=clips[3], prompt_text=texts[3]),
        SayRequest(text=texts[2] * 2, prompt=max(clips, key=lambda clip: clip.num_samples)),
    ]
    ids = samples = 0.0
    options: tuple[dict[str, Any], ...] = ({"greedy": True}, {"temperature": 1.0})
    for sampling in options:
        together = speaker.say_batch(requests, seed=bench.seed, **sampling)
        for request, speech in zip(requests, together, strict=True):
            alone = speaker.say_batch([request], seed=bench.seed, **sampling)[0]
            ids += _different_ids(speech.codes, alone.codes)
            samples = max(samples, _distance(*(torch.from_numpy(s.clip.samples) for s in (speech, alone))))
    yield Equality(name="batched = alone (codes)", difference=ids, tolerance=0)
    yield Equality(name="batched = alone (samples)", difference=samples, tolerance=1e-4)
    first, again = (speaker.say_batch(requests[:1], seed=bench.seed)[0] for _ in range(2))
    yield Equality(name="repeated = first", difference=_different_ids(first.codes, again.codes), tolerance=0)


def _continuer(continuer: Continuer, bench: Bench) -> Iterator[Equality]:
    prompts = [
        AudioClip(clip.samples[:, : int(seconds * clip.sample_rate_hz)], clip.sample_rate_hz)
        for clip, seconds in zip(bench.test_clips(), (0.3, 0.12, 0.2, 0.3), strict=False)
    ]
    ids = samples = 0.0
    options: tuple[dict[str, Any], ...] = ({"greedy": True}, {"temperature": 1.0})
    for sampling in options:
        together = continuer.continue_batch(prompts, duration_s=0.3, seed=bench.seed, **sampling)
        for prompt, speech in zip(prompts, together, strict=True):
            alone = continuer.continue_batch([prompt], duration_s=0.3, seed=bench.seed, **sampling)[0]
            ids += _different_ids(speech.codes, alone.codes)
            samples = max(samples, _distance(*(torch.from_numpy(s.clip.samples) for s in (speech, alone))))
    yield Equality(name="batched = alone (codes)", difference=ids, tolerance=0)
    yield Equality(name="batched = alone (samples)", difference=samples, tolerance=1e-4)
    first, again = (continuer.continue_clip(prompts[0], duration_s=0.3, seed=bench.seed) for _ in range(2))
    yield Equality(name="repeated = first", difference=_different_ids(first.codes, again.codes), tolerance=0)


@torch.no_grad()
def _encoder(encoder: Encoder, bench: Bench) -> Iterator[Equality]:
    clips = [clip.at_rate(encoder.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    together = encoder.encode_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    worst = 0.0
    for row, clip in enumerate(clips):
        alone = encoder.encode_batch(*collate_clips([clip], torch.device("cpu")))
        worst = max(worst, _distance(together.values[row, together.valid[row]], alone.values[0, alone.valid[0]]))
    yield Equality(name="batched = alone (embeddings)", difference=worst, tolerance=1e-4)
    first, again = (encoder.encode_batch(audio, lengths).values for _ in range(2))
    yield Equality(name="repeated = first", difference=_distance(first, again), tolerance=0)


@torch.no_grad()
def _unit_tokenizer(tokenizer: UnitTokenizer, bench: Bench) -> Iterator[Equality]:
    if not tokenizer.num_units:
        return
    clips = [clip.at_rate(tokenizer.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    units, counts = tokenizer.units_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    different = 0.0
    for row, clip in enumerate(clips):
        different += _different_ids(units[row, : int(counts[row])].numpy(), tokenizer.encode(clip).units)
    yield Equality(name="batched = alone (units)", difference=different, tolerance=0)


@torch.no_grad()
def _generator(vocoder: Generator, bench: Bench) -> Iterator[Equality]:
    draw = generator(bench.seed, "units")
    rows = [torch.from_numpy(draw.integers(vocoder.num_units, size=count)) for count in (9, 1, 17, 4)]
    units = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    together, samples = vocoder.generate_batch(units, torch.tensor([len(row) for row in rows]))
    worst = 0.0
    for row, ids in enumerate(rows):
        alone = torch.from_numpy(vocoder.generate(ids).samples)
        worst = max(worst, _distance(together[row, :, : int(samples[row])], alone))
    yield Equality(name="batched = alone (samples)", difference=worst, tolerance=1e-4)
    first, again = (torch.from_numpy(vocoder.generate(rows[0]).samples) for _ in range(2))
    yield Equality(name="repeated = first", difference=_distance(first, again), tolerance=0)


def _listener(listener: Listener, bench: Bench) -> Iterator[Equality]:
    clips = bench.test_clips()
    questions = ["what is it" + "?" * (number + 1) for number in range(len(clips))]
    together = listener.answer_batch(clips, questions, seed=bench.seed)
    alone = [listener.answer(c, q, seed=bench.seed) for c, q in zip(clips, questions, strict=True)]
    different = sum(a != b for a, b in zip(together, alone, strict=True))
    yield Equality(name="batched = alone (answers)", difference=float(different), tolerance=0)
    again = listener.answer_batch(clips, questions, seed=bench.seed)
    different = sum(a != b for a, b in zip(together, again, strict=True))
    yield Equality(name="repeated = first", difference=float(different), tolerance=0)


def _chatter(chatter: Chatter, bench: Bench) -> Iterator[Equality]:
    """A chatter has one conversation at a time: others in between must change nothing."""
    clip = bench.test_clips()[0]
    parts: list[tuple[Any, ...]] = [("hello",), ("say a", "say b")]
    parts += [(clip, "what is it?")] if "audio" in chatter.takes else []
    turns = [Turn(role="user", parts=each) for each in parts]
    alone = [_said(chatter.reply([turn], seed=bench.seed)) for turn in turns]
    mixed = [_said(chatter.reply([turn], seed=bench.seed)) for turn in reversed(turns)][::-1]
    different = sum(a != b for a, b in zip(alone, mixed, strict=True))
    yield Equality(name="batched = alone (conversations)", difference=float(different), tolerance=0)
    repeated = float(_said(chatter.reply([turns[0]], seed=bench.seed)) != alone[0])
    yield Equality(name="repeated = first", difference=repeated, tolerance=0)


def _said(turn: Turn) -> list[Any]:
    """A turn in comparable form."""
    parts = [part.samples.tolist() if isinstance(part, AudioClip) else part for part in turn.parts]
    return [[part.tolist() if isinstance(part, np.ndarray) else part for part in parts], turn.stop_reason, turn.missing]


@torch.no_grad()
def _language_model(lm: LanguageModel, bench: Bench) -> Iterator[Equality]:
    draw = generator(bench.seed, "prompts")
    prompts = [draw.integers(5, lm.config.vocabulary_size, size=count).tolist() for count in (9, 1, 17, 4)]
    different = 0.0
    options: tuple[dict[str, Any], ...] = ({}, {"num_beams": 3}, {"temperature": 2.0})
    for option in options:
        together = lm.generate_batch(prompts, seed=bench.seed, max_new=12, **option)
        for prompt, row in zip(prompts, together, strict=True):
            (alone,) = lm.generate_batch([prompt], seed=bench.seed, max_new=12, **option)
            different += float((row.ids, row.stop_reason) != (alone.ids, alone.stop_reason))
    yield Equality(name="batched = alone (ids)", difference=different, tolerance=0)
    ids = torch.tensor([prompts[2]])
    session = CausalLmSession.of_ids(lm.network, [prompts[2][:5]])
    steps = [session.start(), *(session.step(ids[:, place]) for place in range(5, ids.shape[1]))]
    whole = lm.logits(ids)[0, 4:]
    yield Equality(name="cached = recomputed", difference=_distance(torch.cat(steps), whole), tolerance=1e-4)
    first, again = (lm.generate_batch(prompts[:1], seed=bench.seed, max_new=12, temperature=2.0) for _ in range(2))
    yield Equality(name="repeated = first", difference=float(first != again), tolerance=0)


@torch.no_grad()
def _speaker_encoder(encoder: SpeakerEncoder, bench: Bench) -> Iterator[Equality]:
    clips = [clip.at_rate(encoder.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    together = encoder.embed_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    alone = torch.stack([torch.from_numpy(encoder.embed(clip)) for clip in clips])
    yield Equality(name="batched = alone (vectors)", difference=_distance(together, alone), tolerance=1e-4)
    first, again = (torch.from_numpy(encoder.embed(clips[0])) for _ in range(2))
    yield Equality(name="repeated = first", difference=_distance(first, again), tolerance=0)


ROLES: dict[type, Callable[[Any, Bench], Iterator[Equality]]] = {
    Codec: _codec,
    Transcriber: _transcriber,
    Speaker: _speaker,
    Continuer: _continuer,
    Listener: _listener,
    Chatter: _chatter,
    Encoder: _encoder,
    UnitTokenizer: _unit_tokenizer,
    Generator: _generator,
    LanguageModel: _language_model,
    SpeakerEncoder: _speaker_encoder,
}
"""What is checked of each role."""


def _cached_is_recomputed(role: nn.Module, seed: int) -> Iterator[Equality]:
    """Feed every transformer of a system a sequence at once, and in pieces of several sizes through a cache."""
    worst, found = 0.0, False
    for module in role.modules():
        if isinstance(module, Transformer) and module.final_norm.plain is not None:
            found = True
            for sizes in ((12,), (5, 1, 1, 1, 4), (1,) * 12):
                worst = max(worst, _cache_difference(module, sizes, seed))
    if found:
        yield Equality(name="cached = recomputed", difference=worst, tolerance=1e-4)


@torch.no_grad()
def _cache_difference(transformer: Transformer, sizes: Sequence[int], seed: int) -> float:
    total = sum(sizes)
    x = torch.randn(2, total, transformer.config.width, generator=torch_generator(seed, "cache", total))
    positions = torch.arange(total)[None].expand(2, -1)
    mask = causal_mask(torch.ones(2, total, dtype=torch.bool))
    whole = transformer(x, positions=positions, mask=mask)
    cache, pieces, start = StaticCache(transformer.config.num_layers, total), [], 0
    for size in sizes:
        end = start + size
        rows = mask[:, start:end, :end]
        pieces.append(transformer(x[:, start:end], positions=positions[:, start:end], mask=rows, cache=cache))
        start = end
    return _distance(torch.cat(pieces, dim=1), whole)
