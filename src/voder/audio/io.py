"""The one entrance for audio, and the one exit.

Length is what was decoded, never what a header claims: reading goes block by block, nothing is allocated by a number
from the file, and a header that contradicts the decoded length is named. Every sample is finite and within range, or
the file is refused with the time of the first bad one. Integers of n bits are divided by 2**(n-1); floats are taken as
they are. Mixing down is the mean of the channels, and mono becomes many channels by copying; nothing else changes
channels.
"""

import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import soundfile
from jaxtyping import Float32

from voder.audio.containers import flac_audio_bytes, require_complete
from voder.audio.resample import Samples, resample
from voder.errors import AudioError, ResourceError
from voder.files import atomic_path

MIN_RATE_HZ = 1_000
MAX_RATE_HZ = 768_000
MAX_CHANNELS = 64
MAX_VALUES = 2**29
"""Samples times channels of one file in memory (2 GiB of float32): 9 hours of 16 kHz mono."""
MAX_AMPLITUDE = 16.0
"""Floats beyond this are integers stored as floats, or a broken file; lossy decoders overshoot 1 by little."""
SYNTHETIC_MARK = "synthetic speech made with voder"

_READABLE = {"WAV", "WAVEX", "RF64", "W64", "FLAC", "OGG", "MPEG", "MP3", "AIFF", "AU", "CAF", "NIST"}
_EXACT_SEEK = {"WAV", "WAVEX", "RF64", "FLAC"}
_SLACK_S = {"MPEG": 0.3, "MP3": 0.3, "OGG": 0.12}
"""By how much a lossy file's own count may exceed what it decodes to: encoder delay may or may not be in the count."""
_FLAC_SLACK_BYTES = 2**14  # no frame needs more than 32 bits a sample, plus a frame's header
_BLOCK_VALUES = 2**16
_SYSTEM_ERROR = 2  # libsndfile's code for what the operating system refused
_OPUS_RATES_HZ = (8_000, 12_000, 16_000, 24_000, 48_000)
_MP3_RATES_HZ = (8_000, 11_025, 12_000, 16_000, 22_050, 24_000, 32_000, 44_100, 48_000)
_WAV_MAX_BYTES = 2**32 - 2**16


@dataclass(frozen=True, eq=False)
class AudioClip:
    """A waveform with its rate."""

    samples: Samples
    """float32 [channels, T], in [-1, 1]"""
    sample_rate_hz: int
    """samples per second"""

    def __post_init__(self) -> None:
        if self.samples.ndim != 2 or self.samples.dtype != np.float32 or self.samples.shape[0] < 1:
            shape = tuple(self.samples.shape)
            raise ValueError(f"samples must be float32 [channels, T], but are {self.samples.dtype} {shape}")
        if self.sample_rate_hz <= 0:
            raise ValueError(f"sample_rate_hz must be positive, but is {self.sample_rate_hz}")

    @property
    def num_samples(self) -> int:
        """Samples per channel."""
        return int(self.samples.shape[1])

    @property
    def channels(self) -> int:
        """Number of channels."""
        return int(self.samples.shape[0])

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz

    def mono(self) -> "AudioClip":
        """Return the mean of the channels, as a clip of one channel."""
        return self.with_channels(1)

    def with_channels(self, channels: int) -> "AudioClip":
        """Return the clip mixed down to one channel (mean), or one channel copied; AudioError for any other change."""
        if channels == self.channels:
            return self
        if channels == 1:
            return AudioClip(self.samples.mean(axis=0, keepdims=True, dtype=np.float32), self.sample_rate_hz)
        if self.channels == 1 and channels > 1:
            return AudioClip(np.repeat(self.samples, channels, axis=0), self.sample_rate_hz)
        raise AudioError(
            f"{self.channels} channels cannot become {channels}: ask for 1 (the mean) or for {self.channels}"
        )

    def at_rate(self, sample_rate_hz: int) -> "AudioClip":
        """Return the clip resampled to `sample_rate_hz`."""
        if sample_rate_hz == self.sample_rate_hz:
            return self
        return AudioClip(resample(self.samples, self.sample_rate_hz, sample_rate_hz), sample_rate_hz)


@dataclass(frozen=True, kw_only=True)
class AudioFacts:
    """What decoding a whole file tells, without keeping its samples."""

    num_samples: int
    """decoded samples per channel"""
    sample_rate_hz: int
    """samples per second"""
    channels: int
    """number of channels"""
    digest: str
    """sha256 of rate, channels and samples at 16 bits: the same for one recording in any lossless format"""
    peak: float
    """largest absolute sample"""

    @property
    def duration_s(self) -> float:
        """Length in seconds."""
        return self.num_samples / self.sample_rate_hz


