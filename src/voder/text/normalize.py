"""Text as it is scored: what was said, without how it is written."""

import re
import unicodedata


def normalize_words(text: str) -> str:
    """Compatibility forms, lower case, apostrophes inside words kept, other punctuation out, single spaces.

    Hyphens part words; digits stay digits. `"It's  5 o’clock -- no, SIX!"` becomes `"it's 5 o'clock no six"`.
    """
    lowered = unicodedata.normalize("NFKC", text).casefold().replace("’", "'").replace("ʼ", "'")
    kept = "".join(c if _is_word_character(c) else " " for c in lowered)
    return " ".join(word for raw in kept.split() if (word := raw.strip("'")))


def _is_word_character(character: str) -> bool:
    return character == "'" or unicodedata.category(character)[0] in "LMN"


def spell(text: str) -> str:
    """Collapse white space and bring text to composed form (NFC), keeping case and punctuation."""
    return re.sub(r"\s+", " ", unicodedata.normalize("NFC", text)).strip()
