"""Recordings as codes and as units: a token store of a codec with one of a unit tokenizer inside it.

    tokens/            what `voder tokenize DATA --tokenizer CODEC -o tokens` writes
    tokens/units/      what the same makes with a unit tokenizer, of the same recordings

What a tokenizer had to leave out is missing in its store alone, so the two are joined by the ids of the recordings.
"""

from pathlib import Path

import numpy as np
from jaxtyping import Int64

from voder.data.manifest import Utterance
from voder.data.shards import TokenStore
from voder.errors import TokensError

UNITS_FOLDER = "units"
_SLACK_S = 0.3
"""How far a recording's lengths in units and in codes may differ: encoders drop what fills no whole window."""


class PairedSplit:
    """The recordings of one split that both stores hold."""

    def __init__(self, codes: TokenStore, units: TokenStore, name: str) -> None:
        """Raises TokensError when the two have nothing in common, or lengths that cannot be of one recording."""
        self._codes, self._units = codes.split(name), units.split(name)
        numbers = {self._units.utterance(number).id: number for number in range(len(self._units))}
        pairs = [
            (number, numbers[found.id])
            for number in range(len(self._codes))
            if (found := self._codes.utterance(number)).id in numbers
        ]
        if not pairs:
            raise TokensError(
                f"{units.folder} and {codes.folder} have no recording of split {name} in common: tokenize the same data"
            )
        self._pairs = np.array(pairs, np.int64)
        self.lengths: Int64[np.ndarray, " item"] = self._codes.lengths[self._pairs[:, 0]]
        """frames of each recording"""
        self.unit_lengths: Int64[np.ndarray, " item"] = self._units.lengths[self._pairs[:, 1]]
        """units of each recording"""
        self._check_lengths(codes, units)

    def __len__(self) -> int:
        return len(self._pairs)

    def codes(self, index: int) -> Int64[np.ndarray, "codebook frame"]:
        """Codes of one recording."""
        return self._codes.codes(int(self._pairs[index, 0]))

    def units(self, index: int) -> Int64[np.ndarray, " position"]:
        """Units of one recording, repeats kept."""
        return self._units.codes(int(self._pairs[index, 1]))[0]

    def utterance(self, index: int) -> Utterance:
        """Who said what in one recording."""
        return self._codes.utterance(int(self._pairs[index, 0]))

    def _check_lengths(self, codes: TokenStore, units: TokenStore) -> None:
        seconds = self.lengths / codes.tokenizer.frame_rate_hz
        apart = np.abs(seconds - self.unit_lengths / units.tokenizer.frame_rate_hz)
        worst = int(apart.argmax())
        if apart[worst] > _SLACK_S:
            raise TokensError(
                f"{self.utterance(worst).id} lasts {seconds[worst]:.2f} s by its codes but "
                f"{self.unit_lengths[worst] / units.tokenizer.frame_rate_hz:.2f} s by its units: one of "
                f"{codes.folder} and {units.folder} was made of other recordings"
            )


class PairedStore:
    """A folder of codes with units inside, opened for reading."""

    def __init__(self, folder: Path) -> None:
        """Raises TokensError when either is missing, or the inner one is not of units."""
        self.codes = TokenStore.open(folder)
        inner = folder / UNITS_FOLDER
        if not inner.is_dir():
            raise TokensError(
                f"{folder} holds codes but no units: run `voder tokenize` on the same data with a unit tokenizer "
                f"(a hubert with cluster centres) and -o {inner}"
            )
        self.units = TokenStore.open(inner)
        if self.units.tokenizer.num_codebooks != 1:
            raise TokensError(
                f"{inner} holds {self.units.tokenizer.num_codebooks} codebooks of {self.units.tokenizer.system}; "
                "a unit tokenizer has one"
            )
        self._splits: dict[str, PairedSplit] = {}

    def split(self, name: str) -> PairedSplit:
        """One split. Raises TokensError for a name that a store does not have."""
        if name not in self._splits:
            self._splits[name] = PairedSplit(self.codes, self.units, name)
        return self._splits[name]