def read_audio(
    path: str | os.PathLike[str],
    *,
    sample_rate_hz: int | None = None,
    channels: int | None = None,
    start_sample: int = 0,
    num_samples: int | None = None,
) -> AudioClip:
    """Read a recording (wav, flac, mp3, ogg, opus and what else libsndfile names surely).

    `start_sample` and `num_samples` cut, counted at the file's own rate; then channels change, then the rate.
    Raises AudioError for a file that is missing, empty, truncated, not audio, not finite, out of range, of an absurd
    rate, or whose header contradicts what was decoded.
    """
    if start_sample < 0 or (num_samples is not None and num_samples < 0):
        raise ValueError(f"start_sample and num_samples must not be negative, but are {start_sample} and {num_samples}")
    path = Path(path)
    with _open(path) as file:
        rate = int(file.samplerate)
        blocks = list(_checked_blocks(path, file, start_sample, num_samples))
        samples = np.concatenate(blocks).T if blocks else np.zeros((file.channels, 0), np.float32)
    if num_samples is not None and samples.shape[1] < num_samples:
        end = start_sample + samples.shape[1]
        raise AudioError(f"{path} has {end} samples, fewer than the {start_sample + num_samples} asked for")
    clip = AudioClip(np.ascontiguousarray(samples), rate)
    if channels is not None:
        clip = _channels_of(path, clip, channels)
    return clip if sample_rate_hz is None else clip.at_rate(sample_rate_hz)


def scan_audio(path: str | os.PathLike[str], *, start_sample: int = 0, num_samples: int | None = None) -> AudioFacts:
    """Decode a recording, or what there is of a stretch of it, in flat memory; errors as in `read_audio`."""
    path = Path(path)
    with _open(path) as file:
        digest = hashlib.sha256(f"{file.samplerate} {file.channels}\n".encode())
        total, peak = 0, 0.0
        for block in _checked_blocks(path, file, start_sample, num_samples):
            digest.update(_to_16_bits(block).tobytes())
            total, peak = total + len(block), max(peak, float(np.abs(block).max()))
        rate, channels = int(file.samplerate), int(file.channels)
    return AudioFacts(num_samples=total, sample_rate_hz=rate, channels=channels, digest=digest.hexdigest(), peak=peak)


def probe_audio(path: str | os.PathLike[str]) -> tuple[int, int]:
    """Return (sample_rate_hz, channels) from the header, the two figures that decoding cannot contradict."""
    with _open(Path(path)) as file:
        return int(file.samplerate), int(file.channels)


def probe_length(path: str | os.PathLike[str]) -> int:
    """Return the samples per channel that the header states."""
    with _open(Path(path)) as file:
        return int(file.frames)


def read_metadata(path: str | os.PathLike[str]) -> dict[str, str]:
    """Return a file's text metadata (title, comment, software, …), empty values left out."""
    with _open(Path(path)) as file:
        return {key: value for key, value in file.copy_metadata().items() if value}


def is_marked_synthetic(path: str | os.PathLike[str]) -> bool:
    """Say whether a file carries the mark that `write_audio(synthetic=True)` leaves."""
    return SYNTHETIC_MARK in read_metadata(path).get("comment", "")


def write_audio(path: str | os.PathLike[str], clip: AudioClip, *, synthetic: bool = False) -> None:
    """Write a clip, format by suffix: .wav (16 bit), .flac (16 bit), .ogg (Vorbis), .opus, .mp3; whole or not at all.

    Samples beyond ±1 are clipped in 16-bit formats. Opus and mp3 know few rates: the clip is resampled to the nearest
    one above (48 kHz at most). `synthetic` leaves a mark in the comment field. Raises AudioError for samples that are
    not finite, an unknown suffix or a layout the format cannot hold, and ResourceError for a full or protected disk.
    """
    path = Path(path)
    container, subtype = _container(path, clip)
    bad = np.flatnonzero(~np.isfinite(clip.samples).all(axis=0))
    if bad.size:
        seconds = bad[0] / clip.sample_rate_hz
        raise AudioError(f"cannot write {path}: the sample at {seconds:.3f} s is not finite")
    rates = {"OPUS": _OPUS_RATES_HZ, "MPEG_LAYER_III": _MP3_RATES_HZ}.get(subtype)
    if rates is not None:
        clip = clip.at_rate(next((rate for rate in rates if rate >= clip.sample_rate_hz), rates[-1]))
    with atomic_path(path) as temporary:
        _encode(path, temporary, clip, container, subtype, synthetic)


