"""EnCodec live: samples in, codes out as soon as a frame is complete, and back.

Streamed equals whole: the codes of all pieces are those of the whole recording, and so are the samples of all
pieces. With reflect padding the first piece waits for `first_frames` frames (7 in the published 24 kHz model,
93 ms); after that a frame leaves when its last sample has come. `seanet.pad_mode=constant` waits for one.
"""

from typing import TYPE_CHECKING

import torch

from voder.errors import AudioError
from voder.nn.seanet import SEANetDecoder, SEANetEncoder
from voder.nn.streaming import Streamed, first_length
from voder.roles import Stream, device_of
from voder.shapes import Audio, Codes

if TYPE_CHECKING:
    from voder.systems.encodec.model import EncodecCodec


class _Stream(Stream):
    """Holds pieces back until they are whole frames, and the first ones until they are enough."""

    def __init__(self, codec: "EncodecCodec", network: SEANetEncoder | SEANetDecoder, positions_per_frame: int) -> None:
        self.codec, self.network = codec, network
        self.first_frames = first_length(network)
        """Frames that the first piece waits for."""
        self._streamed = Streamed(network.layers)
        self._waiting: torch.Tensor | None = None
        self._per_frame, self._batch = positions_per_frame, 1
        self._started = self._closed = False

    def _next(self, piece: torch.Tensor | None, *, last: bool) -> tuple[torch.Tensor | None, bool]:
        """What may run now, and whether it is the whole signal at once."""
        if self._closed:
            raise ValueError("this stream is closed; open another one for another signal")
        self._closed = last
        if piece is not None:
            self._batch = len(piece)
        parts = [part for part in (self._waiting, piece) if part is not None]
        waiting = torch.cat(parts, dim=-1) if parts else None
        if waiting is None:
            return None, False
        ready = waiting.shape[-1] if last else waiting.shape[-1] // self._per_frame * self._per_frame
        if not self._started and not last and ready < self.first_frames * self._per_frame:
            ready = 0
        self._waiting = waiting[..., ready:]
        at_once = last and not self._started
        self._started |= ready > 0
        return (waiting[..., :ready] if ready else None), at_once


class EncodingStream(_Stream):
    """Samples to codes."""

    def __init__(self, codec: "EncodecCodec", num_codebooks: int | None = None) -> None:
        super().__init__(codec, codec.encoder, codec.hop)
        self.num_codebooks = num_codebooks

    @torch.no_grad()
    def push(self, piece: Audio | None = None, *, last: bool = False) -> Codes:
        """Take the next samples `[batch, channel, sample]`, any number; returns the codes that are complete by now.

        Raises:
            AudioError: another number of channels than the model's.
        """
        if piece is not None and piece.shape[1] != self.codec.channels:
            raise AudioError(f"the piece has {piece.shape[1]} channels; this codec takes {self.codec.channels}")
        ready, at_once = self._next(piece, last=last)
        if ready is None:
            count = self.num_codebooks or self.codec.num_codebooks
            return torch.zeros(self._batch, count, 0, dtype=torch.int64, device=device_of(self.codec))
        latent = self.network(ready) if at_once else self._streamed.push(ready, last=last)
        return self.codec.quantizer.encode(latent, self.num_codebooks)


class DecodingStream(_Stream):
    """Codes to samples."""

    def __init__(self, codec: "EncodecCodec") -> None:
        super().__init__(codec, codec.decoder, 1)

    @torch.no_grad()
    def push(self, piece: Codes | None = None, *, last: bool = False) -> Audio:
        """Take the next codes `[batch, codebook, frame]`; returns `frames * hop` samples of those that may be decoded.

        Raises:
            TokensError: a code is out of range.
        """
        if piece is not None:
            self.codec.check_codes(piece)
        ready, at_once = self._next(piece, last=last)
        if ready is None:
            return torch.zeros(self._batch, self.codec.channels, 0, device=device_of(self.codec))
        values = self.codec.quantizer.decode(ready)
        made: Audio = self.network(values) if at_once else self._streamed.push(values, last=last)
        return made
