"""EnCodec (Défossez et al., 2210.13438): SEANet encoder, residual vector quantizer, SEANet decoder.

Long audio of the 48 kHz model is cut into overlapping segments, each normalised to unit loudness, and joined
again by triangular weights. Items of a batch are encoded as if alone: equal lengths run together, since
reflection, group norm and the last frame of every strided layer depend on where a signal ends.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch
from jaxtyping import Float
from torch import Tensor

from voder.errors import TokensError
from voder.nn.groups import equal_groups
from voder.nn.quantize import Quantized, ResidualVectorQuantizer, build_fsq
from voder.nn.seanet import SEANetDecoder, SEANetEncoder
from voder.nn.streaming import streams
from voder.roles import Codec, Encoded, Stream
from voder.shapes import Audio, Codes, Latents, Lengths
from voder.systems.encodec.config import EncodecConfig
from voder.systems.encodec.lm import EntropyLM
from voder.systems.encodec.stream import DecodingStream, EncodingStream

_SAMPLES_AT_ONCE = 1 << 20  # bounds the activations of one pass to about 0.5 GB at 32 channels
Part = Float[Tensor, "batch channel _"]
"""Audio of a length of its own."""
_Item = TypeVar("_Item")


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Codes of one stretch of audio."""

    codes: Codes
    scale: Float[Tensor, "batch 1"] | None
    """Loudness that was taken out; None where the model does not normalise."""


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A training pass."""

    audio: Audio
    quantized: Quantized


class EncodecCodec(Codec):
    """Audio to codes and back."""

    def __init__(self, config: EncodecConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz, self.channels = config.sample_rate_hz, config.seanet.channels
        self.hop = config.seanet.hop
        self.num_codebooks, self.codebook_size = config.num_codebooks, config.codebook_size
        self.encoder = SEANetEncoder(config.seanet)
        self.quantizer = ResidualVectorQuantizer(config.rvq) if config.quantizer == "rvq" else build_fsq(config.fsq)
        self.decoder = SEANetDecoder(config.seanet)
        self.lm = None if config.lm is None else EntropyLM(config.lm)

    def forward(self, audio: Audio, num_codebooks: int | None = None) -> Reconstruction:
        """Reconstruct crops of one length, for training."""
        inner, scale = self._normalised(audio)
        quantized = self.quantizer(self.encoder(inner), num_codebooks=num_codebooks)
        decoded = self.decoder(quantized.values)[..., : audio.shape[-1]].float()
        return Reconstruction(audio=decoded if scale is None else decoded * scale[:, :, None], quantized=quantized)

    def latents(self, audio: Audio) -> Latents:
        """What the quantizer sees of crops of one length."""
        latent: Tensor = self.encoder(self._normalised(audio)[0])
        return latent

    # One length: what the original's encode and decode do.

    def segment_lengths(self, num_samples: int) -> list[int]:
        """Samples of each segment of a recording; the last ones may be short, even of a single sample."""
        length, stride = self.config.segment_samples, self.config.segment_stride
        if length is None or stride is None:
            return [num_samples] if num_samples else []
        return [min(length, num_samples - start) for start in range(0, num_samples, stride)]

    @torch.no_grad()
    def encode_segments(self, audio: Audio, num_codebooks: int | None = None) -> list[Segment]:
        """Encode a batch of recordings of one length, segment by segment."""
        stride = self.config.segment_stride or 0
        lengths = self.segment_lengths(audio.shape[-1])
        return [
            self._encode_one(audio[..., i * stride : i * stride + length], num_codebooks)
            for i, length in enumerate(lengths)
        ]

    @torch.no_grad()
    def decode_segments(self, segments: Sequence[Segment]) -> Audio:
        """Decode and join segments; the result is as long as their frames, which may be more than was
        encoded."""
        return self._join([self._decode_one(segment) for segment in segments])

    def _encode_one(self, audio: Audio, num_codebooks: int | None) -> Segment:
        inner, scale = self._normalised(audio)
        return Segment(codes=self.quantizer.encode(self.encoder(inner), num_codebooks), scale=scale)

    def _decode_one(self, segment: Segment) -> Audio:
        audio: Tensor = self.decoder(self.quantizer.decode(segment.codes))
        if segment.scale is not None:
            return audio * segment.scale[:, :, None]
        return audio * self.config.unscaled_rms if self.config.normalize else audio

    def _normalised(self, audio: Audio) -> tuple[Audio, Float[Tensor, "batch 1"] | None]:
        if not self.config.normalize:
            return audio, None
        rms = audio.float().mean(dim=1).square().mean(dim=1, keepdim=True).sqrt()
        scale = 1e-8 + rms
        return audio / scale[:, :, None], scale

    def _join(self, parts: Sequence[Part]) -> Audio:
        stride = self.config.segment_stride
        if stride is None:
            assert len(parts) == 1, "without segments there is one part"
            return parts[0]
        return overlap_add(parts, stride)

    # Batches of many lengths: the role.

    @torch.no_grad()
    def encode_batch(
        self, audio: Audio, lengths: Lengths | None = None, *, num_codebooks: int | None = None
    ) -> Encoded:
        """Encode recordings of many lengths; every item gets the codes it gets alone.

        Codes of an item's segments follow one another; `scale` is `[batch, segment]` where the model
        normalises.
        """
        sizes = [audio.shape[-1]] * len(audio) if lengths is None else lengths.tolist()
        stride = self.config.segment_stride or 0
        pieces = [
            [audio[i, :, s * stride : s * stride + n] for s, n in enumerate(self.segment_lengths(size))]
            for i, size in enumerate(sizes)
        ]
        flat = [piece for item in pieces for piece in item]
        coded: list[Segment] = [None] * len(flat)  # type: ignore[list-item]
        for group in equal_groups([piece.shape[-1] for piece in flat], _SAMPLES_AT_ONCE):
            together = self._encode_one(torch.stack([flat[j] for j in group]), num_codebooks)
            for row, j in enumerate(group):
                coded[j] = _row(together, row)
        return self._collate([list(part) for part in _split(coded, map(len, pieces))], sizes, audio.device)

    def _collate(self, items: list[list[Segment]], sizes: list[int], device: torch.device) -> Encoded:
        frames = [sum(segment.codes.shape[-1] for segment in item) for item in items]
        books = next((s.codes.shape[1] for item in items for s in item), self.num_codebooks)
        codes = torch.zeros(len(items), books, max(frames, default=0), dtype=torch.int64, device=device)
        scale = torch.ones(len(items), max(map(len, items), default=0), device=device)
        for i, item in enumerate(items):
            if item:
                codes[i, :, : frames[i]] = torch.cat([segment.codes[0] for segment in item], dim=-1)
            for s, segment in enumerate(item):
                if segment.scale is not None:
                    scale[i, s] = segment.scale[0, 0]
        return Encoded(
            codes=codes,
            lengths=torch.tensor(frames, device=device),
            num_samples=torch.tensor(sizes, device=device),
            scale=scale if self.config.normalize else None,
        )

    @torch.no_grad()
    def decode_batch(self, encoded: Encoded) -> Audio:
        """Decode a batch; without scales a normalising model decodes to `config.unscaled_rms`.

        Raises:
            TokensError: a code is out of range.
        """
        self.check_codes(encoded.codes)
        sizes = encoded.num_samples.tolist()
        plans = [self._frame_plan(f, n) for f, n in zip(encoded.lengths.tolist(), sizes, strict=True)]
        flat: list[Segment] = []
        for i, plan in enumerate(plans):
            for s, part in enumerate(torch.split(encoded.codes[i, :, : sum(plan)], plan, dim=-1)):
                scale = None if encoded.scale is None else encoded.scale[i, s].view(1, 1)
                flat.append(Segment(codes=part[None], scale=scale))
        decoded: list[Audio] = [None] * len(flat)  # type: ignore[list-item]
        for group in equal_groups([s.codes.shape[-1] * self.hop for s in flat], _SAMPLES_AT_ONCE):
            together = self._decode_one(_stack([flat[j] for j in group]))
            for row, j in enumerate(group):
                decoded[j] = together[row : row + 1]
        joined = [self._join(parts) if parts else None for parts in _split(decoded, map(len, plans))]
        return self._trim(joined, sizes, encoded.codes.device)

    def _trim(self, joined: Sequence[Tensor | None], sizes: list[int], device: torch.device) -> Audio:
        have = [0 if part is None else min(part.shape[-1], n) for part, n in zip(joined, sizes, strict=True)]
        audio = torch.zeros(len(joined), self.channels, max(have, default=0), device=device)
        for row, part, n in zip(audio, joined, have, strict=True):
            if part is not None:
                row[:, :n] = part[0, :, :n]
        return audio

    def _frame_plan(self, num_frames: int, num_samples: int) -> list[int]:
        """Frames of each segment: as `num_samples` says, or full segments where it says something else."""
        plan = [-(-length // self.hop) for length in self.segment_lengths(num_samples)]
        if sum(plan) == num_frames:
            return plan
        full = num_frames if self.config.segment_samples is None else -(-self.config.segment_samples // self.hop)
        return [min(full, num_frames - start) for start in range(0, num_frames, max(full, 1))]

    @property
    def is_causal(self) -> bool:
        """True of the 24 kHz model, not of the 48 kHz one, which works by segments."""
        return self.config.segment_samples is None and streams(self.encoder) and streams(self.decoder)

    def encoding_stream(self, num_codebooks: int | None = None) -> Stream:
        """Encode live: push samples, get codes; all of them are those of the whole recording."""
        return EncodingStream(self, num_codebooks) if self.is_causal else super().encoding_stream(num_codebooks)

    def decoding_stream(self) -> Stream:
        """Decode live: push codes, get samples."""
        return DecodingStream(self) if self.is_causal else super().decoding_stream()

    def check_codes(self, codes: Codes) -> None:
        """Refuse codes that this codec does not have.

        Raises:
            TokensError: a code or the number of codebooks is out of range.
        """
        if not 1 <= codes.shape[1] <= self.num_codebooks:
            raise TokensError(f"the codes have {codes.shape[1]} codebooks; this codec has 1 to {self.num_codebooks}")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise TokensError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; this codec has 0 to {self.codebook_size - 1}"
            )


def overlap_add(parts: Sequence[Part], stride: int) -> Audio:
    """Join parts that start `stride` samples apart, weighted by the first part's triangle and normalised."""
    longest = parts[0].shape[-1]
    t = torch.linspace(0, 1, longest + 2, dtype=parts[0].dtype, device=parts[0].device)[1:-1]
    triangle = 0.5 - (t - 0.5).abs()
    # frames round up from each start, so a part before the last may be the one that ends latest
    end = max(i * stride + part.shape[-1] for i, part in enumerate(parts))
    total = parts[0].new_zeros(*parts[0].shape[:-1], end)
    weight = total.new_zeros(total.shape[-1])
    for i, part in enumerate(parts):
        span = slice(i * stride, i * stride + part.shape[-1])
        weighted = triangle[: part.shape[-1]]
        total[..., span] += weighted * part
        weight[span] += weighted
    return total / weight


def _split(values: Sequence[_Item], counts: Iterable[int]) -> Iterator[Sequence[_Item]]:
    start = 0
    for count in counts:
        yield values[start : start + count]
        start += count


def _row(segment: Segment, row: int) -> Segment:
    scale = None if segment.scale is None else segment.scale[row : row + 1]
    return Segment(codes=segment.codes[row : row + 1], scale=scale)


def _stack(segments: Sequence[Segment]) -> Segment:
    scales = [segment.scale for segment in segments if segment.scale is not None]
    codes = torch.cat([segment.codes for segment in segments])
    return Segment(codes=codes, scale=torch.cat(scales) if scales else None)
