"""What the frozen encoders make of recordings, ready for the bridge."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Float32
from torch import Tensor, nn
from torch.nn.utils.rnn import pad_sequence

from voder.systems.salmonn.config import SAMPLE_RATE_HZ, WINDOW_S
from voder.systems.salmonn.model import Bridge

Frames = Float[Tensor, "_ _"]


@dataclass(frozen=True)
class Heard:
    """Vectors of one recording: 50 a second."""

    speech: Frames
    audio: Frames | None

    @property
    def num_bytes(self) -> int:
        """What it takes in memory."""
        return self.speech.nbytes + (0 if self.audio is None else self.audio.nbytes)

    def to(self, dtype: torch.dtype) -> "Heard":
        """The same in another precision."""
        return Heard(self.speech.to(dtype), None if self.audio is None else self.audio.to(dtype))


class Ears(nn.Module):
    """Speech and audio encoder."""

    def __init__(self, speech: Any, audio: Any | None, hears: Literal["window", "clip"]) -> None:
        super().__init__()
        self.speech, self.audio, self.hears = speech, audio, hears

    @torch.no_grad()
    def listen(self, clips: Sequence[Float32[np.ndarray, " _"]], device: torch.device) -> list[Heard]:
        """Encode prepared 16 kHz recordings of 1 to 30 s together, in float32."""
        with torch.autocast(device.type, enabled=False):
            speech = self._encode(self.speech, clips, device, whole=self.hears == "window")
            if self.audio is None:
                return [Heard(each, None) for each in speech]
            audio = self._encode(self.audio, clips, device, whole=False)
        return [Heard(*pair) for pair in zip(speech, audio, strict=True)]

    def _encode(
        self, encoder: Any, clips: Sequence[Float32[np.ndarray, " _"]], device: torch.device, *, whole: bool
    ) -> list[Tensor]:
        rows = [torch.from_numpy(np.ascontiguousarray(clip)) for clip in clips]
        lengths = [len(row) for row in rows]
        if whole:  # the published model always hears 30 s: behind the clip, silence
            rows[0] = nn.functional.pad(rows[0], (0, WINDOW_S * SAMPLE_RATE_HZ - len(rows[0])))
            lengths = [WINDOW_S * SAMPLE_RATE_HZ] * len(rows)
        audio = pad_sequence(rows, batch_first=True)[:, None].to(device)
        encoded = encoder.encode_batch(audio, torch.tensor(lengths, device=device))
        return [values[valid].float() for values, valid in zip(encoded.values, encoded.valid, strict=True)]


def through_bridge(bridge: Bridge, heard: Sequence[Heard]) -> list[Float[Tensor, "_ _"]]:
    """Vectors for the language model, of each recording as if it were alone."""
    lengths = [max(len(h.speech), 0 if h.audio is None else len(h.audio)) for h in heard]
    speech = pad_sequence([h.speech for h in heard], batch_first=True)
    tracks = [h.audio for h in heard if h.audio is not None]
    audio = pad_sequence(tracks, batch_first=True) if tracks else None
    # frames beyond a recording are zeros after its norm, as where one stream is shorter than the other
    vectors = bridge(speech, audio, [len(h.speech) for h in heard], [len(track) for track in tracks])
    return [row[: bridge.num_vectors(length)] for row, length in zip(vectors, lengths, strict=True)]
