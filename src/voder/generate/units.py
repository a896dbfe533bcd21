"""Units and what reads and speaks them: `voder resynthesize`, and the parts of models that talk in units.

Units are those of a unit tokenizer, or the first codebook of a codec. A Generator (a unit vocoder, soundstorm) was
trained on those of one tokenizer, which it keeps among its parts.
"""

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from voder import checkpoint, hub
from voder.audio.io import AudioClip
from voder.errors import CheckpointError, FittedPartMismatch
from voder.roles import Codec, Generator, Units, UnitTokenizer, Waveform, as_clip

Reader = UnitTokenizer | Codec
"""What units are read with; of a codec, the first codebook."""


@dataclass(frozen=True, kw_only=True)
class Resynthesis:
    """What came back of a recording."""

    clip: AudioClip
    """The audio that the units make."""
    units: Units
    """The units that were read off the recording."""
    heard_s: float
    """Seconds of audio that were heard."""


def load_reader(name: str | Path, *, device: str | torch.device = "cpu") -> Reader:
    """Load what units are read with.

    Raises:
        CheckpointError: it makes no units.
    """
    reader: Reader = hub.load_any(name, ("UnitTokenizer", "Codec"), device=device)
    return reader


def num_units(reader: Reader) -> int:
    """How many different units there are."""
    return reader.num_units if isinstance(reader, UnitTokenizer) else reader.codebook_size


def read_units(reader: Reader, audio: Waveform, *, dedup: bool = False) -> Units:
    """Units of a recording, one per frame or (`dedup`) repeats merged."""
    if isinstance(reader, UnitTokenizer):
        return reader.encode(audio, dedup=dedup)
    codes = reader.encode(audio)[0]
    units = Units(units=codes, durations=np.ones_like(codes))
    return units.deduplicated() if dedup else units


def fitted_on(generator: checkpoint.Checkpoint) -> str | None:
    """The identity of the tokenizer whose units a Generator reads; None where its checkpoint does not say."""
    config = generator.config
    return config.get("codec_identity") or config.get("tokenizer")


def fitted_generator(name: str | Path, identity: str, setting: str) -> Path:
    """The checkpoint of a Generator, which must read units of the tokenizer `identity` if it says of which.

    Raises:
        CheckpointError: nothing is there, or it is no Generator.
        FittedPartMismatch: it reads those of another tokenizer.
    """
    found = hub.read_any(name, ("Generator",))
    fitted = fitted_on(found)
    if fitted not in (None, identity):
        raise FittedPartMismatch(f"{setting}={name} reads units of tokenizer {fitted}; those here are of {identity}")
    return found.folder


def load_pair(
    model: str | Path, tokenizer: str | Path | None = None, *, device: str | torch.device = "cpu"
) -> tuple[Generator, Reader]:
    """Load a Generator and the tokenizer whose units it reads: the one kept with it, unless another is named.

    Raises:
        CheckpointError: not a Generator, or no tokenizer is known.
        FittedPartMismatch: the tokenizer is not the one that the Generator was trained on.
    """
    found = hub.read_any(model, ("Generator",))
    kept = found.parts.get("tokenizer", found.parts.get("codec"))
    place = hub.locate(tokenizer) if tokenizer is not None else kept
    if place is None:
        raise CheckpointError(f"{model} keeps no tokenizer; name the checkpoint of the one it was trained with")
    generator: Generator = hub.load(model, device=device)
    reader = load_reader(place, device=device)
    fitted, given = fitted_on(found), checkpoint.identity(place)
    if fitted not in (None, given):
        raise FittedPartMismatch(f"{model} reads units of tokenizer {fitted}; {place} is {given}")
    if num_units(reader) > generator.num_units:
        raise FittedPartMismatch(f"{place} makes {num_units(reader)} units; {model} knows {generator.num_units}")
    return generator, reader


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
        model: name or folder of a Generator, or one and its tokenizer, loaded.
        tokenizer: another checkpoint than the one that the Generator keeps.
        sample_rate_hz: the rate of samples given as an array.
        predict_durations: merge repeated units and let the Generator decide how long each lasts.
        device: where checkpoints are loaded.

    Raises:
        CheckpointError: no Generator, no tokenizer, or two that do not belong together.
        AudioError: not a recording, or shorter than one frame.
        InputError, ConfigError: durations are asked of what predicts none.
    """
    generator, reader = model if isinstance(model, tuple) else load_pair(model, tokenizer, device=device)
    clip = as_clip(audio, sample_rate_hz)
    units = read_units(reader, clip, dedup=predict_durations)
    made = generator.generate(units, predict_durations=predict_durations)
    return Resynthesis(clip=made, units=units, heard_s=clip.duration_s)
