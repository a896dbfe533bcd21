"""The verbs of EnCodec beside encode and decode: `.ecdc` files in EnCodec's own format, version 0.

Files without a language model are byte for byte those of the original, up to the last bits of the 48 kHz
model's scales. Files with one are as small as the original's, but can be read only where the same
probabilities come out, bit for bit: on the machine that wrote them, with the same libraries. The original has
the same limit.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from voder.audio.io import AudioClip
from voder.audio.sinc import sinc_resample
from voder.coding import arithmetic, bits
from voder.coding.ecdc import EcdcHeader, Reader, read_header, scale_bytes
from voder.errors import AudioError, ConfigError, InputError
from voder.roles import device_of
from voder.systems.encodec.lm import EntropyLM, LMState
from voder.systems.encodec.model import EncodecCodec, Segment


def convert_audio(
    samples: Float[Tensor, "channel sample"], from_hz: int, to_hz: int, channels: int
) -> Float[Tensor, "out_channel resampled"]:
    """Mix or copy channels, then resample, exactly as EnCodec prepares its input.

    Raises:
        AudioError: neither mono nor stereo.
    """
    if samples.shape[0] not in (1, 2):
        raise AudioError(f"the recording has {samples.shape[0]} channels; EnCodec takes 1 or 2")
    if channels == 1:
        samples = samples.mean(dim=0, keepdim=True)
    elif samples.shape[0] == 1:
        samples = samples.expand(channels, -1)
    return sinc_resample(samples, from_hz, to_hz)


@torch.no_grad()
def compress(
    codec: EncodecCodec,
    clip: AudioClip,
    *,
    bandwidth_kbps: float | None = None,
    use_lm: bool = False,
    identity: str | None = None,
    model_name: str | None = None,
) -> bytes:
    """Compress a recording of any rate, mono or stereo, into the bytes of an `.ecdc` file.

    Args:
        codec: the model, in evaluation mode.
        clip: the recording.
        bandwidth_kbps: bit rate before entropy coding; all codebooks if not given.
        use_lm: code with the model's language model.
        identity: which weights these are, to be stored in the header (`checkpoint.identity`).
        model_name: what the header calls the model, if not `codec.config.file_name`.

    Raises:
        ConfigError: a language model is asked for and there is none, or the bit rate does not exist.
        AudioError: neither mono nor stereo.
    """
    try:
        count = None if bandwidth_kbps is None else codec.config.codebooks_at(bandwidth_kbps)
    except ValueError as error:
        raise ConfigError(str(error)) from error
    samples = torch.from_numpy(np.ascontiguousarray(clip.samples)).to(device_of(codec))
    wav = convert_audio(samples, clip.sample_rate_hz, codec.sample_rate_hz, codec.channels)
    segments = codec.encode_segments(wav[None], count)
    header = EcdcHeader(
        model=model_name or codec.config.file_name,
        num_samples=wav.shape[-1],
        num_codebooks=segments[0].codes.shape[1],
        lm=use_lm,
        identity=identity,
    )
    return write_segments(codec, header, segments)


@torch.no_grad()
def decompress(
    codec: EncodecCodec, data: bytes, *, identity: str | None = None, model_name: str | None = None
) -> AudioClip:
    """Restore the recording in the bytes of an `.ecdc` file; identity and name are compared with its
    header's.

    Raises:
        InputError: damaged, of another model, or coded with a language model that is not at hand.
    """
    content = read_segments(codec, data, identity=identity, model_name=model_name)
    wav = codec.decode_segments(content.segments)[0, :, : content.header.num_samples]
    return AudioClip(wav.float().cpu().numpy(), codec.sample_rate_hz)


@dataclass(frozen=True)
class EcdcContent:
    """What an `.ecdc` file holds."""

    header: EcdcHeader
    segments: list[Segment]


def write_segments(codec: EncodecCodec, header: EcdcHeader, segments: list[Segment]) -> bytes:
    """Serialise encoded segments.

    Raises:
        ConfigError: the header asks for a language model that the codec does not have.
    """
    lm = codec.lm
    if header.lm and lm is None:
        raise ConfigError("this checkpoint has no language model; compress without it")
    parts = [header.to_bytes()]
    for segment in segments:
        if segment.scale is not None:
            parts.append(scale_bytes(float(segment.scale)))
        codes = segment.codes[0].cpu().numpy()
        if header.lm and lm is not None:
            parts.append(_code_with_lm(lm, codes))
        else:
            parts.append(bits.pack(codes, _bits_per_code(codec)))
    return b"".join(parts)


def read_segments(
    codec: EncodecCodec, data: bytes, *, identity: str | None = None, model_name: str | None = None
) -> EcdcContent:
    """Read the header and every segment's codes.

    Raises:
        InputError: damaged, of another model, or coded with a language model that is not at hand.
    """
    reader = Reader(data)
    header = read_header(reader)
    _check_header(codec, header, identity, model_name or codec.config.file_name)
    device, segments = device_of(codec), []
    for num_samples in _segment_lengths(codec, header.num_samples):
        scale = torch.tensor([[reader.scale()]], device=device) if codec.config.normalize else None
        num_frames = -(-num_samples // codec.hop)
        read = _read_with_lm if header.lm else _read_packed
        codes = torch.from_numpy(read(codec, reader, header.num_codebooks, num_frames)).to(device)
        segments.append(Segment(codes=codes[None], scale=scale))
    if reader.remaining:
        raise InputError(f"the file goes on for {reader.remaining} bytes after its last segment")
    return EcdcContent(header, segments)


def _check_header(codec: EncodecCodec, header: EcdcHeader, identity: str | None, model_name: str) -> None:
    if header.model != model_name:
        raise InputError(f"the file was made by {header.model!r}; this model is {model_name!r}")
    if header.identity is not None and identity is not None and header.identity != identity:
        raise InputError(f"the file was made with weights {header.identity}; these are {identity}")
    if header.num_codebooks > codec.num_codebooks:
        raise InputError(f"the file has {header.num_codebooks} codebooks; this model has {codec.num_codebooks}")
    if header.lm and codec.lm is None:
        raise InputError("the file is coded with a language model, and this checkpoint has none")


def _segment_lengths(codec: EncodecCodec, num_samples: int) -> Iterator[int]:
    """As the codec cuts, but one by one: the header may claim more segments than fit into memory."""
    length, stride = codec.config.segment_samples, codec.config.segment_stride
    if length is None or stride is None:
        yield num_samples
        return
    for start in range(0, num_samples, stride):
        yield min(length, num_samples - start)


def _bits_per_code(codec: EncodecCodec) -> int:
    return (codec.codebook_size - 1).bit_length()


def _read_packed(codec: EncodecCodec, reader: Reader, num_codebooks: int, num_frames: int) -> np.ndarray:
    width = _bits_per_code(codec)
    data = reader.take(bits.num_bytes(num_codebooks * num_frames, width), "codes")
    codes = bits.unpack(data, num_codebooks, num_frames, width)
    if codes.size and codes.max() >= codec.codebook_size:
        raise InputError(f"the file holds code {codes.max()}; this model has 0 to {codec.codebook_size - 1}")
    return codes


def _read_with_lm(codec: EncodecCodec, reader: Reader, num_codebooks: int, num_frames: int) -> np.ndarray:
    assert codec.lm is not None
    least_bits = num_codebooks * num_frames * arithmetic.fewest_bits(codec.codebook_size)
    if least_bits > 8 * reader.remaining:
        raise InputError(f"the header claims {num_frames} frames; the {reader.remaining} bytes left cannot hold them")
    tables = _Tables(codec.lm, num_codebooks)
    decoder = arithmetic.Decoder(reader.rest())
    frames = []
    for _ in range(num_frames):
        frames.append([decoder.pull(row) for row in tables.next()])
        tables.see(frames[-1])
    reader.take(decoder.num_bytes_read, "codes")
    return np.array(frames, dtype=np.int64).T.copy()


def _code_with_lm(lm: EntropyLM, codes: np.ndarray) -> bytes:
    tables, encoder = _Tables(lm, codes.shape[0]), arithmetic.Encoder()
    for frame in codes.T.tolist():
        for code, row in zip(frame, tables.next(), strict=True):
            encoder.push(code, row)
        tables.see(frame)
    return encoder.finish()


class _Tables:
    """Cumulative tables of the next frame's codes, step by step: writing and reading must take the same
    path."""

    def __init__(self, lm: EntropyLM, num_codebooks: int) -> None:
        if num_codebooks > lm.config.num_codebooks:
            raise InputError(f"the language model knows {lm.config.num_codebooks} codebooks, not {num_codebooks}")
        self.lm = lm
        self.indices = torch.zeros(1, num_codebooks, 1, dtype=torch.int64, device=device_of(lm))
        self.state: LMState | None = None

    @torch.no_grad()
    def next(self) -> np.ndarray:
        """`[codebook, code]` ranges of the frame after those seen."""
        out = self.lm(self.indices, self.state)
        self.state = out.state
        return arithmetic.quantised_cdf(out.probabilities[0, :, 0]).cpu().numpy()

    def see(self, codes: list[int]) -> None:
        """Go on after a frame."""
        self.indices = torch.tensor(codes, device=self.indices.device).view(1, -1, 1) + 1
