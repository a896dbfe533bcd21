"""Semantic codes to audio: SoundStorm fills the other codebooks, the codec inside its checkpoint decodes them."""

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import nn

from voder import hub
from voder.checkpoint import Checkpoint, fitted_part
from voder.data.randomness import torch_generator
from voder.errors import InputError
from voder.roles import Codec, Encoded, Generator, device_of
from voder.sequence.masks import length_mask
from voder.shapes import Audio, Codes, Lengths, Tokens
from voder.systems.soundstorm.model import SoundStorm
from voder.systems.soundstorm.refine import RefineConfig, refine, refine_as_published


class SoundStormGenerator(Generator):
    """The Generator role over a codec's first codebook."""

    def __init__(self, model: SoundStorm, codec: Codec) -> None:
        super().__init__()
        self.model, self.codec = model, codec
        self.sample_rate_hz, self.hop = codec.sample_rate_hz, codec.hop
        self.num_units = model.config.num_semantic

    def fill(
        self,
        units: Tokens,
        lengths: Lengths,
        *,
        prompt: np.ndarray | None = None,
        seed: int = 0,
        as_published: bool = False,
        **options: Any,
    ) -> Codes:
        """All codebooks of semantic codes, each row as if it were alone.

        Args:
            prompt: codes `[codebook, frame]` of a recording whose voice is wanted.
            as_published: decode as the code behind the published weights does (of the options, `steps` counts).
            options: of `RefineConfig`.

        Raises:
            TokensError: codes that this model does not have.
            ConfigError: an option that is out of range.
        """
        how = RefineConfig(**options)
        device, rows = device_of(self.model), len(units)
        units, lengths = units.to(device), lengths.to(device)
        known = None
        if prompt is not None:
            given = torch.from_numpy(np.asarray(prompt)).to(device).long()[None].expand(rows, -1, -1)
            units = torch.cat((given[:, 0], units), dim=1)
            known, lengths = given[:, 1:].transpose(1, 2), lengths + given.shape[2]
        if as_published:
            levels = self._as_published(units, lengths, known, how.steps, seed)
        else:
            generators = [torch_generator(seed, "refine") for _ in range(rows)]
            levels = refine(self.model, units, lengths, how, generators, prompt=known)
        codes = torch.cat((units[:, None], levels.transpose(1, 2)), dim=1)
        return codes[:, :, 0 if prompt is None else prompt.shape[1] :]

    def _as_published(
        self, units: Tokens, lengths: Lengths, known: torch.Tensor | None, steps: int, seed: int
    ) -> torch.Tensor:
        levels = units.new_zeros(*units.shape, self.model.config.num_levels)
        for row, length in enumerate(lengths.tolist()):
            draw = partial(torch.rand, generator=torch_generator(seed, "refine"))
            levels[row, :length] = refine_as_published(
                self.model,
                units[row : row + 1, :length],
                steps=steps,
                draw=draw,
                prompt=None if known is None else known[row : row + 1],
            )[0]
        return levels

    @torch.no_grad()
    def generate_batch(
        self, units: Tokens, lengths: Lengths | None = None, *, predict_durations: bool = False
    ) -> tuple[Audio, Lengths]:
        """Audio of semantic codes, one per frame.

        Raises:
            InputError: durations are asked for, which a codec's codes do not need.
            TokensError: codes that this model does not have.
        """
        if predict_durations:
            raise InputError("soundstorm reads one code per frame and predicts no durations: keep repeated codes")
        if lengths is None:
            lengths = torch.full((len(units),), units.shape[1], device=units.device)
        inside = length_mask(lengths, units.shape[1])
        codes = self.fill(units.masked_fill(~inside, 0), lengths)
        counts = lengths.to(codes.device)
        encoded = Encoded(codes=codes, lengths=counts, num_samples=counts * self.hop)
        return self.codec.decode_batch(encoded), counts * self.hop


def load_generator(model: nn.Module, found: Checkpoint) -> SoundStormGenerator:
    """Join a loaded model with the codec inside its checkpoint.

    Raises:
        CheckpointError: the checkpoint holds no codec.
        FittedPartMismatch: it holds another one than the model was trained on.
    """
    assert isinstance(model, SoundStorm)
    return SoundStormGenerator(model, hub.load_codec(fitted_part(found, "codec", model.config.codec_identity)))