_CONTAINERS = {
    ".wav": ("WAV", "PCM_16"),
    ".flac": ("FLAC", "PCM_16"),
    ".ogg": ("OGG", "VORBIS"),
    ".opus": ("OGG", "OPUS"),
    ".mp3": ("MP3", "MPEG_LAYER_III"),
}


def check_writable_name(path: str | os.PathLike[str]) -> None:
    """Raise AudioError when a file's suffix is no format that can be written: before the work, not after it."""
    if Path(path).suffix.lower() not in _CONTAINERS:
        raise AudioError(f"cannot write {path}: the suffix must be one of {', '.join(_CONTAINERS)}")


def _container(path: Path, clip: AudioClip) -> tuple[str, str]:
    check_writable_name(path)
    container, subtype = _CONTAINERS[path.suffix.lower()]
    if container == "WAV" and clip.samples.size * 2 > _WAV_MAX_BYTES:
        container = "RF64"  # a WAV counts its bytes in 32 bits
    return container, subtype


def _encode(path: Path, temporary: Path, clip: AudioClip, container: str, subtype: str, synthetic: bool) -> None:
    step = max(1, _BLOCK_VALUES // clip.channels)
    try:
        with _create(path, temporary, clip, container, subtype) as file:
            if synthetic:
                file.comment = SYNTHETIC_MARK
            for start in range(0, clip.num_samples, step):
                block = clip.samples[:, start : start + step].T
                file.write(_to_16_bits(block) if subtype == "PCM_16" else block)
        with soundfile.SoundFile(os.fsencode(temporary)) as file:  # some failed writes are seen only here
            missing = clip.num_samples - int(file.frames) - _SLACK_S.get(container, 0.0) * clip.sample_rate_hz
    except (soundfile.LibsndfileError, AssertionError) as error:
        raise ResourceError(f"cannot write {path} ({_reason(error)}): is the disk full?") from error
    if missing > 0:
        raise ResourceError(f"cannot write {path}: {missing:.0f} samples did not arrive; is the disk full?")


def _create(path: Path, temporary: Path, clip: AudioClip, container: str, subtype: str) -> soundfile.SoundFile:
    try:
        return soundfile.SoundFile(
            os.fsencode(temporary), "w", clip.sample_rate_hz, clip.channels, subtype, format=container
        )
    except (soundfile.LibsndfileError, ValueError) as error:
        if isinstance(error, soundfile.LibsndfileError) and error.code == _SYSTEM_ERROR:
            raise
        layout = f"{clip.channels} channels at {clip.sample_rate_hz} Hz"
        raise AudioError(f"cannot write {path}: {path.suffix} does not take {layout} ({_reason(error)})") from error


def _to_16_bits(samples: np.ndarray) -> np.ndarray:
    """Scale as reading does (libsndfile's own scaling differs between its formats), so that a copy is exact."""
    return np.round(samples * 32768.0).clip(-32768, 32767).astype("<i2")


class _Stream(soundfile.SoundFile):  # type: ignore[misc]
    """A file read strictly forwards: after each block soundfile would seek, which a FLAC of unknown length resents."""

    def seekable(self) -> bool:
        return False


@contextmanager
def _open(path: Path) -> Iterator[soundfile.SoundFile]:
    _require_regular_file(path)
    require_complete(path)
    try:
        file = _Stream(os.fsencode(path))
    except (soundfile.LibsndfileError, TypeError, ValueError) as error:
        raise AudioError(
            f"{path} is not audio that can be read ({_reason(error)}); use wav, flac, mp3, ogg or opus"
        ) from error
    with file:
        if file.format not in _READABLE:
            raise AudioError(
                f"{path} looks like {file.format}, which cannot be told from noise; convert it to wav or flac"
            )
        if not MIN_RATE_HZ <= file.samplerate <= MAX_RATE_HZ:
            raise AudioError(
                f"{path} claims {file.samplerate} Hz; a sample rate lies between {MIN_RATE_HZ} and {MAX_RATE_HZ} Hz"
            )
        if not 1 <= file.channels <= MAX_CHANNELS:
            raise AudioError(f"{path} claims {file.channels} channels; at most {MAX_CHANNELS} are read")
        yield file


def _require_regular_file(path: Path) -> None:
    try:
        status = os.stat(path)
    except FileNotFoundError:
        raise AudioError(f"{path} does not exist") from None
    except (OSError, ValueError) as error:
        raise AudioError(f"{path} cannot be read: {_reason(error)}") from error
    if not stat.S_ISREG(status.st_mode):
        raise AudioError(f"{path} is not a file")
    if status.st_size == 0:
        raise AudioError(f"{path} is empty (0 bytes)")
    if not os.access(path, os.R_OK):
        raise AudioError(f"{path} cannot be read: permission denied")


def _checked_blocks(
    path: Path, file: soundfile.SoundFile, start: int, count: int | None
) -> Iterator[Float32[np.ndarray, "sample channel"]]:
    """Yield decoded blocks from sample `start`, at most `count` samples; the end is compared with the header."""
    position = _skip_to(path, file, start)
    end = None if count is None else start + count
    while end is None or position < end:
        block = _next_block(path, file, position)
        if len(block) == 0:
            _compare_with_header(path, file, position)
            return
        first = position
        position += len(block)
        if (position - start) * file.channels > MAX_VALUES:
            seconds = MAX_VALUES // file.channels / file.samplerate
            raise AudioError(f"{path} is longer than {seconds:.0f} s, the most that is read at once; cut it")
        _check_values(path, file, first, block)
        block = block[max(0, start - first) : None if end is None else end - first]
        if len(block):
            yield block


def _skip_to(path: Path, file: soundfile.SoundFile, start: int) -> int:
    """Seek where seeking is exact and return the position reached; elsewhere decoding starts at 0."""
    if start == 0 or file.format not in _EXACT_SEEK:
        return 0
    try:
        return int(file.seek(start))
    except (soundfile.LibsndfileError, OverflowError):
        raise AudioError(f"{path} ends before sample {start}") from None


def _next_block(path: Path, file: soundfile.SoundFile, position: int) -> Float32[np.ndarray, "sample channel"]:
    buffer = np.empty((max(1, _BLOCK_VALUES // file.channels), file.channels), np.float32)
    try:
        return file.read(out=buffer)
    except (soundfile.LibsndfileError, AssertionError) as error:
        seconds = position / file.samplerate
        raise AudioError(f"{path} is truncated or damaged after {seconds:.3f} s ({_reason(error)})") from error


def _check_values(path: Path, file: soundfile.SoundFile, first: int, block: np.ndarray) -> None:
    low, high = float(block.min()), float(block.max())
    if low >= -MAX_AMPLITUDE and high <= MAX_AMPLITUDE:
        return
    bad = int(np.flatnonzero(~(np.abs(block) <= MAX_AMPLITUDE).all(axis=1))[0])
    value = block[bad][~(np.abs(block[bad]) <= MAX_AMPLITUDE)][0]
    seconds = (first + bad) / file.samplerate
    if not np.isfinite(value):
        raise AudioError(f"{path} has a sample that is {value} at {seconds:.3f} s; every sample must be finite")
    raise AudioError(
        f"{path} has a sample of {value:g} at {seconds:.3f} s; samples lie within ±1 (divide by the integer range)"
    )


def _compare_with_header(path: Path, file: soundfile.SoundFile, decoded: int) -> None:
    claimed = int(file.frames)
    if decoded == 0:
        raise AudioError(f"{path} holds no samples" + (f", but its header claims {claimed}" if claimed else ""))
    unknown = file.format == "FLAC" and claimed >= 2**62  # a FLAC from a pipe: total samples 0 means unknown
    slack = _SLACK_S.get(file.format, 0.0) * file.samplerate
    if not unknown and decoded < claimed - slack:
        raise AudioError(f"{path} is truncated: its header claims {claimed} samples, {decoded} were decoded")
    if file.format == "FLAC" and flac_audio_bytes(path) > 5 * decoded * file.channels + _FLAC_SLACK_BYTES:
        raise AudioError(f"{path} goes on after the {decoded} samples that its header claims; encode it again")


def _channels_of(path: Path, clip: AudioClip, channels: int) -> AudioClip:
    try:
        return clip.with_channels(channels)
    except AudioError as error:
        raise AudioError(f"{path}: {error}") from None


def _reason(error: BaseException) -> str:
    if isinstance(error, soundfile.LibsndfileError):
        text = str(error.error_string).rstrip(".")
        return "format not recognised" if "does not exist" in text else text  # what its mp3 reader says of any text
    return getattr(error, "strerror", None) or str(error)
