"""One measured number, with all that is needed to judge it: how many, chance, what was promised, who judged."""

import math
from dataclasses import asdict, dataclass
from typing import Any, Literal

Unit = Literal["%", "dB", "s", "MB", "bit/s", ""]
Verdict = Literal["aim met", "met", "missed", "reported"]

_NO_BREAK_SPACE = "\u00a0"
_DECIMALS: dict[str, int] = {"%": 1, "dB": 1, "s": 1, "MB": 0, "bit/s": 0, "": 3}


@dataclass(frozen=True, kw_only=True)
class Figure:
    """A measured number beside chance, the promise and the same judge's number on the originals.

    `chance`, `must`, `aim`, `originals` and `interval` are in the unit of `value`; a percentage of 3 is 3.0.

    Raises:
        ValueError: a number is NaN or infinite, or the aim is weaker than the must.
    """

    name: str
    """What was measured, unique within a report."""
    value: float | None
    """The number; None where it could not be measured (say why in `note`)."""
    unit: Unit = ""
    """The unit of every number here."""
    n: int | None = None
    """How many clips, strings or words the number is over (say which in `note`)."""
    chance: float | None = None
    """What knowing nothing would give."""
    must: float | None = None
    """The promise."""
    aim: float | None = None
    """What is hoped for."""
    judge: str | None = None
    """The recogniser or measure that judged."""
    originals: float | None = None
    """The same judge's number on the original recordings."""
    interval: tuple[float, float] | None = None
    """The 95 % interval of the value."""
    note: str = ""
    """One line of context."""
    lower_is_better: bool = True
    """Whether small is good, as for error rates."""

    def __post_init__(self) -> None:
        numbers = (self.value, self.chance, self.must, self.aim, self.originals, *(self.interval or ()))
        if any(number is not None and not math.isfinite(number) for number in numbers):
            raise ValueError(f"figure {self.name!r} has a number that is not finite; give None and say why in `note`")
        if self.must is not None and self.aim is not None and not self._reaches(self.aim, self.must):
            raise ValueError(f"figure {self.name!r} has aim {self.aim:g}, weaker than its must {self.must:g}")

    def _reaches(self, value: float, limit: float) -> bool:
        return value <= limit if self.lower_is_better else value >= limit

    def verdict(self) -> Verdict:
        """Hold the value against aim and must. A must that was not measured is missed; an aim alone is never missed."""
        if self.value is not None and self.aim is not None and self._reaches(self.value, self.aim):
            return "aim met"
        if self.must is None:
            return "reported"
        return "met" if self.value is not None and self._reaches(self.value, self.must) else "missed"

    def shown(self, number: float | None = None) -> str:
        """Write the value, or another number of the same unit, for a reader: `3.0 %`, `1,600 bit/s`, `0.871`.

        A value beyond a limit is never rounded onto it: 5.04 against a must of 5 is `5.04 %`.
        """
        number = self.value if number is None else number
        if number is None:
            return "not measured"
        decimals = _DECIMALS[self.unit]
        limits = [limit for limit in (self.must, self.aim) if limit is not None and limit != number]
        while decimals < 6 and any(round(number, decimals) == round(limit, decimals) for limit in limits):
            decimals += 1
        return self._with_unit(f"{number:,.{decimals}f}")

    def limit(self, number: float) -> str:
        """Write a must or an aim without needless decimals: `5 %`."""
        digits = f"{number:,.{_DECIMALS[self.unit] + 1}f}"
        return self._with_unit(digits.rstrip("0").rstrip("."))

    def shown_interval(self) -> str:
        """Write the 95 % interval, the unit once: `0.7 – 5.4 %`; empty where there is none."""
        if self.interval is None:
            return ""
        low, high = (f"{number:,.{_DECIMALS[self.unit]}f}" for number in self.interval)
        return self._with_unit(f"{low} – {high}")

    def _with_unit(self, text: str) -> str:
        return f"{text}{_NO_BREAK_SPACE}{self.unit}" if self.unit else text

    @property
    def sign(self) -> str:
        """The relation a value must have to its limits."""
        return "≤" if self.lower_is_better else "≥"

    def to_dict(self) -> dict[str, Any]:
        """Return plain JSON values, the verdict among them."""
        return {**asdict(self), "interval": list(self.interval) if self.interval else None, "verdict": self.verdict()}
