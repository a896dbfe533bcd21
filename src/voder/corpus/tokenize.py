"""`voder tokenize`: the recordings of prepared manifests become token shards of one codec or unit tokenizer.

Shards hold a fixed number of recordings in manifest order, so killing the run anywhere and starting it again ends in
the same bytes: finished shards are kept, the others are made anew.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import torch

from voder.audio.io import AudioClip
from voder.checkpoint import identity, read, resolve
from voder.corpus.progress import track
from voder.data.loader import Prefetcher
from voder.data.manifest import Manifest, Utterance, json_line, to_line
from voder.data.shards import Skipped, TokenizerInfo, TokenWriter
from voder.errors import AudioError, ConfigError, InputError, ResourceError
from voder.files import write_text
from voder.roles import Codec, UnitTokenizer, collate_clips

SPLITS = ("train", "valid", "test")


@dataclass(frozen=True, kw_only=True)
class TokenizeReport:
    """What became of the recordings."""

    output: str
    """the store's folder"""
    recordings: dict[str, int]
    """recordings written, by split"""
    frames: dict[str, int]
    """codec frames written, by split"""
    hours: float
    """length of what was written, by frames"""
    skipped: tuple[Skipped, ...]
    """recordings left out, with reasons; also in skipped.jsonl"""
    reused_shards: int
    """shards that stood already"""
    written_shards: int
    """shards that this run made"""

    def summary(self) -> str:
        """Return the lines that the command line prints."""
        kept = sum(self.recordings.values())
        lines = [f"tokenized {kept} of {kept + len(self.skipped)} recordings, {self.hours:.2f} hours, in {self.output}"]
        lines += [
            f"  {name:5} {count} recordings, {self.frames[name]} frames" for name, count in self.recordings.items()
        ]
        lines += [f"  skipped {each.audio}: {each.reason}" for each in self.skipped[:5]]
        if len(self.skipped) > 5:
            lines.append(f"  and {len(self.skipped) - 5} more, listed in skipped.jsonl")
        return "\n".join(lines)


@dataclass(frozen=True, kw_only=True)
class _Job:
    tokenizer: Codec | UnitTokenizer
    device: torch.device
    num_codebooks: int
    batch_duration_s: float
    strict: bool


def tokenize_corpus(
    data: str | os.PathLike[str],
    tokenizer: Codec | UnitTokenizer,
    tokenizer_folder: str | os.PathLike[str],
    output: str | os.PathLike[str],
    *,
    device: torch.device | str = "cpu",
    batch_duration_s: float = 60.0,
    num_codebooks: int | None = None,
    shard_recordings: int = 1000,
    strict: bool = False,
) -> TokenizeReport:
    """Encode the splits of `data` with `tokenizer` (loaded from `tokenizer_folder`) into a token store.

    A codec gives its codebooks, a unit tokenizer one (repeats are kept).

    A batch holds at most `batch_duration_s` seconds, padding included. Recordings that cannot be read, or are too short
    for the tokenizer, are listed and left out, or with `strict` stop the run. Raises InputError when there is nothing
    to encode, FittedPartMismatch when `output` belongs to another codec, ResourceError when memory runs out or another
    process writes there.
    """
    if not batch_duration_s > 0 or shard_recordings < 1:
        raise ConfigError(
            f"batch_duration_s and shard_recordings must be positive, but are {batch_duration_s} and {shard_recordings}"
        )
    most = tokenizer.num_codebooks if isinstance(tokenizer, Codec) else 1
    used = most if num_codebooks is None else num_codebooks
    if not 1 <= used <= most:
        raise ConfigError(f"num_codebooks must lie between 1 and {most}, but is {used}")
    manifests = _open_manifests(Path(data))
    folder = resolve(Path(tokenizer_folder))
    job = _Job(
        tokenizer=tokenizer.to(device).eval(),
        device=torch.device(device),
        num_codebooks=used,
        batch_duration_s=batch_duration_s,
        strict=strict,
    )
    with TokenWriter(output, tokenizer=_info(folder, job), tokenizer_folder=folder) as writer:
        return _tokenize(writer, manifests, job, shard_recordings)


def _open_manifests(data: Path) -> dict[str, Manifest]:
    manifests = {name: Manifest.open(data / f"{name}.jsonl") for name in SPLITS if (data / f"{name}.jsonl").exists()}
    if not any(len(manifest) for manifest in manifests.values()):
        raise InputError(f"{data} holds no train.jsonl, valid.jsonl or test.jsonl with recordings: run `voder prepare`")
    return manifests


def _info(folder: Path, job: _Job) -> TokenizerInfo:
    codec = job.tokenizer
    return TokenizerInfo(
        system=read(folder).system,
        identity=identity(folder),
        num_codebooks=job.num_codebooks,
        codebook_size=codec.codebook_size if isinstance(codec, Codec) else codec.num_units,
        frame_rate_hz=codec.sample_rate_hz / codec.hop,
        sample_rate_hz=codec.sample_rate_hz,
        hop=codec.hop,
    )


