"""The verb `voder units`: a recording in, its discrete units out."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from voder import hub
from voder.audio.io import AudioClip
from voder.roles import UnitTokenizer, Waveform, as_clip


@dataclass(frozen=True, kw_only=True)
class UnitsResult:
    """The units of a recording."""

    units: np.ndarray
    """Ids `[unit]`, repeats merged where that was asked for."""
    durations: np.ndarray
    """Frames that each lasts."""
    frame_rate_hz: float
    """Frames per second."""
    heard_s: float
    """Seconds of audio that were heard."""
    tokenizer: str
    """Which tokenizer: units of different ones mean different things."""

    @property
    def text(self) -> str:
        """As the papers write them: ids with blanks between."""
        return " ".join(map(str, self.units.tolist()))

    def as_record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "units": self.units.tolist(),
            "durations": self.durations.tolist(),
            "frame_rate_hz": self.frame_rate_hz,
            "heard_s": self.heard_s,
            "tokenizer": self.tokenizer,
        }


def units(
    audio: Waveform | str | Path,
    model: UnitTokenizer | str | Path,
    *,
    sample_rate_hz: int | None = None,
    dedup: bool = True,
    device: str = "cpu",
) -> UnitsResult:
    """Read the units of a recording of any rate and channel count.

    Args:
        audio: a file, or samples.
        model: a tokenizer, or the name or folder of a checkpoint with cluster centres.
        sample_rate_hz: the rate of samples given as an array.
        dedup: merge what repeats.
        device: where a checkpoint that is given by name is loaded.

    Raises:
        CheckpointError: the checkpoint makes no units.
        ConfigError: it is an encoder without cluster centres.
        AudioError: not a recording, or shorter than one frame.
    """
    tokenizer = model if isinstance(model, UnitTokenizer) else hub.load_role(model, "UnitTokenizer", device=device)
    clip: AudioClip = as_clip(audio, sample_rate_hz)
    found = tokenizer.encode(clip, dedup=dedup)
    return UnitsResult(
        units=found.units,
        durations=found.durations,
        frame_rate_hz=tokenizer.sample_rate_hz / tokenizer.hop,
        heard_s=clip.duration_s,
        tokenizer=tokenizer.identity,
    )
