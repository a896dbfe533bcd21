"""How far one waveform is from another."""

import warnings
from typing import Literal

import numpy as np
import torch
from jaxtyping import Float

from voder.audio.features import LogMel, MelConfig
from voder.errors import ConfigError

Signal = Float[np.ndarray, " sample"]
Estimate = Float[np.ndarray, " estimated_sample"]
"""A signal whose length is compared here, so that the message is ours."""

STOI_MIN_S = 0.4
"""STOI looks at windows of 384 ms of speech: a clip with less is repeated three times, its partner too."""


def si_sdr(reference: Signal, estimate: Estimate, *, zero_mean: bool = True) -> float:
    """Scale-invariant signal-to-distortion ratio in dB (Le Roux et al., 1811.02508, eq. 3), both made zero-mean.

    Raises ValueError for signals of different lengths or a silent reference.
    """
    target, given = _pair(reference, estimate)
    if zero_mean:
        target, given = target - target.mean(), given - given.mean()
    energy = float(target @ target)
    if energy == 0:
        raise ValueError("SI-SDR has no meaning for a silent reference")
    projected = (float(given @ target) / energy) * target
    error = float(((projected - given) ** 2).sum())
    return float(10 * np.log10(float((projected**2).sum()) / error)) if error > 0 else float("inf")


def snr(reference: Signal, estimate: Estimate) -> float:
    """Signal-to-noise ratio in dB: everything that the estimate adds, changes or scales is noise.

    Raises ValueError for signals of different lengths or a silent reference.
    """
    target, given = _pair(reference, estimate)
    energy = float(target @ target)
    if energy == 0:
        raise ValueError("SNR has no meaning for a silent reference")
    error = float(((target - given) ** 2).sum())
    return float(10 * np.log10(energy / error)) if error > 0 else float("inf")


def log_mel_distance(reference: Signal, estimate: Estimate, sample_rate_hz: int, *, floor: float = 1e-2) -> float:
    """Mean absolute difference of natural log-mels (64 bands, 40 ms windows every 10 ms, magnitudes above `floor`)."""
    target, given = _pair(reference, estimate)
    hop = sample_rate_hz // 100
    mel = LogMel(MelConfig(sample_rate_hz=sample_rate_hz, n_fft=4 * hop, hop=hop, num_bands=64, floor=floor))
    with torch.no_grad():
        ours, theirs = (mel(torch.from_numpy(x.astype(np.float32))[None]) for x in (given, target))
    return float((ours - theirs).abs().mean())


def stoi(reference: Signal, estimate: Estimate, sample_rate_hz: int, *, extended: bool = False) -> float:
    """Short-time objective intelligibility (Taal et al., 2011; extended: Jensen & Taal, 2016) by pystoi, 0 to 1.

    Clips with less than 0.4 s of speech are repeated three times before scoring. NaN when that is not enough.

    Raises:
        ConfigError: pystoi is not installed.
    """
    try:
        from pystoi import stoi as measure
    except ImportError as error:
        raise ConfigError("STOI needs the metrics extra: pip install 'voder[metrics]'") from error
    target, given = _pair(reference, estimate)
    for repeats in (1, 3):
        if repeats * len(target) < STOI_MIN_S * sample_rate_hz:
            continue
        with warnings.catch_warnings():
            warnings.filterwarnings("error", message="Not enough STFT frames")
            try:
                pair = np.tile(target, repeats), np.tile(given, repeats)
                return float(measure(*pair, sample_rate_hz, extended=extended))
            except RuntimeWarning:
                continue
    return float("nan")


def pesq(
    reference: Signal, estimate: Estimate, sample_rate_hz: int, *, band: Literal["wide", "narrow"] = "wide"
) -> float:
    """Perceptual evaluation of speech quality by the pesq package: wide band (P.862.2) or narrow band (P.862), to 4.6.

    Raises:
        ConfigError: pesq is not installed, or no such rate: wide takes 16000 Hz, narrow 8000 or 16000 Hz.
        ValueError: signals of different lengths, or without speech.
    """
    allowed = (16_000,) if band == "wide" else (8_000, 16_000)
    if sample_rate_hz not in allowed:
        rates = " or ".join(map(str, allowed))
        raise ConfigError(f"PESQ ({band} band) takes {rates} Hz, not {sample_rate_hz}: resample")
    try:
        from pesq import PesqError
        from pesq import pesq as measure
    except ImportError as error:
        raise ConfigError("PESQ needs the pesq package (it is compiled on installation): pip install pesq") from error
    target, given = _pair(reference, estimate)
    if not target.any():
        raise ValueError("PESQ has no meaning for a silent reference")
    try:
        return float(measure(sample_rate_hz, target, given, "wb" if band == "wide" else "nb"))
    except PesqError as error:
        raise ValueError(f"PESQ cannot judge these signals: {error}") from error


def _pair(reference: Signal, estimate: Estimate) -> tuple[np.ndarray, np.ndarray]:
    if reference.shape != estimate.shape:
        raise ValueError(f"signals of {len(reference)} and {len(estimate)} samples cannot be compared; cut them first")
    return reference.astype(np.float64), estimate.astype(np.float64)
