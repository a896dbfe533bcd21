"""What every role promises: batched = alone, streamed = whole, cached = recomputed, repeated = first."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from voder.audio.io import AudioClip
from voder.data.manifest import Manifest
from voder.data.randomness import generator
from voder.evaluate.bench import Bench
from voder.evaluate.suites import read_clips
from voder.nn.causal_lm import CausalLmSession, LanguageModel
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
    Speech,
    Transcriber,
    Turn,
    UnitTokenizer,
    collate_clips,
)


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


def distance(first: torch.Tensor, second: torch.Tensor) -> float:
    """The largest absolute difference; infinite between shapes."""
    if first.shape != second.shape:
        return float("inf")
    return float((first.double() - second.double()).abs().max()) if first.numel() else 0.0


def different_ids(first: np.ndarray, second: np.ndarray) -> float:
    """How many ids differ; infinite between shapes."""
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
            ids += different_ids(together.codes[row, :, :frames].numpy(), alone.codes[0].numpy())
            restored = codec.decode_batch(alone)[0]
            samples = max(samples, distance(sound[row, :, : clip.num_samples], restored[:, : clip.num_samples]))
    yield Equality(name="batched = alone (codes)", difference=ids, tolerance=0)
    yield Equality(name="batched = alone (samples)", difference=samples, tolerance=1e-4)
    repeated = different_ids(codec.encode(clips[0]), codec.encode(clips[0]))
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
            ids += different_ids(codes[0].numpy(), whole.codes[0].numpy())
            pieces = torch.split(whole.codes, max(1, size // codec.hop), dim=-1)
            heard = torch.cat([*map(decoder.push, pieces), decoder.push(last=True)], dim=-1)[..., : audio.shape[-1]]
            samples = max(samples, distance(heard, sound))
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
    yield from _spoken(requests, lambda rows, **options: speaker.say_batch(rows, seed=bench.seed, **options))


def _continuer(continuer: Continuer, bench: Bench) -> Iterator[Equality]:
    prompts = [
        AudioClip(clip.samples[:, : int(seconds * clip.sample_rate_hz)], clip.sample_rate_hz)
        for clip, seconds in zip(bench.test_clips(), (0.3, 0.12, 0.2, 0.3), strict=False)
    ]
    yield from _spoken(
        prompts,
        lambda rows, **options: continuer.continue_batch(rows, duration_s=0.3, seed=bench.seed, **options),
    )


def _spoken(rows: Sequence[Any], speak: Callable[..., list[Speech]]) -> Iterator[Equality]:
    """Of whatever gives speech: greedily and at random, and the defaults twice."""
    ids = samples = 0.0
    options: tuple[dict[str, Any], ...] = ({"greedy": True}, {"temperature": 1.0})
    for sampling in options:
        together = speak(rows, **sampling)
        for row, speech in zip(rows, together, strict=True):
            (alone,) = speak([row], **sampling)
            ids += different_ids(speech.codes, alone.codes)
            samples = max(samples, distance(*(torch.from_numpy(s.clip.samples) for s in (speech, alone))))
    yield Equality(name="batched = alone (codes)", difference=ids, tolerance=0)
    yield Equality(name="batched = alone (samples)", difference=samples, tolerance=1e-4)
    (first,), (again,) = (speak(rows[:1]) for _ in range(2))
    yield Equality(name="repeated = first", difference=different_ids(first.codes, again.codes), tolerance=0)


@torch.no_grad()
def _encoder(encoder: Encoder, bench: Bench) -> Iterator[Equality]:
    clips = [clip.at_rate(encoder.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    together = encoder.encode_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    worst = 0.0
    for row, clip in enumerate(clips):
        alone = encoder.encode_batch(*collate_clips([clip], torch.device("cpu")))
        worst = max(worst, distance(together.values[row, together.valid[row]], alone.values[0, alone.valid[0]]))
    yield Equality(name="batched = alone (embeddings)", difference=worst, tolerance=1e-4)
    first, again = (encoder.encode_batch(audio, lengths).values for _ in range(2))
    yield Equality(name="repeated = first", difference=distance(first, again), tolerance=0)


@torch.no_grad()
def _unit_tokenizer(tokenizer: UnitTokenizer, bench: Bench) -> Iterator[Equality]:
    if not tokenizer.num_units:
        return
    clips = [clip.at_rate(tokenizer.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    units, counts = tokenizer.units_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    different = 0.0
    for row, clip in enumerate(clips):
        different += different_ids(units[row, : int(counts[row])].numpy(), tokenizer.encode(clip).units)
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
        worst = max(worst, distance(together[row, :, : int(samples[row])], alone))
    yield Equality(name="batched = alone (samples)", difference=worst, tolerance=1e-4)
    first, again = (torch.from_numpy(vocoder.generate(rows[0]).samples) for _ in range(2))
    yield Equality(name="repeated = first", difference=distance(first, again), tolerance=0)


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
    yield Equality(name="cached = recomputed", difference=distance(torch.cat(steps), whole), tolerance=1e-4)
    first, again = (lm.generate_batch(prompts[:1], seed=bench.seed, max_new=12, temperature=2.0) for _ in range(2))
    yield Equality(name="repeated = first", difference=float(first != again), tolerance=0)


@torch.no_grad()
def _speaker_encoder(encoder: SpeakerEncoder, bench: Bench) -> Iterator[Equality]:
    clips = [clip.at_rate(encoder.sample_rate_hz).with_channels(1) for clip in bench.test_clips()]
    audio, lengths = collate_clips(clips, torch.device("cpu"))
    together = encoder.embed_batch(nn.functional.pad(audio, (0, 1007)), lengths)
    alone = torch.stack([torch.from_numpy(encoder.embed(clip)) for clip in clips])
    yield Equality(name="batched = alone (vectors)", difference=distance(together, alone), tolerance=1e-4)
    first, again = (torch.from_numpy(encoder.embed(clips[0])) for _ in range(2))
    yield Equality(name="repeated = first", difference=distance(first, again), tolerance=0)


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
