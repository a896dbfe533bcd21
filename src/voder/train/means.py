"""Means of step figures over a stretch of steps; part of what a resumed run starts from."""

from collections.abc import Mapping


class Means:
    """Sums and counts by name."""

    def __init__(self) -> None:
        self.sums: dict[str, float] = {}
        self.counts: dict[str, int] = {}

    def add(self, figures: Mapping[str, float]) -> None:
        """Add one step."""
        for name, value in figures.items():
            self.sums[name] = self.sums.get(name, 0.0) + value
            self.counts[name] = self.counts.get(name, 0) + 1

    def means(self) -> dict[str, float]:
        """The means since the last `clear`."""
        return {name: total / self.counts[name] for name, total in self.sums.items()}

    def clear(self) -> None:
        """Start again."""
        self.sums, self.counts = {}, {}