def _tokenize(writer: TokenWriter, manifests: dict[str, Manifest], job: _Job, size: int) -> TokenizeReport:
    rate = job.tokenizer.sample_rate_hz
    silence = AudioClip(np.zeros((_channels(job), rate), np.float32), rate)
    writer.write_silence(_encode([silence], job)[0])
    spans = [
        (split, f"{split}-{start // size:05d}", range(start, min(start + size, len(manifest))))
        for split, manifest in manifests.items()
        for start in range(0, len(manifest), size)
    ]
    shards: dict[str, list[str]] = {split: [] for split in manifests}
    reused = 0
    for split, name, span in track(spans, len(spans), "tokenizing"):
        utterances = [manifests[split][index] for index in span]
        key = _key(writer, utterances)
        if writer.has_shard(name, key):
            reused += 1
        else:
            kept, codes, skipped = _encode_shard(utterances, job)
            writer.write_shard(name, key, kept, codes, skipped)
        shards[split].append(name)
    skipped_all = writer.skipped([name for names in shards.values() for name in names])
    write_text(writer.folder / "skipped.jsonl", "".join(json_line(each._asdict()) for each in skipped_all))
    store = writer.finish(shards)
    frames = {split: int(store.split(split).lengths.sum()) for split in store.splits}
    return TokenizeReport(
        output=writer.folder.as_posix(),
        recordings={split: len(store.split(split)) for split in store.splits},
        frames=frames,
        hours=round(sum(frames.values()) / writer.tokenizer.frame_rate_hz / 3600, 4),
        skipped=tuple(skipped_all),
        reused_shards=reused,
        written_shards=len(spans) - reused,
    )


def _key(writer: TokenWriter, utterances: Sequence[Utterance]) -> str:
    """Name what a shard is made from: the codec and every line of its recordings."""
    digest = hashlib.sha256(json.dumps(asdict(writer.tokenizer), sort_keys=True).encode())
    for utterance in utterances:
        digest.update(to_line(utterance, writer.folder))
    return digest.hexdigest()


def _encode_shard(
    utterances: Sequence[Utterance], job: _Job
) -> tuple[list[Utterance], list[np.ndarray], list[Skipped]]:
    """Encode recordings in batches of like length; results in the order of `utterances`."""
    batches = list(_batches(utterances, job.batch_duration_s))
    codes: dict[int, np.ndarray] = {}
    skipped: dict[int, Skipped] = {}

    def load(number: int) -> dict[int, AudioClip | AudioError]:
        return {index: _read(utterances[index], job) for index in (batches[number] if number < len(batches) else ())}

    with Prefetcher(load) as loader:
        for number in range(len(batches)):
            read = loader.get(number)
            made = _encode_batch({i: clip for i, clip in read.items() if isinstance(clip, AudioClip)}, job)
            for index, found in (read | made).items():
                if isinstance(found, np.ndarray):
                    codes[index] = found
                elif isinstance(found, AudioError):
                    if job.strict:
                        raise found
                    bad = utterances[index]
                    skipped[index] = Skipped(bad.id, bad.audio.as_posix(), str(found))
    kept = sorted(codes)
    return [utterances[i] for i in kept], [codes[i] for i in kept], [skipped[i] for i in sorted(skipped)]


def _batches(utterances: Sequence[Utterance], batch_duration_s: float) -> Iterator[list[int]]:
    """Yield indices, longest recordings first: if memory runs out, it runs out at once."""
    order = sorted(range(len(utterances)), key=lambda index: (-utterances[index].duration_s, index))
    while order:
        count = max(1, int(batch_duration_s / utterances[order[0]].duration_s))
        yield order[:count]
        order = order[count:]


def _channels(job: _Job) -> int:
    return job.tokenizer.channels if isinstance(job.tokenizer, Codec) else 1


def _read(utterance: Utterance, job: _Job) -> AudioClip | AudioError:
    try:
        clip = utterance.read(sample_rate_hz=job.tokenizer.sample_rate_hz, channels=_channels(job))
    except AudioError as error:
        return error
    return clip if clip.num_samples else AudioError(f"{utterance.audio} holds no samples")


def _encode_batch(clips: dict[int, AudioClip], job: _Job) -> dict[int, np.ndarray | AudioError]:
    """Encode clips together, or one by one when the tokenizer refuses one of them (too short for it)."""
    if not clips:
        return {}
    try:
        return dict(zip(clips, _encode(list(clips.values()), job), strict=True))
    except AudioError as error:
        if len(clips) == 1:
            return dict.fromkeys(clips, error)
    return {index: found for i, clip in clips.items() for index, found in _encode_batch({i: clip}, job).items()}


def _encode(clips: Sequence[AudioClip], job: _Job) -> list[np.ndarray]:
    """Return codes [codebook, frame] of each clip. Raises ResourceError when memory runs out."""
    try:
        with torch.inference_mode():
            audio, lengths = collate_clips(clips, job.device)
            if isinstance(job.tokenizer, Codec):
                encoded = job.tokenizer.encode_batch(audio, lengths, num_codebooks=job.num_codebooks)
                codes, frames = encoded.codes.cpu().numpy(), encoded.lengths.tolist()
            else:
                units, counts = job.tokenizer.units_batch(audio, lengths)
                codes, frames = units[:, None].cpu().numpy(), counts.tolist()
    except (MemoryError, RuntimeError) as error:  # torch's out of memory is a RuntimeError on every device
        if isinstance(error, MemoryError) or "memory" in str(error).lower():
            raise ResourceError(
                f"memory ran out on {job.device} with {len(clips)} recordings in a batch: "
                f"lower batch_duration_s (now {job.batch_duration_s:g})"
            ) from error
        raise
    return [item[:, :count] for item, count in zip(codes, frames, strict=True)]
