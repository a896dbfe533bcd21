"""What a codec, a recogniser or a voice is worth, on recordings outside training.

Every figure that a recogniser judges carries the same recogniser's error on the originals, and what knowing
nothing would score, so that no number stands alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import numpy as np

from voder.audio.io import AudioClip
from voder.data.manifest import Manifest, Utterance
from voder.errors import ManifestError
from voder.evaluate.figures import Figure
from voder.metrics.audio import log_mel_distance, stoi
from voder.metrics.codes import perplexity, usage
from voder.metrics.text import (
    bootstrap_rate,
    corpus_edits,
    pooled,
    random_rate,
    shuffled_rate,
)
from voder.roles import (
    Codec,
    SayRequest,
    Speaker,
    SpeakerEncoder,
    Speech,
    Transcriber,
    collate_clips,
    device_of,
    fit_clip,
)

BATCH = 16
"""Clips that go through a part at once."""


def read_clips(utterances: Sequence[Utterance]) -> list[AudioClip]:
    """Read recordings as they are."""
    return [utterance.read() for utterance in utterances]


def spoken(manifest: Manifest, limit: int | None = None) -> list[Utterance]:
    """Recordings with a text, at most `limit`, spread over the manifest.

    Raises:
        ManifestError: there are none.
    """
    found = [utterance for utterance in manifest if utterance.text]
    if not found:
        raise ManifestError(f"{manifest.path} has no recording with a text; nothing can be scored")
    return _spread(found, limit)


def hear(judge: Transcriber, clips: Sequence[AudioClip]) -> list[str]:
    """Transcribe in batches of clips of like length."""
    order = sorted(range(len(clips)), key=lambda i: clips[i].duration_s)
    texts = [""] * len(clips)
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        for index, transcript in zip(chosen, judge.transcribe_batch([clips[i] for i in chosen]), strict=True):
            texts[index] = transcript.text
    return texts


def error_figure(
    name: str,
    references: Sequence[str],
    heard: Sequence[str],
    *,
    judge: str | None = None,
    originals: float | None = None,
) -> Figure:
    """Word error rate in percent, with the 95 % bootstrap interval over recordings and the errors by kind.

    `chance` is the rate of random words of the right number; the note adds the rate of the same answers against
    each other's references. `originals` is the judge's rate in percent on the original recordings.
    """
    counts = corpus_edits(references, heard)
    total, interval = pooled(counts), bootstrap_rate(counts)
    note = (
        f"{total.reference_length} words: {total.substitutions} substituted, {total.deletions} left out, "
        f"{total.insertions} put in"
    )
    if len(counts) > 1:
        note += f"; against shuffled references {100 * shuffled_rate(references, heard):.0f} %"
    return Figure(
        name=name,
        value=100 * total.rate,
        unit="%",
        n=len(counts),
        interval=(100 * interval.low, 100 * interval.high),
        chance=100 * random_rate(references),
        judge=judge,
        originals=originals,
        note=note,
    )


def evaluate_transcriber(
    transcriber: Transcriber,
    utterances: Sequence[Utterance],
    *,
    name: str = "ears",
    clips: Sequence[AudioClip] | None = None,
) -> list[Figure]:
    """Word and character error on recordings with texts; `clips` stand in for reading the recordings."""
    references = [utterance.text or "" for utterance in utterances]
    heard = hear(transcriber, read_clips(utterances) if clips is None else clips)
    characters = pooled(corpus_edits(references, heard, unit="characters"))
    return [
        error_figure(f"{name}: word error", references, heard),
        Figure(
            name=f"{name}: character error",
            value=100 * characters.rate,
            unit="%",
            n=len(references),
            note=f"{characters.reference_length} characters",
        ),
    ]


@dataclass(frozen=True, kw_only=True)
class RoundTrip:
    """A recording before and after a codec, at the codec's rate."""

    original: AudioClip
    restored: AudioClip
    codes: np.ndarray


def round_trips(codec: Codec, clips: Sequence[AudioClip], *, num_codebooks: int | None = None) -> list[RoundTrip]:
    """Encode and decode recordings in batches of like length."""
    fitted = [fit_clip(clip, sample_rate_hz=codec.sample_rate_hz, channels=codec.channels) for clip in clips]
    order = sorted(range(len(fitted)), key=lambda i: fitted[i].num_samples)
    made: dict[int, RoundTrip] = {}
    for start in range(0, len(order), BATCH):
        chosen = order[start : start + BATCH]
        audio, lengths = collate_clips([fitted[i] for i in chosen], device_of(codec))
        encoded = codec.encode_batch(audio, lengths, num_codebooks=num_codebooks)
        decoded = codec.decode_batch(encoded).float().detach().cpu().numpy()
        for row, index in enumerate(chosen):
            samples = decoded[row, :, : fitted[index].num_samples]
            frames = int(encoded.lengths[row])
            made[index] = RoundTrip(
                original=fitted[index],
                restored=AudioClip(np.ascontiguousarray(samples), codec.sample_rate_hz),
                codes=encoded.codes[row, :, :frames].cpu().numpy(),
            )
    return [made[i] for i in range(len(fitted))]


