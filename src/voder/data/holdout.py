"""Strings that training never composes, chosen by a hash of their words.

Training composes strings out of single clips, so a test needs strings that it cannot have met. Whether a string
is held out depends on its text alone: training and evaluation agree without a list, on every machine.
"""

import hashlib
from collections.abc import Sequence

from voder.data.randomness import generator
from voder.errors import ConfigError
from voder.text.normalize import normalize_words

HELD_OUT_WORDS = (3, 4, 5)
"""Numbers of words of the strings that can be held out: shorter ones are too few to withhold."""


def is_held_out(text: str, fraction: float) -> bool:
    """True for strings of 3 to 5 words whose hash falls into `fraction` of all hashes."""
    words = normalize_words(text).split()
    if len(words) not in HELD_OUT_WORDS:
        return False
    digest = hashlib.sha256(("held out: " + " ".join(words)).encode()).digest()
    return int.from_bytes(digest[:8], "big") < fraction * 2**64


def held_out_strings(words: Sequence[str], count: int, *, fraction: float, seed: int = 0) -> list[str]:
    """Draw `count` different held-out strings over `words`, of 3, 4 and 5 words in turn.

    Raises:
        ConfigError: `words` and `fraction` do not yield that many.
    """
    rng = generator(seed, "held out strings")
    found: dict[str, None] = {}
    tries = max(100_000, 20 * int(count / max(fraction, 1e-6)))
    for _ in range(tries):
        if len(found) == count:
            break
        length = HELD_OUT_WORDS[len(found) % len(HELD_OUT_WORDS)]
        text = " ".join(words[i] for i in rng.integers(len(words), size=length))
        if is_held_out(text, fraction):
            found[text] = None
    if len(found) < count:
        raise ConfigError(
            f"only {len(found)} of {count} held-out strings exist over {len(words)} words with "
            f"held_out_fraction={fraction}; raise it or ask for fewer"
        )
    return list(found)
