"""Keys and values of the positions that a decoder has already seen.

The room for a whole utterance is taken once and filled from the front, so a decoding step copies one position
per layer instead of concatenating (and so re-copying) the whole past.
"""

from torch import Tensor


class StaticCache:
    """Preallocated keys and values of all layers; every row of the batch fills the same slot at the same time.

    Rows of different lengths leave slots unused: the caller's attention mask says which slots hold something.
    """

    def __init__(self, num_layers: int, capacity: int) -> None:
        self.capacity = capacity
        self.length = 0
        """Slots filled so far."""
        self._keys: list[Tensor | None] = [None] * num_layers
        self._values: list[Tensor | None] = [None] * num_layers
        self._positions: Tensor | None = None

    def append(self, layer: int, keys: Tensor, values: Tensor) -> tuple[Tensor, Tensor]:
        """Write `[batch, head, position, channel]` behind the past of one layer and return past and present.

        The write lands at `length`; call `advance` once after the last layer.
        """
        end = self.length + keys.shape[2]
        if end > self.capacity:
            raise ValueError(f"the cache holds {self.capacity} positions; {end} are needed")
        all_keys, all_values = self._keys[layer], self._values[layer]
        if all_keys is None or all_values is None:
            shape = (*keys.shape[:2], self.capacity, keys.shape[3])
            all_keys, all_values = keys.new_zeros(shape), values.new_zeros(shape)
            self._keys[layer], self._values[layer] = all_keys, all_values
        all_keys[:, :, self.length : end] = keys
        all_values[:, :, self.length : end] = values
        return all_keys[:, :, :end], all_values[:, :, :end]

    def append_positions(self, positions: Tensor) -> Tensor:
        """Write the positions `[batch, position]` of new slots and return those of past and present."""
        if self._positions is None:
            self._positions = positions.new_zeros(positions.shape[0], self.capacity)
        end = self.length + positions.shape[1]
        self._positions[:, self.length : end] = positions
        return self._positions[:, :end]

    def advance(self, num_positions: int) -> None:
        """Count `num_positions` as filled in every layer."""
        self.length += num_positions

    def select(self, rows: Tensor) -> None:
        """Keep the batch rows `rows`, in that order; a row may be kept twice (beams) or dropped (finished)."""
        self._keys = [None if keys is None else keys.index_select(0, rows) for keys in self._keys]
        self._values = [None if values is None else values.index_select(0, rows) for values in self._values]
        self._positions = None if self._positions is None else self._positions.index_select(0, rows)