def evaluate_codec(
    codec: Codec,
    utterances: Sequence[Utterance],
    judge: Transcriber | None = None,
    *,
    judge_name: str = "ctc",
    name: str = "codec",
    num_codebooks: int | None = None,
) -> list[Figure]:
    """Bit rate, distance, intelligibility, use of codebooks and, with a judge and texts, word error through the codec.

    STOI is listed where the metrics extra is installed.
    """
    trips = round_trips(codec, read_clips(utterances), num_codebooks=num_codebooks)
    figures = [_bitrate(name, codec, num_codebooks or codec.num_codebooks), _distance(name, trips)]
    if find_spec("pystoi") is not None:
        figures.append(_stoi(name, trips))
    figures += _codebook_figures(name, codec, trips)
    said = [i for i, utterance in enumerate(utterances) if utterance.text]
    if judge is None or not said:
        return figures
    references = [utterances[i].text or "" for i in said]
    originals = 100 * pooled(corpus_edits(references, hear(judge, [trips[i].original for i in said]))).rate
    heard = hear(judge, [trips[i].restored for i in said])
    through = f"{name}: word error through it"
    return [*figures, error_figure(through, references, heard, judge=judge_name, originals=originals)]


def evaluate_speaker(
    speaker: Speaker,
    requests: Sequence[SayRequest],
    judge: Transcriber,
    *,
    judge_name: str = "ctc",
    originals: float | None = None,
    name: str = "voice",
    seed: int = 0,
    batch: int = BATCH,
    **sampling: Any,
) -> tuple[list[Figure], list[Speech]]:
    """Word error of what a voice says, as a judge hears it; `originals` is the judge's error
    in percent on real recordings."""
    said: list[Speech] = []
    for start in range(0, len(requests), batch):
        said += speaker.say_batch(requests[start : start + batch], seed=seed + start, **sampling)
    references = [request.text for request in requests]
    heard = hear(judge, [speech.clip for speech in said])
    whole = [count.errors == 0 for count in corpus_edits(references, heard)]
    cut = [speech.truncated for speech in said]
    return [
        error_figure(f"{name}: word error", references, heard, judge=judge_name, originals=originals),
        Figure(
            name=f"{name}: whole strings right",
            value=100 * float(np.mean(whole)),
            unit="%",
            n=len(said),
            judge=judge_name,
            lower_is_better=False,
        ),
        Figure(name=f"{name}: cut at the length limit", value=100 * float(np.mean(cut)), unit="%", n=len(said)),
    ], said


def likeness_figure(
    name: str,
    judge: SpeakerEncoder,
    said: Sequence[AudioClip],
    recorded: Sequence[AudioClip],
    again: Sequence[AudioClip],
    speakers: Sequence[str | None],
    *,
    judge_name: str,
) -> Figure:
    """How like a voice is to the one it should be: mean cosine between what was said and a recording of the speaker.

    `originals` is the same between two recordings of each speaker (`recorded` and `again`), `chance` between recordings
    of different speakers; without a second speaker there is none.
    """
    ours, theirs, other = (np.stack([judge.embed(clip) for clip in clips]) for clips in (said, recorded, again))
    same = (theirs * other).sum(1)
    apart = np.array([[a != b for b in speakers] for a in speakers])
    return Figure(
        name=name,
        value=float((ours * theirs).sum(1).mean()),
        n=len(said),
        chance=float((theirs @ theirs.T)[apart].mean()) if apart.any() else None,
        judge=judge_name,
        originals=float(same.mean()),
        note="cosine of speaker vectors; chance is between different speakers",
        lower_is_better=False,
    )


def _spread(items: list[Utterance], limit: int | None) -> list[Utterance]:
    if limit is None or limit >= len(items):
        return items
    return [items[index * len(items) // limit] for index in range(limit)]


def _bitrate(name: str, codec: Codec, books: int) -> Figure:
    value = codec.bitrate_bps * books / codec.num_codebooks
    return Figure(name=f"{name}: bit rate", value=value, unit="bit/s", note=f"{books} codebooks, no entropy coding")


def _distance(name: str, trips: Sequence[RoundTrip]) -> Figure:
    values = [log_mel_distance(*_mono(trip), trip.original.sample_rate_hz) for trip in trips]
    return Figure(name=f"{name}: log-mel distance", value=float(np.mean(values)), n=len(values), note="nats per band")


def _stoi(name: str, trips: Sequence[RoundTrip]) -> Figure:
    values = np.array([stoi(*_mono(trip), trip.original.sample_rate_hz) for trip in trips])
    scored = values[np.isfinite(values)]
    note = "clips with under 0.4 s of speech repeated three times"
    if len(scored) < len(values):
        note += f"; {len(values) - len(scored)} of {len(values)} clips have too little speech even so"
    value = float(scored.mean()) if len(scored) else None
    return Figure(name=f"{name}: STOI", value=value, n=len(scored), note=note, lower_is_better=False)


def _mono(trip: RoundTrip) -> tuple[np.ndarray, np.ndarray]:
    return trip.original.samples.mean(0), trip.restored.samples.mean(0)


def _codebook_figures(name: str, codec: Codec, trips: Sequence[RoundTrip]) -> list[Figure]:
    codes = np.concatenate([trip.codes for trip in trips], axis=1)
    measured = zip(perplexity(codes, codec.codebook_size), usage(codes, codec.codebook_size), strict=True)
    return [
        Figure(
            name=f"{name}: perplexity of codebook {book}",
            value=float(spread),
            n=codes.shape[1],
            note=f"{share:.0%} of {codec.codebook_size} codes occur in so many frames",
            lower_is_better=False,
        )
        for book, (spread, share) in enumerate(measured, 1)
    ]
