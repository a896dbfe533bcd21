"""Whisper's text normalisation before words are compared (2212.04356, appendix C): spelling, numbers, contractions.

The rules are those in transformers; the British-to-American spelling list is OpenAI's (MIT, in `tables/`).
"""

import gzip
import json
from collections.abc import Callable
from functools import lru_cache
from typing import Any

from voder.systems.whisper.tokenizer import TABLES


def normalize_text(text: str, language: str | None = "en", *, keep_diacritics: bool = True) -> str:
    """English with all rules; other languages in lower case without punctuation and brackets' content."""
    return str(_english()(text) if language == "en" else _basic(keep_diacritics)(text))


@lru_cache(maxsize=1)
def _english() -> Any:
    from transformers.models.whisper.english_normalizer import EnglishTextNormalizer

    spelling = json.loads(gzip.decompress((TABLES / "english.json.gz").read_bytes()))
    normalizer: Callable[[dict[str, str]], Any] = EnglishTextNormalizer
    return normalizer(spelling)


@lru_cache(maxsize=2)
def _basic(keep_diacritics: bool) -> Any:
    from transformers.models.whisper.english_normalizer import BasicTextNormalizer

    return BasicTextNormalizer(remove_diacritics=not keep_diacritics)
