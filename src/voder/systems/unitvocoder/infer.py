"""The verb `voder resynthesize`: a recording to units and back to audio."""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.errors import CheckpointError, FittedPartMismatch
from voder.roles import Codec, Generator, Units, UnitTokenizer, Waveform, as_clip


@dataclass(frozen=True, kw_only=True)
class Resynthesis:
    """What came back of a recording."""

    clip: AudioClip
    """The audio that the units make."""
    units: Units
    """The units that were read off the recording."""
    heard_s: float
    """Seconds of audio that were heard."""


Reader = UnitTokenizer | Codec
"""What units are read with; of a codec, the first codebook."""


def load_pair(
    model: str | Path, tokenizer: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> tuple[Generator, Reader]:
    """Load a vocoder and the tokenizer whose units it reads: the one kept with it, unless another is named.

    Raises:
        CheckpointError: not a vocoder, or no tokenizer is known.
        FittedPartMismatch: the tokenizer is not the one that the vocoder was trained on.
    """
    vocoder: Generator = hub.load_role(model, "Generator", device=device)
    found = checkpoint.read(hub.locate(model))
    kept = found.parts.get("tokenizer") or found.parts.get("codec")
    place = kept if tokenizer is None else hub.locate(tokenizer)
    if place is None:
        raise CheckpointError(f"{model} keeps no tokenizer; name the checkpoint of the one it was trained with")
    reader = hub.load(place, device=device)
    if not isinstance(reader, UnitTokenizer | Codec):
        raise CheckpointError(f"{place} makes no units; a hubert with cluster centres or a codec is wanted here")
    fitted, given = found.config.get("tokenizer"), checkpoint.identity(place)
    if fitted is not None and fitted != given:
        raise FittedPartMismatch(f"{model} reads units of tokenizer {fitted}; {place} is {given}")
    count = reader.num_units if isinstance(reader, UnitTokenizer) else reader.codebook_size
    if count > vocoder.num_units:
        raise FittedPartMismatch(f"{place} makes {count} units; {model} knows {vocoder.num_units}")
    return vocoder, reader


def read_units(reader: Reader, clip: AudioClip) -> Units:
    """One unit per frame."""
    if isinstance(reader, UnitTokenizer):
        return reader.encode(clip)
    codes = reader.encode(clip)[0]
    return Units(units=codes, durations=np.ones_like(codes))


def resynthesize(
    audio: Waveform | str | Path,
    model: str | Path | tuple[Generator, Reader],
    *,
    tokenizer: str | Path | None = None,
    sample_rate_hz: int | None = None,
    predict_durations: bool = False,
    device: str = "cpu",
) -> Resynthesis:
    """Turn a recording into units and these into audio: what is kept is what the units say.

    Args:
        audio: a file, or samples.
        model: name or folder of a vocoder, or one and its tokenizer, loaded.
        tokenizer: another checkpoint than the one that the vocoder keeps.
        sample_rate_hz: the rate of samples given as an array.
        predict_durations: merge repeated units and let the vocoder decide how long each lasts.
        device: where checkpoints are loaded.

    Raises:
        CheckpointError: no vocoder, no tokenizer, or two that do not belong together.
        AudioError: not a recording, or shorter than one frame.
        ConfigError: durations are asked of a vocoder that predicts none.
    """
    vocoder, reader = model if isinstance(model, tuple) else load_pair(model, tokenizer, device=device)
    clip = as_clip(audio, sample_rate_hz)
    units = read_units(reader, clip)
    units = units.deduplicated() if predict_durations else units
    made = vocoder.generate(units, predict_durations=predict_durations)
    return Resynthesis(clip=made, units=units, heard_s=clip.duration_s)
