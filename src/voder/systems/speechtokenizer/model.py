"""SpeechTokenizer (Zhang et al., 2308.16692, §3): EnCodec's chain with a BiLSTM, and one codebook that is taught words.

A linear layer reads the first codebook's vectors as the teacher's; it exists for training alone. Items of a batch are
encoded as if alone: equal lengths run together, since reflection and the LSTM both feel where a signal ends.
"""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from voder.errors import TokensError
from voder.nn.groups import equal_groups
from voder.nn.quantize.records import Quantized
from voder.nn.quantize.rvq import Codebook, ResidualVectorQuantizer, nearest
from voder.nn.seanet import SEANetDecoder, SEANetEncoder
from voder.roles import Codec, Encoded
from voder.shapes import Audio, Codes, Latents, Lengths
from voder.systems.speechtokenizer.config import SpeechTokenizerConfig

_SAMPLES_AT_ONCE = 1 << 20  # bounds the activations of one pass
Semantic = Float[Tensor, "batch frame width"]


@dataclass(frozen=True, kw_only=True)
class Reconstruction:
    """A training pass."""

    audio: Audio
    quantized: Quantized
    semantic: Semantic
    """The first codebook's vectors as the teacher's."""


class SpeechTokenizerCodec(Codec):
    """Audio to codes and back; the first codebook alone says what is said."""

    channels = 1

    def __init__(self, config: SpeechTokenizerConfig) -> None:
        super().__init__()
        self.config = config
        self.sample_rate_hz, self.hop = config.sample_rate_hz, config.seanet.hop
        self.num_codebooks, self.codebook_size = config.rvq.num_codebooks, config.rvq.codebook_size
        self.encoder = SEANetEncoder(config.seanet)
        self.transform = nn.Linear(config.rvq.dim, config.semantic_width)
        self.quantizer = ResidualVectorQuantizer(config.rvq)
        self.decoder = SEANetDecoder(config.seanet)

    def forward(self, audio: Audio) -> Reconstruction:
        """Reconstruct crops of one length, for training."""
        latent = self.encoder(audio)
        unquantised = self.training and self.quantizer.is_warming_up
        quantized = self.quantizer(latent)
        first = latent if unquantised else latent + (self._vectors(quantized.codes, 0) - latent).detach()
        decoded = self.decoder(quantized.values)[..., : audio.shape[-1]].float()
        return Reconstruction(audio=decoded, quantized=quantized, semantic=self.semantic(first))

    def semantic(self, first: Latents) -> Semantic:
        """Read the first codebook's vectors as the teacher's."""
        read: Tensor = self.transform(first.transpose(1, 2))
        return read

    def semantic_of(self, codes: Codes) -> Semantic:
        """What the teacher would say of a batch of codes, as far as their first codebook knows."""
        return self.semantic(self._vectors(codes, 0))

    def _book(self, number: int) -> Codebook:
        book = self.quantizer.codebooks[number]
        assert isinstance(book, Codebook)
        return book

    def _vectors(self, codes: Codes, number: int) -> Latents:
        return F.embedding(codes[:, number], self._book(number).vectors).transpose(1, 2)

    # One length: what the original's encode and decode do.

    @torch.no_grad()
    def encode_levels(self, audio: Audio, *, start: int = 0, end: int | None = None) -> Codes:
        """Codes of codebooks `start` to `end` (exclusive), the first of which reads the latent itself."""
        latent = self.encoder(audio)
        residual = latent.transpose(1, 2).reshape(-1, latent.shape[1])
        codes = []
        for number in range(start, self.num_codebooks if end is None else end):
            vectors = self._book(number).vectors
            ids = nearest(residual, vectors)
            residual = residual - F.embedding(ids, vectors)
            codes.append(ids.view(len(latent), -1))
        return torch.stack(codes, dim=1)

    @torch.no_grad()
    def decode_levels(self, codes: Codes, *, start: int = 0) -> Audio:
        """Audio of codes that belong to the codebooks from `start` on: frames times hop samples."""
        self._check_codes(codes, self.num_codebooks - start)
        books = [F.embedding(codes[:, i], self._book(start + i).vectors) for i in range(codes.shape[1])]
        audio: Tensor = self.decoder(torch.stack(books).sum(dim=0).transpose(1, 2))
        return audio

    # Batches of many lengths: the role.

    @torch.no_grad()
    def encode_batch(
        self, audio: Audio, lengths: Lengths | None = None, *, num_codebooks: int | None = None
    ) -> Encoded:
        """Encode recordings of many lengths; every item gets the codes it gets alone.

        Raises:
            TokensError: more codebooks are wanted than there are.
        """
        used = self.num_codebooks if num_codebooks is None else num_codebooks
        if not 1 <= used <= self.num_codebooks:
            raise TokensError(f"num_codebooks is {used}; this codec has 1 to {self.num_codebooks}")
        sizes = [audio.shape[-1]] * len(audio) if lengths is None else lengths.tolist()
        frames = [-(-size // self.hop) for size in sizes]
        codes = audio.new_zeros(len(audio), used, max(frames, default=0), dtype=torch.int64)
        for group in equal_groups(sizes, _SAMPLES_AT_ONCE):
            if size := sizes[group[0]]:
                codes[group, :, : frames[group[0]]] = self.encode_levels(audio[group, :, :size], end=used)
        counts = torch.tensor([frames, sizes], device=audio.device)
        return Encoded(codes=codes, lengths=counts[0], num_samples=counts[1])

    @torch.no_grad()
    def decode_batch(self, encoded: Encoded) -> Audio:
        """Decode any number of leading codebooks.

        Raises:
            TokensError: a code or the number of codebooks is out of range.
        """
        frames, sizes = encoded.lengths.tolist(), encoded.num_samples.tolist()
        have = [min(size, count * self.hop) for size, count in zip(sizes, frames, strict=True)]
        parameter = next(self.decoder.parameters())
        audio = parameter.new_zeros(len(frames), 1, max(have, default=0))
        for group in equal_groups(frames, _SAMPLES_AT_ONCE // self.hop):
            if count := frames[group[0]]:
                sound = self.decode_levels(encoded.codes[group, :, :count])
                for row, item in enumerate(group):
                    audio[item, :, : have[item]] = sound[row, :, : have[item]]
        return audio

    def _check_codes(self, codes: Codes, most: int) -> None:
        if not 1 <= codes.shape[1] <= most:
            raise TokensError(f"the codes have {codes.shape[1]} codebooks; 1 to {most} are allowed here")
        if codes.numel() and not 0 <= int(codes.min()) <= int(codes.max()) < self.codebook_size:
            raise TokensError(
                f"codes run from {int(codes.min())} to {int(codes.max())}; this codec has 0 to {self.codebook_size - 1}"
            )
