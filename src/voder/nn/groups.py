"""Items of one size together: what a network that feels padding (reflection, LSTMs both ways) needs of a batch."""

from collections import defaultdict
from collections.abc import Iterator, Sequence


def equal_groups(sizes: Sequence[int], most: int) -> Iterator[list[int]]:
    """Positions of equal size, in runs whose sizes sum to at most `most`."""
    by_size: dict[int, list[int]] = defaultdict(list)
    for position, size in enumerate(sizes):
        by_size[size].append(position)
    for size, positions in by_size.items():
        step = max(1, most // max(size, 1))
        yield from (positions[i : i + step] for i in range(0, len(positions), step))
