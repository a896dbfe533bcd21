"""How a language model goes on: greedy, sampled or by beams, with the options that every verb of text takes."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool
from torch import Tensor

from voder.config import nearest
from voder.errors import ConfigError
from voder.generate.beam import BeamConfig, beam_search
from voder.generate.decode import Decoded, Limits, Session, decode
from voder.generate.sampling import SamplingConfig


@dataclass(frozen=True, kw_only=True)
class GenerateConfig:
    """What is said, and how long it may be."""

    max_new: int = 200
    """Most ids."""
    min_new: int = 0
    """Fewest ids before the end is allowed."""
    num_beams: int = 1
    """More than one searches by beams; nothing is random then."""
    length_penalty: float = 1.0
    """Of beams: hypotheses are ranked by log probability / length ** length_penalty."""
    greedy: bool = True
    """Without beams: the most probable id; nothing is random."""
    temperature: float = 1.0
    """Without beams and not greedy, like all below: under 1 sharpens, above 1 flattens."""
    top_k: int = 0
    """Only the k most probable ids; 0 allows all."""
    top_p: float = 1.0
    """Only the most probable ids that together reach this probability."""
    repetition_penalty: float = 1.0
    """Logits of recently said ids are divided (positive) or multiplied (negative) by this."""
    repetition_window: int = 0
    """How many of the last ids count as recent."""

    def __post_init__(self) -> None:
        if self.max_new < 1 or not 0 <= self.min_new <= self.max_new:
            raise ConfigError(f"max_new {self.max_new} must be at least 1, and min_new {self.min_new} from 0 to it")
        for check in (self.sampling, self.beams):  # each checks its own settings
            check()

    def sampling(self) -> SamplingConfig:
        """The part that chooses ids without beams."""
        return SamplingConfig(
            greedy=self.greedy,
            temperature=self.temperature,
            top_k=self.top_k,
            top_p=self.top_p,
            repetition_penalty=self.repetition_penalty,
            repetition_window=self.repetition_window,
        )

    def beams(self) -> BeamConfig:
        """The part that searches."""
        return BeamConfig(num_beams=self.num_beams, length_penalty=self.length_penalty)

    def changed(self, **options: Any) -> "GenerateConfig":
        """The same with other options; asking for a way to sample turns beams and greed off.

        Raises:
            ConfigError: an unknown option, one out of its range, or two that leave each other nothing to do.
        """
        known = [field.name for field in dataclasses.fields(self)]
        for name in options:
            if name not in known:
                raise ConfigError(f"there is no decoding option {name!r}{nearest(name, known)}")
        sampled = [name for name in ("temperature", "top_k", "top_p") if name in options]
        repeats = [name for name in ("repetition_penalty", "repetition_window") if name in options]
        beams = options.get("num_beams", 1) > 1 or "length_penalty" in options
        if beams and (sampled or repeats or "greedy" in options):
            idle = [*sampled, *repeats, *(["greedy"] if "greedy" in options else [])]
            raise ConfigError(
                f"a search by beams leaves nothing for {', '.join(idle)} to choose; give one or the other"
            )
        if options.get("greedy") and sampled:
            raise ConfigError(f"greedy leaves nothing for {', '.join(sampled)} to choose; give one or the other")
        if sampled or repeats or "greedy" in options:
            options = {"num_beams": 1, **options}
        if sampled:
            options = {"greedy": False, **options}
        return dataclasses.replace(self, **options)


def generate_ids(
    session: Session,
    how: GenerateConfig,
    *,
    end_ids: Sequence[int],
    generators: Sequence[torch.Generator],
    allowed: Bool[Tensor, " vocabulary"] | None = None,
    room: Sequence[int] | None = None,
) -> list[Decoded]:
    """Go on from what a session reads, every row as if it were alone.

    Args:
        end_ids: ids that end a row and are not part of what it says.
        generators: one per row; not drawn from when nothing is random.
        allowed: ids that may be said; all if not given.
        room: most ids that each row has positions for.
    """
    count = len(generators)
    longest = [how.max_new] * count if room is None else [min(how.max_new, each) for each in room]
    limits = Limits(
        end_ids=tuple(end_ids),
        max_lengths=longest,
        min_lengths=[how.min_new] * count,
        allowed=allowed,
    )
    if how.num_beams == 1:
        return decode(session, how.sampling(), limits, generators)
    best = [hypotheses[0] for hypotheses in beam_search(session, how.beams(), limits)]
    return [Decoded(list(each.ids), each.stop_reason, each.log_probability) for each in best]
