"""How the recogniser is trained, and what it is made of, in the survey's words."""

import math
from collections.abc import Mapping

from voder.systems.ctc.config import CtcConfig
from voder.train.stages import Stage

STAGES: dict[str, Stage] = {
    "ctc": Stage(
        summary="the whole network from labelled recordings, without an alignment",
        section="Graves et al. 2006, sections 3 and 4; augmentation: 1904.08779",
        data="recordings with texts, from `voder prepare`",
        losses={"CTC": 1.0},
    )
}


def anatomy(config: CtcConfig) -> Mapping[str, str]:
    """The parts of a recogniser: it has no language model."""
    rate = config.mel.sample_rate_hz / config.mel.hop / math.prod(config.stem_strides)
    units = f"{len(config.symbols)} {config.unit}" if config.symbols else config.unit
    return {
        "encoder": (
            f"{config.mel.num_bands} log-mel bands at {config.mel.sample_rate_hz} Hz, {len(config.dilations)} dilated "
            f"convolutions x {config.channels}, {rate:g} positions/s; a linear layer to {units} and the blank"
        )
    }
