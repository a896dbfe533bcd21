"""How the spectral codec is trained, and what it is made of, in the survey's words."""

from collections.abc import Mapping

from voder.systems.spectral.config import SpectralConfig
from voder.train.stages import Stage

STAGES: dict[str, Stage] = {
    "codec": Stage(
        summary="the whole codec at once: spectra without a quantizer for a moment, then with it",
        section="ours; the decoder is that of 2306.00814, section 3",
        data="a folder that `voder prepare` made",
        losses={"log-mel distance": 1.0, "relative error of linear mels": 0.5, "commitment": 0.25},
    )
}


def anatomy(config: SpectralConfig) -> Mapping[str, str]:
    """The parts of a codec."""
    rate = config.sample_rate_hz / (config.hop * config.reduction)
    return {
        "encoder": (
            f"{config.num_bands} log-mel bands at {config.sample_rate_hz} Hz, {config.encoder_blocks + 1} ConvNeXt "
            f"blocks x {config.channels}, {rate:g} frames/s; residual vector quantizer, {config.num_codebooks} x "
            f"{config.codebook_size} codes"
        ),
        "generator": f"{config.decoder_blocks} ConvNeXt blocks x {config.channels}, inverse STFT of {config.n_fft}",
    }
